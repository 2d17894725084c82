"""An archive holds all that batches said: they come back from it as they were, up to any moment."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline import metric_archives as forms
from tapeline.clock import FakeClock
from tapeline.columns import pack
from tapeline.log.metrics import MetricsMessage
from tapeline.metric_archives import Manifest
from tapeline.projections import Rows
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics import projection
from tapeline.runs.metrics.archiving import Folded
from tapeline.runs.metrics.intake import Incoming, Intake
from tapeline.runs.metrics.tables import TABLES, metric_batches
from tapeline.store import LocalStore
from tapeline.unarchived import batches_of

NS = 1_750_000_000_000_000_000
AT = datetime(2026, 1, 2, tzinfo=UTC)
values = st.one_of(st.floats(width=64), st.integers(-(2**60), 2**60).map(float))
points = st.lists(st.tuples(st.integers(0, 50), values, st.integers(0, 10**9)), min_size=1, max_size=12)
said = st.fixed_dictionaries(
    {"operation": st.sampled_from(["fit", "load"]), "value": st.floats(0, 9), "final_value": st.just(9.0),
     "units": st.just("epochs")}
)  # fmt: skip
batch = st.tuples(
    st.integers(1, 3), st.dictionaries(st.sampled_from(["loss", "lr", "val/loss"]), points, max_size=3),
    st.booleans(), st.lists(said, max_size=1),
)  # fmt: skip


class Stream:
    """METRICS of one run in memory: a position for each batch, a second apart."""

    def __init__(self) -> None:
        self.messages: list[MetricsMessage] = []

    async def append(
        self, team: str, run: str, attempt: int, batch: int, body: bytes, *, expected: int | None = None
    ) -> int:
        assert expected in (None, len(self.messages))
        position = len(self.messages) + 1
        self.messages.append(
            MetricsMessage(
                position=position, team=team, run=run, attempt=attempt, batch=batch, body=body,
                stored_at=AT + timedelta(seconds=position),
            )
        )  # fmt: skip
        return position

    async def tail(self, team: str, run: str) -> MetricsMessage | None:
        return self.messages[-1] if self.messages else None


def folded(messages: list[MetricsMessage]) -> dict[str, list[Any]]:
    """The rows of batches; of those that no segment holds what they say, as their bytes may be packed otherwise."""
    rows = Rows(is_whole=True)
    for one in messages:
        projection.apply(rows, one)
    found = {table.name: rows.every(table) for table in TABLES}
    for row in found[metric_batches.name]:
        columns = batches.decode(row["body"]).columns
        row["body"] = sorted((one.tag, pack(batches.in_time(one.points()))) for one in columns)
    return found


async def lived(given_batches: list[Any]) -> list[MetricsMessage]:
    stream = Stream()
    intake = Intake(stream, FakeClock())  # type: ignore[arg-type]
    reached: dict[int, int] = {}
    for attempt, columns, is_last, progress in given_batches:
        reached[attempt] = reached.get(attempt, 0) + 1
        listed = [
            {"tag": tag, "step": [p[0] for p in many], "value": [p[1] for p in many], "time": [NS + p[2] for p in many]}
            for tag, many in columns.items()
        ]
        given_one = Incoming(
            team="t", run="r", attempt=attempt, epoch=attempt, batch=reached[attempt], columns=listed,
            progress=progress, is_last=is_last, may_be_late=True,
        )  # fmt: skip
        await intake.take(given_one)
    return stream.messages


async def archived(store: LocalStore, messages: list[MetricsMessage]) -> Manifest:
    made = Folded("t", "r")
    made.take(messages)
    manifest, objects = made.close(None)
    manifest.objects += [await forms.keep(store, data) for data in objects]
    manifest.arrivals.append(await forms.keep(store, forms.encode(made.arrivals)))
    return await forms.manifest_at(store, await forms.keep(store, forms.encode(manifest)))


@settings(max_examples=20, deadline=None)
@given(st.lists(batch, min_size=1, max_size=8))
def test_batches_come_back_from_an_archive_as_they_were_up_to_any_moment(given_batches: list[Any]) -> None:
    async def law(folder: Path) -> None:
        messages = await lived(given_batches)
        store = LocalStore(folder)
        manifest = await archived(store, messages)
        assert manifest.points == sum(batches.decode(one.body).points for one in messages)
        assert sum(one.points for one in manifest.segments) == manifest.points
        for count in (0, len(messages) // 2, len(messages)):
            found = await batches_of(store, manifest, until=AT + timedelta(seconds=count))
            assert [(one.position, one.attempt, one.batch, one.stored_at) for one in found] == [
                (one.position, one.attempt, one.batch, one.stored_at) for one in messages[:count]
            ]
            assert repr(folded(found)) == repr(folded(messages[:count]))
        last = batches.decode(found[-1].body)
        assert last.ledger == batches.decode(messages[-1].body).ledger

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(law(Path(folder)))
