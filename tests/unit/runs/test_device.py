"""What an agent announces, and what is remembered of it."""

from __future__ import annotations

from typing import Any

import pytest

from tapeline.clock import FakeClock
from tapeline.contracts.agents import Announce, DeviceGone, DeviceInfo
from tapeline.errors import TapelineError
from tapeline.runs.device.aggregate import Admit, Device, Forget, decide, evolve, initial
from tapeline.runs.device.presence import ONLINE_S, Presence
from tapeline.runs.offers import Offers

CPU = DeviceInfo(name="cpu0", kind="cpu", cores=2, memory=2**30)


def admit(**changes: Any) -> Admit:
    said = {"boot": "b1", "version": "1", "host": "h", "devices": [CPU]} | changes
    return Admit(agent="a1", teams=["main"], said=Announce(**said))


def known() -> Device:
    device = initial()
    for event in decide(device, admit()):
        device = evolve(device, event)
    return device


def test_the_first_announcement_is_an_event() -> None:
    (event,) = decide(initial(), admit())
    assert (event.agent, event.teams, event.devices[0]["name"]) == ("a1", ["main"], "cpu0")


def test_an_announcement_that_says_the_same_is_none() -> None:
    assert decide(known(), admit()) == []
    assert decide(known(), admit(disk_free_bytes=7, devices=[CPU.model_copy(update={"free": 5})])) == []


@pytest.mark.parametrize(
    "changes", [{"boot": "b2"}, {"host": "x"}, {"devices": []}, {"backends": {"jax": "1"}}, {"version": "2"}]
)
def test_a_changed_announcement_is_an_event(changes: dict[str, Any]) -> None:
    assert len(decide(known(), admit(**changes))) == 1


def test_an_agent_leaves_once_and_may_come_back() -> None:
    assert decide(initial(), Forget(agent="a1", cause="left")) == []
    (gone,) = decide(known(), Forget(agent="a1", cause="left"))
    assert gone == DeviceGone(agent="a1", cause="left")
    left = evolve(known(), gone)
    assert decide(left, Forget(agent="a1", cause="left")) == []
    assert len(decide(left, admit())) == 1


def test_an_agent_is_offline_when_it_is_unheard_for_too_long() -> None:
    clock = FakeClock()
    presence = Presence(clock)
    assert presence.is_online("a1")
    clock.advance(ONLINE_S + 1)
    assert not presence.is_online("a1")
    presence.hear("a1")
    assert presence.is_online("a1")
    presence.leave("a1")
    assert not presence.is_online("a1")
    presence.hear("a1")
    assert presence.is_online("a1")


def test_a_silent_agent_rests() -> None:
    clock = FakeClock()
    presence = Presence(clock)
    presence.rest("a1", 30)
    assert presence.is_resting("a1")
    clock.advance(31)
    assert not presence.is_resting("a1")


def test_an_offer_lapses_and_is_for_one_agent_and_device() -> None:
    clock = FakeClock()
    offers = Offers(clock)
    offer = offers.make(team="t", run="r", attempt=1, agent="a1", device="cpu0")
    assert ("t", "r") in offers.runs()
    assert offers.is_reserved("a1", "cpu0")
    named = {"agent": "a1", "team": "t", "run": "r", "device": "cpu0"}
    assert offers.accepted(offer.offer, **named).offer == offer
    for other in ({"agent": "a2"}, {"team": "u"}, {"run": "s"}, {"device": "cpu1"}):
        with pytest.raises(TapelineError):
            offers.accepted(offer.offer, **(named | other))
    clock.advance(5)
    assert [one.offer for one in offers.lapse()] == [offer]
    with pytest.raises(TapelineError) as lapsed:
        offers.accepted(offer.offer, **named)
    assert lapsed.value.code == "conflict"
