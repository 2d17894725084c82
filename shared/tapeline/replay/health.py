"""Whether tables and streams are as they should be, in one word with its reasons, and as gauges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tapeline.log.metrics import STREAM as METRICS
from tapeline.log.outcomes import FULL_FOR_NEW, NEARLY_FULL
from tapeline.replay.fill import Fill
from tapeline.replay.lag import Lag

State = Literal["green", "yellow", "red"]

YELLOW_S = 5.0
RED_S = 60.0
"""So many seconds the oldest commit that is not in the tables may have waited."""
_WORSE: tuple[State, ...] = ("green", "yellow", "red")


@dataclass(slots=True)
class Health:
    """The worst of what was found, and all of it in sentences."""

    state: State = "green"
    reasons: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The same with stable keys."""
        return {"health": self.state, "reasons": self.reasons}

    def __str__(self) -> str:
        return "; ".join([f"health: {self.state}", *self.reasons])

    def say(self, state: State, reason: str) -> None:
        """Note something that is not as it should be."""
        self.state = max(self.state, state, key=_WORSE.index)
        self.reasons.append(reason)


def health(lags: Iterable[Lag], filled: Iterable[Fill]) -> Health:
    """Yellow above 5 s of lag, with anything parked, or above 80 % of EVENTS; red above 60 s, or above 90 %."""
    found = Health()
    for one in lags:
        if (age_s := one.age_s or 0.0) > YELLOW_S:
            found.say("red" if age_s > RED_S else "yellow", f"{one.name} is {age_s:.0f} s behind")
        if one.parked:
            found.say("yellow", f"{one.name} has set {one.parked} aside: tapeline parked list {one.name}")
    for stream in filled:
        if stream.stream != METRICS and stream.ratio >= NEARLY_FULL:
            found.say("red" if stream.ratio >= FULL_FOR_NEW else "yellow", str(stream))
    return found


def gauges(lags: Sequence[Lag], filled: Sequence[Fill]) -> str:
    """The same as gauges in the OpenMetrics text format, for what collects a file or the output of a command."""
    places = {one: f'{{projection="{one.name}",service="{one.service}"}}' for one in lags}
    lines = [
        *_gauge("tapeline_projection_lag", "commits that are not in the tables", {places[o]: o.lag for o in lags}),
        *_gauge("tapeline_projection_lag_seconds", "age of the oldest of them", {places[o]: o.age_s for o in lags}),
        *_gauge("tapeline_projection_parked", "aggregates that were set aside", {places[o]: o.parked for o in lags}),
        *_gauge("tapeline_stream_bytes", "bytes stored", {_of(one): one.size_bytes for one in filled}),
        *_gauge("tapeline_stream_max_bytes", "bytes that fit, 0 for as many as there is disk",
                {_of(one): one.max_bytes for one in filled}),
        "# EOF",
    ]  # fmt: skip
    return "\n".join(lines)


def _of(stream: Fill) -> str:
    return f'{{stream="{stream.stream}"}}'


def _gauge(name: str, what: str, values: dict[str, float | None]) -> list[str]:
    said = [f"{name}{labels} {value!r}" for labels, value in values.items() if value is not None]
    return [f"# TYPE {name} gauge", f"# HELP {name} {what}", *said]
