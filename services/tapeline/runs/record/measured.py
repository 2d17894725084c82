"""The measurements of a copy: those of its source, stored once more under its own name.

A copy outlives its source, and what purges the measurements of one must not touch the other's.
"""

from __future__ import annotations

from msgspec import structs

from tapeline.log.metrics import MetricsStream
from tapeline.runs.metrics import batch as batches
from tapeline.store import ArtifactStore
from tapeline.unarchived import all_of_run


async def copied(metrics: MetricsStream, store: ArtifactStore, team: str, source: str, target: str) -> int:
    """Store every batch of one run for another, archived ones too; the position of the last one, 0 for none.

    Repeating it after a part was stored goes on from there.
    """
    known = await metrics.tail(team, target)
    last = known.position if known is not None else 0
    done = (known.attempt, known.batch) if known is not None else (0, 0)
    async for one in all_of_run(metrics, store, team, source):
        if (one.attempt, one.batch) <= done:
            continue
        body = batches.encode(structs.replace(batches.decode(one.body), run=target))
        last = await metrics.append(team, target, one.attempt, one.batch, body, expected=last)
    return last
