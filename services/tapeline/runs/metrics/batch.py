"""The bytes of a batch on the stream METRICS: msgpack, columns of little-endian int64 and float64.

    {"run", "attempt", "batch", "epoch", "last_us", "columns": [{"tag", "kind": "f8"|"i8",
     "step": bytes, "time": bytes (ns), "value": bytes}], "progress": [...], "refused"?: reason}

Times are made strictly increasing by at least one microsecond within a run, across its attempts: so a page
of points can be continued by time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from tapeline.errors import TapelineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_POINTS = 16_384
MAX_TAG = 250
SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Column(msgspec.Struct):
    """The points of one tag; `step`, `time` (ns) and `value` are the bytes of arrays of equal length."""

    tag: str
    kind: str
    step: bytes
    time: bytes
    value: bytes

    def steps(self) -> NDArray[np.int64]:
        import numpy as np

        return np.frombuffer(self.step, "<i8")

    def times_us(self) -> NDArray[np.int64]:
        import numpy as np

        return np.frombuffer(self.time, "<i8") // 1000

    def values(self) -> NDArray[Any]:
        import numpy as np

        return np.frombuffer(self.value, "<i8" if self.kind == "i8" else "<f8")


class Progress(msgspec.Struct):
    """The latest word of one operation; `time` in ns."""

    operation: str
    value: float
    final_value: float
    units: str
    time: int = 0


class Batch(msgspec.Struct):
    """One batch of one attempt, as stored."""

    run: str
    attempt: int
    batch: int
    epoch: int
    last_us: int
    columns: list[Column] = []
    progress: list[Progress] = []
    refused: str | None = None

    @property
    def points(self) -> int:
        return sum(len(column.step) for column in self.columns) // 8


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)


def encode(batch: Batch) -> bytes:
    """The body of a batch."""
    return _encoder.encode(batch)


def decode(body: bytes) -> Batch:
    """The batch of a body."""
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise TapelineError(f"a batch of metrics cannot be read: {error}", code="log_damaged") from error


@dataclass(frozen=True, slots=True)
class Parsed:
    """Columns of a request as arrays: kind, steps, times (ns), values."""

    tag: str
    kind: str
    steps: NDArray[np.int64]
    times: NDArray[np.int64]
    values: NDArray[Any]


def parse(columns: list[dict[str, Any]]) -> list[Parsed]:
    """The columns of an agent's request, checked.

    Raises
    ------
    TapelineError
        `invalid`, with tag and index of what is wrong.
    """
    parsed: list[Parsed] = []
    seen: set[str] = set()
    points = 0
    for column in columns:
        tag, kind = column.get("tag"), column.get("kind", "f8")
        if not isinstance(tag, str) or not 1 <= len(tag) <= MAX_TAG or not tag.isprintable():
            raise _refusal(f"tag {str(tag)[:60]!r} is not 1 to {MAX_TAG} visible characters")
        if tag in seen:
            raise _refusal(f"tag {tag!r} comes twice in one batch")
        if kind not in ("f8", "i8"):
            raise _refusal(f"kind {str(kind)[:20]!r} of {tag!r} is neither f8 nor i8")
        seen.add(tag)
        steps, times, values = (column.get(name) for name in ("step", "time", "value"))
        if not (isinstance(steps, list) and isinstance(times, list) and isinstance(values, list)):
            raise _refusal(f"step, time and value of {tag!r} are not lists")
        if not len(steps) == len(times) == len(values):
            raise _refusal(f"{tag!r} has {len(steps)} steps, {len(times)} times and {len(values)} values")
        points += len(steps)
        if points > MAX_POINTS:
            raise _refusal(f"more than {MAX_POINTS} points in one batch")
        if steps:
            parsed.append(
                Parsed(tag, kind, _whole(steps, tag, "step"), _whole(times, tag, "time"), _values(values, tag, kind))
            )
    return parsed


def _whole(given: list[Any], tag: str, name: str) -> NDArray[np.int64]:
    import numpy as np

    for i, value in enumerate(given):
        if type(value) is not int or not 0 <= value < 2**63:
            raise _refusal(f"{name} {str(value)[:40]} of {tag!r} at {i} is not a whole number from 0")
    return np.array(given, dtype="<i8")


def _values(given: list[Any], tag: str, kind: str) -> NDArray[Any]:
    import numpy as np

    if kind == "i8":
        for i, value in enumerate(given):
            if type(value) is not int or not -(2**63) <= value < 2**63:
                raise _refusal(f"value {str(value)[:40]} of {tag!r} at {i} is no int64")
        return np.array(given, dtype="<i8")
    numbers = []
    for i, value in enumerate(given):
        number = SPECIAL.get(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _refusal(f"value {str(value)[:40]!r} of {tag!r} at {i} is not a number")
        numbers.append(float(number))
    return np.array(numbers, dtype="<f8")


def _refusal(message: str) -> TapelineError:
    return TapelineError(f"metrics: {message}", code="invalid", hint="the batch is refused as a whole")


def timed(parsed: list[Parsed], last_us: int) -> tuple[list[Column], int]:
    """Columns whose times, all together, increase strictly from after `last_us`; and the new last one."""
    import numpy as np

    if not parsed:
        return [], last_us
    times = np.concatenate([column.times for column in parsed]) // 1000
    order = np.argsort(times, kind="stable")
    ranks = np.arange(len(times))
    # The smallest strictly increasing sequence that is nowhere below the given times.
    raised = np.maximum.accumulate(np.maximum(times[order], last_us + 1) - ranks) + ranks
    moved = np.empty_like(raised)
    moved[order] = raised
    columns, start = [], 0
    for column in parsed:
        stop = start + len(column.times)
        own = (moved[start:stop] * 1000).astype("<i8")
        columns.append(Column(column.tag, column.kind, column.steps.tobytes(), own.tobytes(), column.values.tobytes()))
        start = stop
    return columns, int(raised[-1])


def progress_of(given: list[dict[str, Any]], time_ns: int) -> list[Progress]:
    """The progress of a request, checked."""
    found = []
    for each in given:
        try:
            said = msgspec.convert({"time": time_ns} | {key: each.get(key) for key in _PROGRESS}, Progress)
        except msgspec.ValidationError as error:
            raise _refusal(f"progress: {error}") from error
        if not (1 <= len(said.operation) <= 64 and len(said.units) <= 32):
            raise _refusal(f"progress: operation {said.operation[:60]!r} is not 1 to 64 characters")
        if not (math.isfinite(said.value) and math.isfinite(said.final_value)):
            raise _refusal("progress: a value is not finite")
        said.time = time_ns
        found.append(said)
    return found


_PROGRESS = ("operation", "value", "final_value", "units")


def special(value: float) -> str:
    """How a number that is not finite travels."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
