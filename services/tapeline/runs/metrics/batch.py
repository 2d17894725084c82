"""The bytes of a batch on the stream METRICS: msgpack, with the points of each tag as `tapeline.columns` packs them.

    {"run", "attempt", "batch", "epoch", "last_us", "upto", "columns": [{"tag", "body"}], "progress": [...],
     "seal"?: first batch, "ledger": {attempt: [batch, upto, first unsealed batch, points, tags]}, "refused"?: reason}

Times are made strictly increasing by at least one microsecond within a run, across its attempts: so a page
of points can be continued by time. Which batches become segments together is said by the batch that closes
them (`seal`), so that whoever folds the stream again makes the same segments.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from tapeline.columns import Points, bounds, count_of, joined, pack, points_of, unpack
from tapeline.errors import TapelineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_POINTS = 16_384
MAX_TAG = 250
MAX_STEP = 2**53
SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Column(msgspec.Struct):
    """The points of one tag, packed."""

    tag: str
    body: bytes

    @property
    def count(self) -> int:
        return count_of(self.body)

    def points(self) -> Points:
        return unpack(self.body)


class Progress(msgspec.Struct):
    """The latest word of one operation; `time` in ns."""

    operation: str
    value: float
    final_value: float
    units: str
    time: int = 0


class Open(msgspec.Struct, array_like=True):
    """How far an attempt is: its last batch and record, and what of it is not in segments yet."""

    batch: int = 0
    upto: int = 0
    first: int = 1
    points: int = 0
    tags: int = 0


class Batch(msgspec.Struct):
    """One batch of one attempt, as stored.

    Attributes
    ----------
    upto : the last record of the sender's spool that is in this batch or in one before it
    seal : the first of the batches that become segments with this one; None for none
    ledger : how far each attempt of the run is, this batch included
    """

    run: str
    attempt: int
    batch: int
    epoch: int
    last_us: int
    upto: int = 0
    columns: list[Column] = []
    progress: list[Progress] = []
    seal: int | None = None
    ledger: dict[int, Open] = {}
    refused: str | None = None

    @property
    def points(self) -> int:
        return sum(column.count for column in self.columns)


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
    """The points of one tag in a request; `body` are their bytes as they came, where they came packed."""

    tag: str
    points: Points
    body: bytes | None = None


def parse(columns: Iterable[Mapping[str, Any]]) -> list[Parsed]:
    """The columns of a request, checked: lists of numbers as agents send them, or packed as the SDK does.

    Raises
    ------
    TapelineError
        `invalid`, with tag and index of what is wrong.
    """
    parsed: list[Parsed] = []
    seen: set[str] = set()
    points = 0
    for column in columns:
        tag = column.get("tag")
        if not isinstance(tag, str) or not 1 <= len(tag) <= MAX_TAG or not tag.isprintable():
            raise _refusal(f"tag {str(tag)[:60]!r} is not 1 to {MAX_TAG} visible characters")
        if tag in seen:
            raise _refusal(f"tag {tag!r} comes twice in one batch")
        seen.add(tag)
        found = _packed(tag, column["body"]) if "body" in column else _listed(tag, column)
        points += len(found.points)
        if points > MAX_POINTS:
            raise _refusal(f"more than {MAX_POINTS} points in one batch")
        if len(found.points):
            parsed.append(found)
    return parsed


def _packed(tag: str, given: Any) -> Parsed:
    try:
        body = given if isinstance(given, bytes) else base64.b64decode(given, validate=True)
        points = unpack(body)
    except (binascii.Error, TypeError, ValueError, TapelineError) as error:
        raise _refusal(f"{tag!r}: {error}") from error
    if not len(points):
        return Parsed(tag, points)
    first, last = bounds(points.steps)
    if first < 0 or last > MAX_STEP:
        raise _refusal(f"a step of {tag!r} is not from 0 to 2**53")
    first, last = bounds(points.times)
    if first < 0 or last > 2**62:
        raise _refusal(f"a time of {tag!r} is not one")
    return Parsed(tag, points, body)


def _listed(tag: str, column: Mapping[str, Any]) -> Parsed:
    kind = column.get("kind", "f8")
    if kind not in ("f8", "i8"):
        raise _refusal(f"kind {str(kind)[:20]!r} of {tag!r} is neither f8 nor i8")
    steps, times, values = (column.get(name) for name in ("step", "time", "value"))
    if not (isinstance(steps, list) and isinstance(times, list) and isinstance(values, list)):
        raise _refusal(f"step, time and value of {tag!r} are not lists")
    if not len(steps) == len(times) == len(values):
        raise _refusal(f"{tag!r} has {len(steps)} steps, {len(times)} times and {len(values)} values")
    at_us = _whole(times, tag, "time") // 1000
    return Parsed(tag, points_of(_whole(steps, tag, "step"), at_us, _values(values, tag, kind), whole=kind == "i8"))


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


def timed(parsed: Sequence[Parsed], last_us: int) -> tuple[list[Column], int]:
    """Columns whose times, all together, increase strictly from after `last_us`; and the new last one.

    Points that increase already stay the bytes that they came as.
    """
    import numpy as np

    if not parsed:
        return [], last_us
    times = np.concatenate([column.points.times for column in parsed])
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    if int(ordered[0]) > last_us and bool((np.diff(ordered) > 0).all()):
        made = [Column(column.tag, column.body or pack(column.points)) for column in parsed]
        return made, int(ordered[-1])
    ranks = np.arange(len(times))
    # The smallest strictly increasing sequence that is nowhere below the given times.
    raised = np.maximum.accumulate(np.maximum(ordered, last_us + 1) - ranks) + ranks
    moved = np.empty_like(raised)
    moved[order] = raised
    columns, start = [], 0
    for column in parsed:
        stop = start + len(column.points)
        given = column.points
        columns.append(Column(column.tag, pack(Points(given.steps, moved[start:stop], given.bits, given.whole))))
        start = stop
    return columns, int(raised[-1])


def merged(batches: Iterable[Batch]) -> dict[str, Points]:
    """The points of several batches by tag, each tag's in the order of their times."""
    lots: dict[str, list[Points]] = {}
    for batch in batches:
        for column in batch.columns:
            lots.setdefault(column.tag, []).append(column.points())
    return {tag: in_time(joined(lots[tag])) for tag in sorted(lots)}


def in_time(points: Points) -> Points:
    """Points in the order of their times."""
    import numpy as np

    if bool((np.diff(points.times) < 0).any()):
        return points.take(np.argsort(points.times, kind="stable"))
    return points


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
