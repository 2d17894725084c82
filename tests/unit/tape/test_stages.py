"""Progress of an import in lines: one at the beginning and the end of a stage, and one every ten seconds."""

from __future__ import annotations

from typing import Any

import pytest

from tapeline.sdk.stages import Stages


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(stage: str, done: int, total: int = 1000) -> dict[str, Any]:
    return {"stage": stage, "done": done, "total": total, "unit": "bytes", "rows": done // 10}


def test_a_long_stage_says_how_far_it_is_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock, told = Clock(), list[dict[str, Any]]()
    with Stages("tape x", tell=told.append, clock=clock) as stages:
        for second in range(26):
            clock.now = second
            stages.show(step("read", 40 * second))
        stages.show(step("read", 1000))
        stages.show(step("read", 1000))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "tape x: read 0 % (0 of 1.0k bytes)",
        "tape x: read 40 % (400 of 1.0k bytes, 40/s, 4 rows/s, 15 s left)",
        "tape x: read 80 % (800 of 1.0k bytes, 40/s, 4 rows/s, 5 s left)",
        "tape x: read 100 % (1.0k of 1.0k bytes, 40/s, 4 rows/s)",
    ]
    assert (told[10]["rate"], told[10]["eta_s"]) == (40.0, 15.0)
    assert told[0]["eta_s"] is None


def test_quiet_says_nothing_and_still_tells(capsys: pytest.CaptureFixture[str]) -> None:
    told = list[dict[str, Any]]()
    with Stages("tape x", quiet=True, tell=told.append) as stages:
        stages.show(step("read", 1000))
    assert capsys.readouterr().err == ""
    assert [each["stage"] for each in told] == ["read"]
