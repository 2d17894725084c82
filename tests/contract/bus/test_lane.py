"""Requests that go straight from the connection to their handlers, on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tapeline.bus import MAX_WORKERS, Verbs, served
from tapeline.clock import SystemClock
from tapeline.contracts.message import Query, View
from tapeline.errors import TapelineError
from tapeline.lane import Lane
from tapeline.subjects import Principal
from tapeline.testing.server import NatsServer, connect


class Say(Query):
    text: str


class Said(View):
    text: str
    by: str


class Room:
    """A verb whose handlers wait at a door."""

    def __init__(self) -> None:
        self.door = asyncio.Event()
        self.inside = self.most = 0
        self.verbs = Verbs("room")

        @self.verbs.user("say")
        async def say(caller: Principal, request: Say) -> Said:
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                await self.door.wait()
            finally:
                self.inside -= 1
            if request.text == "bad":
                raise TapelineError("that is not said", code="invalid")
            return Said(text=request.text, by=caller.user)


@asynccontextmanager
async def opened(server: NatsServer, room: Room) -> AsyncIterator[tuple[Any, Any, Lane]]:
    """A client that asks, the service's client, and the lane of its verbs."""
    service, user = await connect(server.url), await connect(server.url)
    (all_verbs,) = served(room.verbs)
    lane = Lane(service, SystemClock())

    async def unheard(_message: Any) -> None:
        raise AssertionError("the message took the library's way")

    subscription = await service.subscribe(all_verbs.subject, queue="room", cb=unheard)
    assert lane.open([all_verbs], {all_verbs.subject: subscription})
    await service.flush()
    try:
        yield user, service, lane
    finally:
        room.door.set()
        await lane.close()
        await user.close()
        await service.close()


async def asked(user: Any, text: str) -> Any:
    reply = await user.request("gw.main.ann.room.say", json.dumps({"text": text}).encode(), timeout=20)
    return json.loads(reply.data)


async def entered(room: Room, asking: asyncio.Future[Any]) -> None:
    """Until a request is at the door of the room."""
    for _ in range(3000):
        if room.inside:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"nobody came: {asking}")


@pytest.fixture
def room() -> Room:
    return Room()


async def test_more_requests_than_workers_are_all_answered(server: NatsServer, room: Room) -> None:
    async with opened(server, room) as (user, _, _):
        asking = [asyncio.ensure_future(asked(user, f"t{i}")) for i in range(MAX_WORKERS + 20)]
        for _ in range(500):
            if room.inside == MAX_WORKERS:
                break
            await asyncio.sleep(0.01)
        room.door.set()
        replies = await asyncio.gather(*asking)
        assert [reply["text"] for reply in replies] == [f"t{i}" for i in range(MAX_WORKERS + 20)]
        assert {reply["by"] for reply in replies} == {"ann"}
        assert room.most == MAX_WORKERS


async def test_what_a_handler_refuses_and_what_no_contract_has_is_answered(server: NatsServer, room: Room) -> None:
    room.door.set()
    async with opened(server, room) as (user, _, _):
        assert (await asked(user, "bad"))["error"]["code"] == "invalid"
        reply = await user.request("gw.main.ann.room.say", b"no json", timeout=20)
        assert json.loads(reply.data)["error"]["code"] == "invalid"
        assert (await asked(user, "good"))["text"] == "good"
        reply = await user.request("gw.main.ann.room.sag", b"{}", timeout=20)
        assert json.loads(reply.data)["error"]["hint"] == "did you mean say?"


async def test_what_is_being_handled_is_answered_before_the_lane_closes(server: NatsServer, room: Room) -> None:
    async with opened(server, room) as (user, _, lane):
        asking = asyncio.ensure_future(asked(user, "late"))
        await entered(room, asking)
        closing = asyncio.ensure_future(lane.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        room.door.set()
        await closing
        assert (await asking)["text"] == "late"


async def test_a_reply_follows_what_was_published_before_it(server: NatsServer, room: Room) -> None:
    async with opened(server, room) as (user, service, _):
        heard: list[str] = []

        async def hear(message: Any) -> None:
            heard.append(message.subject)

        await user.subscribe("feed.main.run.r1", cb=hear)
        await user.flush()
        asking = asyncio.ensure_future(asked(user, "x"))
        await entered(room, asking)
        room.door.set()
        await service.publish("feed.main.run.r1", b"{}")
        assert (await asking)["text"] == "x"
        for _ in range(500):
            if heard:
                break
            await asyncio.sleep(0.01)
        assert heard == ["feed.main.run.r1"]
