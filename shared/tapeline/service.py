"""What every service process has in hand: its broker, the log, its decider loop, its database.

`app.py` of a service is given a `Platform` and gives back its verbs and its tasks; `host` runs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapeline.bus import Verbs
from tapeline.clock import Clock
from tapeline.database import Engine
from tapeline.decider import Deciders
from tapeline.log import EventLog
from tapeline.log.codec import Codec
from tapeline.log.metrics import MetricsStream
from tapeline.log.work import WorkQueue
from tapeline.projections import Projector
from tapeline.store import ArtifactStore

ARCHIVES = "runs"
"""The service that seals the log and keeps its standard projections."""
BUILDS = "assets"
"""The service that shares its work over a queue."""
Task = Callable[[], Coroutine[Any, Any, None]]
Publish = Callable[[str, bytes], Awaitable[None]]
Lead = Callable[[str, Task], Task]
AgentTeams = Callable[[str], Sequence[str]]
"""The teams that an agent is enrolled for, by its name; asked anew each time, so that changes hold at once."""


def by_itself(name: str, task: Task) -> Task:
    """The task as it is: there is no other copy of the service."""
    return task


def own_team_only(agent: str) -> Sequence[str]:
    """The one team of an embedded instance."""
    return ("main",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The parts that a service is composed of.

    `publish` sends a core message (feed, control of agents); `home` is a private folder of the service
    for caches and work that may be lost; `archivist` seals the log and backs it up, where the process has the
    key for it; `standard` says that the standard projections of the log are kept here; `lead` makes of a task
    one that only one of several copies of the service does at a time;
    `archive_metrics_after_s` is how long after its end a run's points go to the artifact store, None for never;
    `builds` shares the work of builds with other processes.
    """

    log: EventLog
    log_id: str
    codec: Codec
    metrics: MetricsStream
    deciders: Deciders
    engine: Engine
    store: ArtifactStore
    clock: Clock
    publish: Publish
    home: Path
    agent_teams: AgentTeams = own_team_only
    archivist: Task | None = None
    standard: bool = False
    lead: Lead = by_itself
    archive_metrics_after_s: float | None = None
    builds: WorkQueue | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A composed service: what it answers, the tables it keeps, and what runs beside.

    `start` runs once the tables are open and before the first request is taken.
    """

    verbs: Verbs
    projectors: Sequence[Projector]
    tasks: Sequence[Task] = field(default_factory=tuple)
    start: Callable[[], Awaitable[None]] | None = None


Build = Callable[[Platform], Service]
"""What each service's `app.py` offers as `build`."""
