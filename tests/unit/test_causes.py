"""What a service asks for names the event that led to it, and the chain that the event belongs to."""

from __future__ import annotations

from tapeline import names
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.decider import REMEMBERED_EVENTS, Cause, Deciders, Origin
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, ReleaseName, name_ref

CODEC = Codec(EVENTS, UPCASTERS)
REF = name_ref("contoso", "vault", "m")
CLAIM, RELEASE = ClaimName(name="m", holder="v", what="vault item"), ReleaseName(name="m", holder="v")


NONE = Cause()


def origin(command_id: str, led: Cause = NONE) -> Origin:
    return Origin(actor="user:ann", command_id=command_id, cause=led.cause, correlation_id=led.correlation_id)


async def test_a_cause_is_an_event_with_its_position_and_its_chain() -> None:
    log = InMemoryLog(CODEC)
    deciders = Deciders(log, CODEC, FakeClock())
    assert await deciders.cause(names, REF) == Cause(), "nothing has happened"
    await deciders.handle(names, REF, CLAIM, origin("first"))
    led = await deciders.cause(names, REF)
    await deciders.handle(names, REF, RELEASE, origin("second", led))
    first, second = [event for commit in await log.load(REF) for event in CODEC.decode(commit)]
    assert led == Cause(f"{first.id}@1", "first")
    assert (second.cause, second.correlation_id) == (f"{first.id}@1", "first")
    again = Deciders(log, CODEC, FakeClock())
    for known in (deciders, again):
        assert await known.cause(names, REF) == Cause(f"{second.id}@2", "first"), "the chain goes on"
        assert await known.cause(names, REF, first.id) == led
        assert await known.cause(names, REF, "unknown") == Cause()


async def test_only_the_latest_events_are_remembered() -> None:
    log = InMemoryLog(CODEC)
    deciders = Deciders(log, CODEC, FakeClock())
    for i in range(REMEMBERED_EVENTS + 2):
        await deciders.handle(names, REF, RELEASE if i % 2 else CLAIM, origin(f"c{i}"))
    events = [event for commit in await log.load(REF) for event in CODEC.decode(commit)]
    assert await deciders.cause(names, REF, events[1].id) == Cause()
    assert (await deciders.cause(names, REF, events[2].id)).cause == f"{events[2].id}@3"
