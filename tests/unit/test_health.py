"""Health: the worst of what is wrong with tables and streams, with its reasons, and the same as gauges."""

from __future__ import annotations

import math

import pytest

from tapeline.replay import Fill, Lag, gauges, health

GIB = 2**30


def lag(age_s: float | None = 0.0, parked: int = 0, commits: int | None = 0, name: str = "runs") -> Lag:
    return Lag("runs", name, 3, "EVENTS", 100, commits, age_s, parked, "host:1")


def events(ratio: float) -> Fill:
    return Fill("EVENTS", math.ceil(ratio * 2 * GIB), 2 * GIB)


@pytest.mark.parametrize(
    ("age_s", "ratio", "parked", "state"),
    [
        (0.0, 0.1, 0, "green"),
        (None, 0.0, 0, "green"),
        (5.0, 0.79, 0, "green"),
        (5.1, 0.1, 0, "yellow"),
        (60.0, 0.1, 0, "yellow"),
        (60.1, 0.1, 0, "red"),
        (0.0, 0.8, 0, "yellow"),
        (0.0, 0.9, 0, "red"),
        (0.0, 0.1, 1, "yellow"),
        (61.0, 0.85, 2, "red"),
    ],
)
def test_the_worst_counts(age_s: float | None, ratio: float, parked: int, state: str) -> None:
    found = health([lag(), lag(age_s, parked, name="models")], [events(ratio)])
    assert found.state == state
    assert bool(found.reasons) == (state != "green")


def test_every_reason_is_named() -> None:
    found = health([lag(7.4), lag(0.0, 2, name="models")], [events(0.85)])
    assert str(found) == (
        "health: yellow; runs is 7 s behind; models has set 2 aside: tapeline parked list models; "
        "EVENTS: 1740.8 of 2048 MiB, 85%: nearly full; raise max_bytes with tapeline topology apply"
    )
    assert found.to_json() == {"health": "yellow", "reasons": found.reasons}


def test_measurements_may_fill_their_stream() -> None:
    assert health([], [Fill("METRICS", 95, 100)]).state == "green"


def test_gauges_are_lines_that_a_collector_reads() -> None:
    text = gauges([lag(1.5, 1, 12), lag(None, 0, None, name="measured")], [events(0.5)])
    lines = text.splitlines()
    assert 'tapeline_projection_lag{projection="runs",service="runs"} 12' in lines
    assert 'tapeline_projection_lag_seconds{projection="runs",service="runs"} 1.5' in lines
    assert 'tapeline_projection_parked{projection="runs",service="runs"} 1' in lines
    assert 'tapeline_stream_bytes{stream="EVENTS"} 1073741824' in lines
    assert not [line for line in lines if "measured" in line and "_lag" in line], "what is not known is left out"
    assert lines[-1] == "# EOF"
    assert sum(line.startswith("# TYPE") for line in lines) == 5
