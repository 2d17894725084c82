"""Verbs on the log itself: a team reads its own commits, and asks about its past.

A past is a world of `tapeline.replay.world`; a few are kept open, and each team has one made at a time.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from tapeline.bus import Verbs, answered
from tapeline.contracts.history import MOST_BYTES, AskPast, LoggedCommit, LoggedEvent, LogPage, ReadLog
from tapeline.contracts.message import Answer
from tapeline.errors import TapelineError
from tapeline.log import EventLog, StoredCommit
from tapeline.log.codec import Codec
from tapeline.log.metrics import MetricsStream
from tapeline.replay.past import position_at
from tapeline.replay.world import Hosted
from tapeline.replay.worlds import Worlds
from tapeline.subjects import Principal, parse_ref, ref_of

OPEN_WORLDS = 4


def add_verbs(verbs: Verbs, *, log: EventLog, codec: Codec, pasts: Pasts, log_id: str) -> None:
    """Register `log.read` and `log.at`."""

    @verbs.user("read", service="log")
    async def read(caller: Principal, request: ReadLog) -> Answer[LogPage]:
        page = await page_of(log, codec, caller.team, request)
        return answered(page, page.head, log_id)

    @verbs.user("at", service="log")
    async def at(caller: Principal, request: AskPast) -> Answer[Any]:
        reply = await pasts.answer(caller, request)
        return answered(reply["view"], reply["position"], log_id)


async def page_of(log: EventLog, codec: Codec, team: str, request: ReadLog) -> LogPage:
    """The next commits of a team after a position, as many as a reply holds.

    Raises
    ------
    TapelineError
        `invalid` for a position past the end of the log.
    """
    head = (await log.head()).position
    if request.after > head:
        raise TapelineError(
            f"position {request.after} is past the end of the log ({head})",
            code="invalid",
            hint="was the position taken from another log?",
        )
    if request.aggregate is not None:
        ref = parse_ref(request.aggregate, team)
        if ref.team != team:
            raise TapelineError(f"{request.aggregate} belongs to another team", code="denied", hint="name your own")
        found = (await log.load(ref, after=request.after))[: request.limit]
    else:
        found = await log.page(after=request.after, limit=request.limit, team=team)
    commits: list[LoggedCommit] = []
    size, after = 0, request.after
    for commit in found:
        size += len(commit.body)
        if commits and size > MOST_BYTES:
            break
        if not request.kinds or ref_of(commit.subject).kind in request.kinds:
            commits.append(_logged(codec, commit))
        after = commit.position
    else:
        # All of the page is given: where it was not full, nothing else lies up to the end that was seen.
        after = found[-1].position if len(found) == request.limit else max(head, *(one.position for one in found), 0)
    return LogPage(commits=commits, next=after, head=max(head, after))


def _logged(codec: Codec, commit: StoredCommit) -> LoggedCommit:
    events = codec.decode(commit)
    first = events[0]
    return LoggedCommit(
        position=commit.position,
        stored_at=commit.stored_at,
        aggregate=str(first.ref),
        actor=first.actor,
        command=first.command,
        command_id=first.command_id,
        cause=first.cause,
        correlation_id=first.correlation_id,
        events=[
            LoggedEvent(
                id=event.id, sequence=event.sequence, type=event.type, schema_number=event.schema,
                created_at=event.created_at, data=msgspec.to_builtins(event.data, str_keys=True),
            )
            for event in events
        ],
    )  # fmt: skip


@dataclass(slots=True)
class _Open:
    """A world that answers, and by how many requests it is in use."""

    hosted: Hosted
    stack: AsyncExitStack
    users: int = 0
    is_over: bool = False

    async def leave(self) -> None:
        self.users -= 1
        if self.is_over and self.users == 0:
            await self.stack.aclose()


@dataclass(slots=True)
class Pasts:
    """The worlds that this service has open."""

    worlds: Worlds
    log: EventLog
    metrics: MetricsStream
    _open: OrderedDict[int, _Open] = field(default_factory=OrderedDict)
    _building: set[str] = field(default_factory=set)

    async def answer(self, caller: Principal, request: AskPast) -> dict[str, Any]:
        """The reply to a query of the caller as of a moment.

        Raises
        ------
        TapelineError
            What the query is refused with; `conflict` for a command, `rate_limited` while another past of the
            team is being made.
        """
        when = request.when
        if isinstance(when, datetime):
            when = await position_at(self.log, when if when.tzinfo else when.replace(tzinfo=UTC))
        async with self._at(when, caller.team) as hosted:
            raw = await hosted.answer(caller.team, caller.user, f"{request.service}.{request.verb}", request.fields)
        reply: dict[str, Any] = json.loads(raw)
        if refused := reply.get("error"):
            raise TapelineError(
                refused["message"], code=refused["code"], hint=refused["hint"], data=refused.get("data")
            )
        return reply

    @asynccontextmanager
    async def _at(self, position: int, team: str) -> AsyncIterator[Hosted]:
        found = self._open.get(position)
        if found is None:
            found = await self._opened(position, team)
        found.users += 1
        self._open.move_to_end(position)
        try:
            yield found.hosted
        finally:
            await found.leave()

    async def _opened(self, position: int, team: str) -> _Open:
        if team in self._building:
            raise TapelineError(
                f"another past of team {team} is being made", code="rate_limited", hint="wait until it has answered"
            )
        self._building.add(team)
        try:
            async with AsyncExitStack() as stack:
                place = await stack.enter_async_context(self.worlds.at(self.log, self.metrics, position))
                hosted = Hosted(place)
                stack.push_async_callback(hosted.close)
                await hosted.open()
                made = _Open(hosted, stack.pop_all())
        finally:
            self._building.discard(team)
        self._open[position] = made
        while len(self._open) > OPEN_WORLDS:
            _, oldest = self._open.popitem(last=False)
            oldest.is_over, oldest.users = True, oldest.users + 1
            await oldest.leave()
        return made
