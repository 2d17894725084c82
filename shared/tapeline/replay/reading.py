"""The log as lines: its last events, those of one aggregate, those of one commit."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from nats.aio.client import Client

from tapeline.connection import connect, connect_as
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.errors import TapelineError
from tapeline.home import Home, find_home, holder, read_instance
from tapeline.log import EventLog, StoredCommit, StoredEvent
from tapeline.log.codec import Codec
from tapeline.log.erased import ERASED
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.metrics import MetricsStream
from tapeline.security.keys import read_credentials
from tapeline.subjects import Ref, parse_ref, ref_of

if TYPE_CHECKING:
    from tapeline.replay.index import EventIndex

_SHORT = 160


@cache
def codec() -> Codec:
    """The codec of every event that there is."""
    return Codec(EVENTS, UPCASTERS, TOMBSTONES)


@dataclass(frozen=True, slots=True)
class Line:
    """One event as the tools show it."""

    event: StoredEvent

    COLUMNS: ClassVar[tuple[str, ...]] = ("position", "time", "aggregate", "sequence", "type", "actor", "data")

    def data(self) -> dict[str, Any]:
        """The event's data as JSON; of one that was erased whole, that it was."""
        if self.event.is_erased and type(self.event.data).__name__ != self.event.type:
            return dict(ERASED)
        found = asdict(self.event.data) if is_dataclass(self.event.data) else dict(self.event.data)  # type: ignore[arg-type]
        return dict(_plain(found))

    def to_json(self) -> dict[str, Any]:
        """All of the event, with stable keys."""
        event = self.event
        return {
            "position": event.position,
            "index": event.index,
            "id": event.id,
            "created_at": _plain(event.created_at),
            "aggregate": f"{event.ref.team}/{event.ref}",
            "sequence": event.sequence,
            "type": event.type,
            "schema": event.schema,
            "actor": event.actor,
            "command": event.command,
            "command_id": event.command_id,
            "cause": event.cause,
            "correlation_id": event.correlation_id,
            "data": self.data(),
        }

    def cells(self) -> tuple[str, ...]:
        """The event in a row of `COLUMNS`."""
        event = self.event
        text = json.dumps(self.data(), ensure_ascii=False)
        return (
            str(event.position), str(_plain(event.created_at)), f"{event.ref.team}/{event.ref}", str(event.sequence),
            event.type, event.actor, text if len(text) <= _SHORT else text[: _SHORT - 1] + "…",
        )  # fmt: skip


@asynccontextmanager
async def opened(home: Home | None = None, url: str | None = None) -> AsyncIterator[EventLog]:
    """The log of an instance, opened as the replay identity, which can only read.

    When no instance runs, the home's server runs alone meanwhile.

    Raises
    ------
    TapelineError
        `unavailable` when there is no log on the home, `unauthenticated` without `creds/replay.nk`.
    """
    async with opened_with_metrics(home, url) as (log, _):
        yield log


@asynccontextmanager
async def opened_with_metrics(
    home: Home | None = None, url: str | None = None
) -> AsyncIterator[tuple[EventLog, MetricsStream]]:
    """The log and the measurements of an instance; see `opened`."""
    home = home or find_home()
    if url is None:
        instance = read_instance(home)
        if instance is None:
            if not (home.log / "jetstream").exists() or holder(home) is not None:
                raise TapelineError(f"no instance runs on {home.root}", code="unavailable", hint="tapeline up")
            from tapeline.embedded.alone import server_alone

            async with server_alone(home) as alone, opened_with_metrics(home, alone) as both:
                yield both
                return
        url = instance.url
    credentials = read_credentials(home.credential("replay"))
    client = await connect(credentials, url, name="replay")

    async def reading(reader: Client, /, **more: Any) -> None:
        await connect_as(reader, credentials, url, name="replay-read", **more)

    try:
        log = JetStreamLog(client, codec(), connect=reading, role="replay")
        yield log, MetricsStream(client, connect=reading, role="replay")
    finally:
        await client.close()


async def tail(
    log: EventLog,
    *,
    n: int = 20,
    follow: bool = False,
    after: int | None = None,
    team: str | None = None,
    kind: str | None = None,
    aggregate: str | None = None,
    type: str | None = None,
    index: EventIndex | None = None,
) -> AsyncIterator[Line]:
    """The last `n` events, or all after a position, and with `follow` what comes then.

    `aggregate` is written as `<kind>/<id>` or `<team>/<kind>/<id>`. With an `index` the last events of a kind or a type
    are found without reading the log.

    Raises
    ------
    TapelineError
        `invalid` for a position past the end of the log, `not_found` for an aggregate without events, unless it is
        to be waited for.
    """
    decoder = codec()

    def chosen(commit: StoredCommit) -> Iterator[Line]:
        ref = ref_of(commit.subject)
        named = aggregate in (None, str(ref), f"{ref.team}/{ref}")
        if named and (team is None or ref.team == team) and (kind is None or ref.kind == kind):
            yield from (Line(event) for event in decoder.decode(commit) if type is None or event.type == type)

    head = (await log.head()).position
    start = after
    if start is not None and start > head:
        raise TapelineError(
            f"position {start} is past the end of the log ({head})", code="invalid", hint="tapeline log tail -n 1"
        )
    if start is None:
        kept: deque[Line] = deque(maxlen=n)
        # With a filter the last n may lie far back: without an index all of the log is read.
        begin = max(0, head - n)
        if team or kind or aggregate or type:
            begin = 0
            if aggregate is not None:
                # By its subject: nothing of the others is read.
                begin = head
                refs = await _refs(log, aggregate, team)
                found = [one for ref in refs for one in await log.load(ref, upto=head)]
                if not found and not follow:
                    raise TapelineError(f"no event of {aggregate}", code="not_found", hint="tapeline log tail")
                for commit in sorted(found, key=lambda one: one.position):
                    kept.extend(chosen(commit))
            elif index is not None:
                begin = index.position
                for position in await index.last(n, team=team, kind=kind, aggregate=aggregate, type=type):
                    [commit] = await log.page(after=position - 1, limit=1)
                    kept.extend(chosen(commit))
        async for commits in log.read(after=begin, upto=head):
            for commit in commits:
                kept.extend(chosen(commit))
        for line in kept:
            yield line
        if not follow:
            return
        start = head
    async for commits in log.read(after=start, follow=follow):
        for commit in commits:
            for line in chosen(commit):
                yield line


async def _refs(log: EventLog, aggregate: str, team: str | None) -> list[Ref]:
    if aggregate.count("/") == 2 or team is not None:
        ref = parse_ref(aggregate, team)
        return [ref] if team in (None, ref.team) else []
    return await log.refs(aggregate)


async def find_ref(log: EventLog, place: str, team: str | None = None) -> Ref:
    """The aggregate written as `<team>/<kind>/<id>`, or as `<kind>/<id>` when one team alone has it.

    Raises
    ------
    TapelineError
        `not_found` when no team has it, `invalid` when several have, and for what names no aggregate.
    """
    if place.count("/") == 1 and team is None:
        found = await log.refs(place)
        if len(found) != 1:
            teams = ", ".join(ref.team for ref in found)
            raise TapelineError(
                f"{place} is in the teams {teams}" if found else f"no event of {place}",
                code="invalid" if found else "not_found",
                hint=f"write <team>/{place}" if found else "tapeline log tail",
            )
        return found[0]
    return parse_ref(place, team)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
