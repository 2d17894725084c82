"""Projections that every log has: an index of its events, and with PostgreSQL an exact second copy.

Both are folded from whole commits, a moment later than what a service answers from: nobody waits for them.
"""

from __future__ import annotations

from tapeline.database import Engine
from tapeline.log import EventLog
from tapeline.projections.projector import Projector
from tapeline.projections.source import CommitSource
from tapeline.projections.standard import commits, event_index
from tapeline.projections.tail import Tail


def standard(log: EventLog | Tail, engine: Engine) -> list[Projector]:
    """The standard projections of a log in a database; a file of SQLite has no room for a second copy."""
    source = CommitSource(log)
    found = [Projector(source, event_index, engine)]
    if engine.dialect.name != "sqlite":
        found.append(Projector(source, commits, engine))
    return found
