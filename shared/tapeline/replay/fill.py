"""How full the streams are: nothing is ever dropped to make room, so somebody must see it coming."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tapeline.home import Home
from tapeline.log import EventLog
from tapeline.log.metrics import STREAM as METRICS
from tapeline.log.metrics import MetricsStream
from tapeline.log.outcomes import FULL_FOR_NEW, NEARLY_FULL
from tapeline.replay.reading import opened_with_metrics

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fill:
    """How many bytes a stream holds, and how many it may hold; 0 for as many as there is disk."""

    stream: str
    size_bytes: int
    max_bytes: int

    @property
    def ratio(self) -> float:
        """The part of its room that is used."""
        return self.size_bytes / self.max_bytes if self.max_bytes > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The same with stable keys."""
        return asdict(self) | {"ratio": round(self.ratio, 4)}

    def __str__(self) -> str:
        told = f"{self.stream}: {self.size_bytes / _MIB:.1f} of {self.max_bytes / _MIB:.0f} MiB, {self.ratio:.0%}"
        if self.stream == METRICS or self.ratio < NEARLY_FULL:
            return told
        if self.ratio < FULL_FOR_NEW:
            return f"{told}: nearly full; raise max_bytes with tapeline topology apply"
        return f"{told}: takes no new runs, tapes or assets; raise max_bytes with tapeline topology apply"


async def fill(log: EventLog, metrics: MetricsStream) -> list[Fill]:
    """The fill of EVENTS and of METRICS."""
    head = await log.head()
    return [Fill("EVENTS", head.size_bytes, max(0, head.max_bytes)), Fill(METRICS, *await metrics.size())]


async def fill_of(home: Home | None = None) -> list[Fill]:
    """The same for an instance, read as the replay identity."""
    async with opened_with_metrics(home) as (log, metrics):
        return await fill(log, metrics)
