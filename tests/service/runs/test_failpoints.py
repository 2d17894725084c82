"""The fail points of leases and replies: what is repeated after each has one effect."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from tapeline.bus import answer
from tapeline.clock import SystemClock
from tapeline.failpoints import armed
from tapeline.ids import new_id
from tapeline.runs.dispatcher import Dispatcher
from tapeline.runs.run import reports


async def test_a_command_whose_reply_fails_is_answered_when_it_is_repeated(runs: Any, host: Any) -> None:
    made = await runs.create()
    verb = next(one for one in host.service.verbs if one.name == "set_notes")
    subject = verb.subject.replace("*", "main", 1).replace("*", "ann", 1)
    body = json.dumps({"run": made["id"], "notes": "n", "command_id": new_id(), "min_position": host.position})
    with armed("handler.before_reply:1:raise") as left:
        failed = json.loads(await answer(verb, subject, body.encode(), {}, SystemClock()))
    assert (failed["error"]["code"], left) == ("internal", {})
    again = json.loads(await answer(verb, subject, body.encode(), {}, SystemClock()))
    assert again["replayed"]
    host.position = again["position"]
    assert Counter(await runs.types(made["id"]))["NotesChanged"] == 1


async def test_a_lease_that_fails_at_any_point_is_granted_and_lost_once(
    runs: Any, agent: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "LEASE_TTL_S", 1.0)
    held = [task.__self__ for task in host.service.tasks if isinstance(task.__self__, Dispatcher)]
    held[0]._sweep_every_s, held[0]._unknown_grace_s = 0.1, 0.2
    made = await runs.create()
    offer = await asyncio.wait_for(agent.offers.get(), 30)
    claim = {"offer": offer.offer, "team": "main", "run": made["id"], "device": offer.device, "command_id": new_id()}
    for point in ("lease.before_grant", "lease.granted"):
        with armed(f"{point}:1:raise") as left:
            assert (await agent.refused("claim", **claim)).code == "internal"
            assert left == {}
    lease = await agent.ask("claim", **claim)
    await agent.started(lease)
    points = ("lease.before_expire", "lease.expired", "lease.requeued")
    with armed(",".join(f"{point}:1:raise" for point in points)) as left:
        # From here on the agent says nothing.
        for _ in range(600):
            if not left:
                break
            await asyncio.sleep(0.05)
        assert left == {}
        await runs.until(made["id"], "run_restart_requested")
    types = Counter(await runs.types(made["id"]))
    assert (types["LeaseGranted"], types["LeaseExpired"]) == (1, 1)
