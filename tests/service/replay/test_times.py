"""From a time to a position, also where the broker's clock has stepped back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tapeline import replay
from tapeline.errors import TapelineError


def timed(recorded: Any, seconds: list[int]) -> Any:
    """The recorded log, cut to these commits, with times of our own."""
    start = datetime.fromisoformat("2026-03-02T09:30:00+00:00")
    recorded.commits = [
        msgspec.structs.replace(commit, stored_at=start + timedelta(seconds=at))
        for commit, at in zip(recorded.commits, seconds, strict=False)
    ]
    return start


async def found(recorded: Any, when: datetime) -> tuple[int, list[Any]]:
    with capture_logs() as lines:
        position = await replay.position_at(recorded, when)
    return position, lines


async def test_every_time_of_a_steady_clock_has_its_position_and_no_warning(recorded: Any) -> None:
    start = timed(recorded, [0, 1, 1, 1, 5, 6])
    for second, position in ((-1, 0), (0, 1), (1, 4), (4, 4), (5, 5), (6, 6), (100, 6)):
        assert await found(recorded, start + timedelta(seconds=second)) == (position, [])


@pytest.mark.parametrize(
    ("seconds", "when", "lowest", "fitting"),
    [
        ([0, 10, 5, 6, 20], 7, 1, [1, 4]),
        ([0, 10, 5, 11, 4, 20], 6, 1, [1, 3, 5]),
        ([9, 3, 10], 4, 0, [0, 2]),
        ([0, 1, 9, 2], 3, 2, [2, 4]),
    ],
)
async def test_where_times_step_back_the_lowest_that_fits_is_taken_and_said(
    recorded: Any, seconds: list[int], when: int, lowest: int, fitting: list[int]
) -> None:
    start = timed(recorded, seconds)
    position, lines = await found(recorded, start + timedelta(seconds=when))
    assert position == lowest
    assert [(line["event"], line["log_level"], line["positions"]) for line in lines] == [
        ("times_step_back", "warning", fitting)
    ]


async def test_an_empty_log_has_no_position(recorded: Any) -> None:
    recorded.commits = []
    assert await replay.position_at(recorded, datetime.fromisoformat("2026-03-02T09:30:00+00:00")) == 0


async def test_a_hole_is_damage(recorded: Any) -> None:
    start = timed(recorded, [0, 1, 2, 3])
    del recorded.commits[1]
    with pytest.raises(TapelineError) as refused:
        await replay.position_at(recorded, start + timedelta(seconds=1))
    assert refused.value.code == "log_damaged"
