"""One commit that no fold takes, among a thousand aggregates: it costs its own aggregate and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tapeline import replay
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.database import make_engine
from tapeline.errors import TapelineError
from tapeline.log.codec import Codec
from tapeline.projections import LogSource, Projector

from .test_parked import Held, World, aggregate

OTHERS = 1000


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    engine = make_engine(database_url)
    world = World(engine)
    yield world
    await world.stop()
    await engine.dispose()


async def test_a_poisoned_aggregate_is_parked_a_thousand_others_are_current_and_a_retry_heals(world: World) -> None:
    for i in range(OTHERS):
        await world.claim(f"n{i}")
        if i == OTHERS // 2:
            await world.claim("poisoned", "bad")
    await world.start()
    await world.caught_up()
    (one,) = await world.parked()
    assert (one.aggregate, one.position) == (aggregate("poisoned"), OTHERS // 2 + 2)
    others = {f"n{i}": ("x", 1) for i in range(OTHERS)}
    assert await world.rows() == others
    # It stays out of the way of what comes, too.
    await world.release("poisoned", "bad")
    await world.release("n7")
    await world.caught_up()
    assert await world.rows() == others | {"n7": (None, 2)}

    world.fold.mended = True
    assert await replay.retry({"one": world.engine}, "held", aggregate("poisoned")) == []
    assert await world.parked() == []
    assert await world.rows() == others | {"n7": (None, 2), "poisoned": (None, 2)}


async def test_an_event_of_an_unknown_type_stops_its_projection_and_is_named(world: World) -> None:
    await world.claim("a")
    await world.release("a")
    older = Codec({key: kind for key, kind in EVENTS.items() if key[0] != "NameReleased"}, UPCASTERS)
    projector = Projector(LogSource(world.log, older, Held.kinds), world.fold, world.engine)
    await projector.open()
    with pytest.raises(TapelineError, match=r"NameReleased.* at position 2") as stopped:
        await asyncio.wait_for(projector.run(), 10)
    assert stopped.value.code == "schema_unknown"
    # Queries are told so too, and nothing is parked or skipped.
    with pytest.raises(TapelineError, match="NameReleased") as refused:
        await projector.wait_for(2, 1)
    assert refused.value.code == "unavailable"
    assert await world.parked() == []
    assert projector.position < 2
