"""Commits one by one: their events as of any schema, their headers, their digests, and whether the chain holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from tapeline.errors import TapelineError
from tapeline.log import GENESIS, EventLog, StoredCommit, wire
from tapeline.log.codec import digest, link, read_brief
from tapeline.replay.reading import Line, codec, find_ref
from tapeline.subjects import ref_of

Schema = Literal["newest", "stored"]


@dataclass(frozen=True, slots=True)
class StoredLine(Line):
    """One event with the data as it was stored, in the schema that it has there."""

    raw: dict[str, Any]

    def data(self) -> dict[str, Any]:
        """The event's data as JSON."""
        return self.raw


@dataclass(frozen=True, slots=True)
class RawCommit:
    """One commit as it is stored; `is_chained` says whether it names the digest of the one before it."""

    commit: StoredCommit
    digest: str
    is_chained: bool

    def to_json(self) -> dict[str, Any]:
        """The bytes as text, with stable keys."""
        commit = self.commit
        return {
            "position": commit.position,
            "subject": commit.subject,
            "stored_at": wire.time_text(commit.stored_at),
            "header": commit.header.decode(errors="replace"),
            "body": commit.body.decode(errors="replace"),
            "digest": self.digest,
            "is_chained": self.is_chained,
        }


@dataclass(frozen=True, slots=True)
class ShownCommit:
    """One commit with all that its header says, the check of its chain, and its events."""

    raw: RawCommit
    lines: tuple[Line, ...]

    def fields(self) -> dict[str, Any]:
        """What there is beside the events, with stable keys."""
        commit = self.raw.commit
        ref = ref_of(commit.subject)
        return {
            "position": commit.position,
            "stored_at": wire.time_text(commit.stored_at),
            "aggregate": f"{ref.team}/{ref}",
            "header": msgspec.json.decode(commit.header),
            "digest": self.raw.digest,
            "is_chained": self.raw.is_chained,
        }

    def to_json(self) -> dict[str, Any]:
        """All of the commit, with stable keys."""
        return self.fields() | {"events": [line.to_json() for line in self.lines]}


async def show(
    log: EventLog,
    place: str,
    team: str | None = None,
    *,
    schema: Schema = "newest",
) -> list[Line]:
    """Every event of an aggregate `<team>/<kind>/<id>`, or of the commit at a position.

    Parameters
    ----------
    schema
        `newest` reads events as today's code does, `stored` gives their data as they were written.

    Raises
    ------
    TapelineError
        `not_found` when there is none.
    """
    return [line for raw in await show_raw(log, place, team) for line in _lines(raw.commit, schema)]


async def show_commit(log: EventLog, position: int, *, schema: Schema = "newest") -> ShownCommit:
    """The commit at a position with its header, its digest, and whether it follows the one before it.

    Raises
    ------
    TapelineError
        `not_found` for a position that the log does not have, `log_damaged` when it cannot be read: `show_raw`
        gives the bytes.
    """
    (raw,) = await show_raw(log, str(position))
    return ShownCommit(raw, tuple(_lines(raw.commit, schema)))


async def show_raw(log: EventLog, place: str, team: str | None = None) -> list[RawCommit]:
    """The commits of an aggregate, or the one at a position, undecoded and with the check of their chain.

    Raises
    ------
    TapelineError
        `not_found` when there is none.
    """
    if place.isdigit():
        position = int(place)
        found = await log.page(after=position - 1, limit=1) if position else []
        is_there = bool(found) and found[0].position == position
        chain = await log.load(ref_of(found[0].subject), upto=position) if is_there else []
    else:
        position, chain = 0, await log.load(await find_ref(log, place, team))
    if not chain:
        end = (await log.head()).position
        told = f"no position {place} in the log, which ends at {end}" if place.isdigit() else f"no event of {place}"
        raise TapelineError(told, code="not_found", hint="tapeline log tail")
    prev, shown = GENESIS, []
    for commit in chain:
        if position in (0, commit.position):
            own = digest(commit.subject, commit.header, commit.body)
            shown.append(RawCommit(commit, own, _names(commit, prev)))
        prev = _next(commit)
    return shown


def _names(commit: StoredCommit, prev: str) -> bool:
    try:
        return read_brief(commit.header, commit.position).prev == prev
    except TapelineError:
        return False  # what cannot be read names nothing, and is to be looked at all the same


def _next(commit: StoredCommit) -> str:
    try:
        return link(commit)
    except TapelineError:
        return digest(commit.subject, commit.header, commit.body)


def _lines(commit: StoredCommit, schema: Schema) -> list[Line]:
    events = codec().decode(commit)
    if schema == "newest":
        return [Line(event) for event in events]
    stored = msgspec.json.decode(commit.body, type=list[dict[str, Any]])
    return [StoredLine(event, found["data"]) for event, found in zip(events, stored, strict=True)]
