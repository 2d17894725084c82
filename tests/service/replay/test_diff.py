"""Two logs or two aggregates: where they part, and by what."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tapeline import replay
from tapeline.cli.app import run
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog

MakeLog = Callable[..., Awaitable[InMemoryLog]]


async def test_a_log_and_its_export_are_equal(recorded: Any, tmp_path: Path) -> None:
    await replay.export(recorded, tmp_path)
    assert await replay.diff(recorded, replay.ExportedLog(tmp_path)) is None


async def test_a_longer_log_has_extra_events(make_log: MakeLog) -> None:
    a = await make_log(7)
    b = await make_log(9, log=InMemoryLog(Codec(EVENTS, UPCASTERS)))
    found = await replay.diff(a, b)
    assert found is not None
    assert str(found).splitlines()[0] == "the first difference is at position 8"
    assert [change.kind for change in found.changes] == ["extra", "extra"]
    back = await replay.diff(b, a)
    assert back is not None
    assert [change.kind for change in back.changes] == ["missing", "missing"]


async def test_a_changed_event_is_named_with_the_path_that_differs(recorded: Any) -> None:
    at = next(i for i, one in enumerate(recorded.commits) if b"VaultItemAdded" in one.body)
    whole = recorded.commits[at]
    before = copy.copy(recorded)
    before.commits = list(recorded.commits)
    before.commits[at] = msgspec.structs.replace(
        whole, body=whole.body.replace(b'"data":{"name":"', b'"data":{"name":"x')
    )
    found = await replay.diff(recorded, before)
    assert found is not None
    assert found.position == whole.position
    (change,) = found.changes
    assert change.kind == "changed"
    assert any(path.startswith("data.name: ") for path in change.paths)


async def test_two_aggregates_that_went_the_same_way_differ_only_in_ids_and_times(make_log: MakeLog) -> None:
    one, two = await make_log(6, names=1), await make_log(6, names=1)
    three = await make_log(6, names=1, events=3)
    commits = [[one async for many in log.read() for one in many] for log in (one, two, three)]
    assert replay.diff_aggregates(commits[0], commits[1]) is None
    change = replay.diff_aggregates(commits[0], commits[0][:4])
    assert change is not None
    assert (change.sequence, change.kind) == (5, "missing")
    changed = replay.diff_aggregates(commits[0], commits[2])
    assert changed is not None
    assert changed.kind == "changed"


async def test_the_command_line_ends_with_5_at_a_difference(
    make_log: MakeLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    for name, n in (("a", 5), ("b", 5), ("c", 6)):
        await replay.export(await make_log(n), tmp_path / name)
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert await asyncio.to_thread(run, ["log", "diff", a, b]) == 0
    assert capsys.readouterr().out == "equal\n"
    assert await asyncio.to_thread(run, ["log", "diff", a, c]) == 5
    assert "the first difference is at position 6" in capsys.readouterr().out
    assert await asyncio.to_thread(run, ["log", "diff", a, "run/x@5"]) == 2
