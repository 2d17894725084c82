"""Points of one tag as columns, and columns as bytes: the form of measurements on the wire, in the log, in tables.

The bytes hold nothing that a compressor's version could change, so what is packed twice is the same twice:

    count: u32, kinds: u8 (0 floats, 1 ints, 2 both), then four blocks, each with its length as u32:
    steps, times, floats, ints; where kinds is 2, a fifth with one bit a point that is set for an int

A block of ints holds its first value, the smallest difference between neighbours, and the differences above
that in as few bytes as they need: evenly spaced steps take no byte a point. A block of floats holds float32
where no bit is lost by that, else float64.

NumPy is imported where it is needed: a client that only asks for runs does without.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tapeline.errors import TapelineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Mask = NDArray[np.bool_]

_HEAD = struct.Struct("<IB")
_SIZE = struct.Struct("<I")
_FRAME = struct.Struct("<Bqq")
_BITS, _DOUBLE, _SINGLE = struct.Struct("<q"), struct.Struct("<d"), struct.Struct("<f")
_WIDTHS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}
FLOATS, INTS, BOTH = 0, 1, 2
_ONE = struct.Struct("<IBIBqqIBqqIB")
"""A column of one point as far as its value, which is a float32 or a float64, and what it says of itself there."""
_NOTHING = _SIZE.pack(0)
_SHAPES = {
    _ONE.size + width + _SIZE.size: (1, FLOATS, _FRAME.size, 0, _FRAME.size, 0, 1 + width, width) for width in (4, 8)
}
MOST = 1 << 24
"""Points in one block at most; more of them are no block of ours."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points of one tag, each with step, time in microseconds and value.

    Attributes
    ----------
    bits : ndarray of int64
        The value: an int itself where `whole` is set, else the bits of a float64.
    """

    steps: Ints
    times: Ints
    bits: Ints
    whole: Mask

    def __len__(self) -> int:
        return len(self.steps)

    def take(self, chosen: Any) -> Points:
        """Some of the points: an index array, a mask or a slice."""
        return Points(self.steps[chosen], self.times[chosen], self.bits[chosen], self.whole[chosen])

    def floats(self) -> NDArray[np.float64]:
        """The values as float64; ints beyond 2**53 lose their low bits."""
        import numpy as np

        if not self.whole.any():
            return self.bits.view(np.float64)
        return np.where(self.whole, self.bits.astype(np.float64), self.bits.view(np.float64))

    def values(self) -> list[float | int]:
        """The values as Python's numbers, ints as ints."""
        import numpy as np

        if not self.whole.any():
            return list(self.bits.view(np.float64).tolist())
        if self.whole.all():
            return list(self.bits.tolist())
        floats, ints = self.bits.view(np.float64).tolist(), self.bits.tolist()
        return [b if is_whole else a for a, b, is_whole in zip(floats, ints, self.whole.tolist(), strict=True)]

    def finite(self) -> Mask:
        """Which values are neither NaN nor infinite."""
        import numpy as np

        return self.whole | np.isfinite(self.bits.view(np.float64))


def points_of(steps: Any, times: Any, values: Any, *, whole: bool = False) -> Points:
    """Points of plain sequences; the values are floats, or ints where `whole`."""
    import numpy as np

    given = np.asarray(values, "<i8") if whole else np.asarray(values, "<f8").view("<i8")
    return Points(np.asarray(steps, "<i8"), np.asarray(times, "<i8"), given, np.full(len(given), whole))


def joined(many: Iterable[Points]) -> Points:
    """Points of several lots, one after the other."""
    import numpy as np

    lots = list(many)
    if len(lots) == 1:
        return lots[0]
    if not lots:
        return points_of([], [], [])
    return Points(
        np.concatenate([lot.steps for lot in lots]),
        np.concatenate([lot.times for lot in lots]),
        np.concatenate([lot.bits for lot in lots]),
        np.concatenate([lot.whole for lot in lots]),
    )


def point_id(run_id: str, time_us: int) -> str:
    """The id of a point: times never come twice in a run.

    Examples
    --------
    >>> point_id("0199b0a4-5c1e-7d3a-9f00-3b6c2d1e0f4a", 1_700_000_000_000_001)
    '0199b0a4-5c1e-7d3a-0006-0a24181e4001'
    """
    text = f"{time_us:016x}"
    return f"{run_id[:18]}-{text[:4]}-{text[4:]}"


def pack(points: Points) -> bytes:
    """The bytes of some points."""
    if len(points) == 1:
        return pack_one(int(points.steps[0]), int(points.times[0]), int(points.bits[0]), bool(points.whole[0]))
    return _packed(points)


def pack_one(step: int, time_us: int, bits: int, is_whole: bool) -> bytes:
    """The bytes of one point, the same as those of a column of one; arrays would take ten times as long."""
    frames = _SIZE.pack(_FRAME.size) + _FRAME.pack(0, step, 0) + _SIZE.pack(_FRAME.size) + _FRAME.pack(0, time_us, 0)
    if is_whole:
        return b"".join(
            [_HEAD.pack(1, INTS), frames, _SIZE.pack(0), _SIZE.pack(_FRAME.size), _FRAME.pack(0, bits, 0)]
        )  # fmt: skip
    long = _BITS.pack(bits)
    (value,) = _DOUBLE.unpack(long)
    if value != value:
        import numpy as np

        block = _floats(np.array([bits], "<i8"))
    else:
        try:
            short = _SINGLE.pack(value)
            is_exact = _DOUBLE.pack(_SINGLE.unpack(short)[0]) == long
        except OverflowError:
            short, is_exact = b"", False
        block = b"\x04" + short if is_exact else b"\x08" + long
    return b"".join([_HEAD.pack(1, FLOATS), frames, _SIZE.pack(len(block)), block, _SIZE.pack(0)])


def _packed(points: Points) -> bytes:
    import numpy as np

    count, whole = len(points), points.whole
    ints = int(np.count_nonzero(whole))
    kinds = FLOATS if ints == 0 else INTS if ints == count else BOTH
    floats = points.bits if kinds == FLOATS else points.bits[~whole]
    blocks = [
        _ints(points.steps),
        _ints(points.times),
        _floats(floats),
        _ints(points.bits[whole] if ints else floats[:0]),
    ]
    if kinds == BOTH:
        blocks.append(np.packbits(whole).tobytes())
    return b"".join([_HEAD.pack(count, kinds), *(part for block in blocks for part in (_SIZE.pack(len(block)), block))])


def count_of(body: bytes) -> int:
    """How many points some bytes hold, without reading them."""
    if len(body) < _HEAD.size:
        raise _damaged("they are too few")
    return int(_HEAD.unpack_from(body)[0])


def least_step(body: bytes) -> int:
    """The least step of some bytes that are not empty; told by the head of their steps where these only increase."""
    first, least = _head_of_steps(body)
    return first if least >= 0 else int(unpack(body).steps.min())


def is_rising(body: bytes) -> bool:
    """Whether each step of some bytes is greater than the one before, without reading them."""
    return count_of(body) < 2 or _head_of_steps(body)[1] > 0


def _head_of_steps(body: bytes) -> tuple[int, int]:
    """The first step, and the smallest difference between neighbours."""
    try:
        _, first, least = _FRAME.unpack_from(body, _HEAD.size + _SIZE.size)
    except struct.error as error:
        raise _damaged("they end too early") from error
    return first, least


def unpack(body: bytes) -> Points:
    """The points of some bytes.

    Raises
    ------
    TapelineError
        `invalid` for bytes that are not those of points.
    """
    if (one := _unpacked_one(body)) is not None:
        return one
    return _unpacked(body)


def _unpacked_one(body: bytes) -> Points | None:
    """The one point of what `pack_one` has made of a float; None for anything else.

    A step of a run with very many metrics is a column of one point for each: arrays of blocks take six times as long.
    """
    shape = _SHAPES.get(len(body))
    if shape is None:
        return None
    count, kinds, a, i, step, _, b, j, time_us, _, size, width = _ONE.unpack_from(body)
    if (count, kinds, a, i, b, j, size, width) != shape or not body.endswith(_NOTHING):
        return None
    if width == 8:
        (bits,) = _BITS.unpack_from(body, _ONE.size)
    else:
        (value,) = _SINGLE.unpack_from(body, _ONE.size)
        if value != value:
            return None
        (bits,) = _BITS.unpack(_DOUBLE.pack(value))
    import numpy as np

    found = np.array((step, time_us, bits), "<i8")
    return Points(found[0:1], found[1:2], found[2:3], np.zeros(1, bool))


def bounds(values: Ints) -> tuple[int, int]:
    """The least and the greatest of some values, of which there is one at least."""
    if len(values) == 1:
        only = int(values[0])
        return only, only
    return int(values.min()), int(values.max())


def _unpacked(body: bytes) -> Points:
    import numpy as np

    try:
        count, kinds = _HEAD.unpack_from(body)
        if count > MOST or kinds not in (FLOATS, INTS, BOTH):
            raise _damaged(f"{count} points of kind {kinds}")
        at = _HEAD.size
        blocks = []
        for _ in range(5 if kinds == BOTH else 4):
            (size,) = _SIZE.unpack_from(body, at)
            at += _SIZE.size
            blocks.append(memoryview(body)[at : at + size])
            if len(blocks[-1]) != size:
                raise _damaged("they end too early")
            at += size
        if at != len(body):
            raise _damaged("they go on after their end")
        whole = np.full(count, kinds == INTS)
        if kinds == BOTH:
            if len(blocks[4]) != (count + 7) // 8:
                raise _damaged("their kinds are not one a point")
            whole = np.unpackbits(np.frombuffer(blocks[4], np.uint8), count=count).astype(bool)
        ints = int(np.count_nonzero(whole))
        floats, integers = _floats_of(blocks[2], count - ints), _ints_of(blocks[3], ints)
        bits = floats if kinds == FLOATS else integers if kinds == INTS else np.empty(count, "<i8")
        if kinds == BOTH:
            bits[~whole], bits[whole] = floats, integers
        return Points(_ints_of(blocks[0], count), _ints_of(blocks[1], count), bits, whole)
    except struct.error as error:
        raise _damaged("they end too early") from error


def _ints(values: Ints) -> bytes:
    import numpy as np

    if len(values) == 0:
        return b""
    first = int(values[0])
    if len(values) == 1:
        return _FRAME.pack(0, first, 0)
    # Differences wrap around, and so does their sum: what comes back is what went in.
    gaps = np.diff(values)
    least = int(gaps.min())
    above = (gaps - np.int64(least)).view(np.uint64)
    most = int(above.max())
    if most == 0:
        return _FRAME.pack(0, first, least)
    width = 1 if most < 1 << 8 else 2 if most < 1 << 16 else 4 if most < 1 << 32 else 8
    return _FRAME.pack(width, first, least) + above.astype(_WIDTHS[width]).tobytes()


def _ints_of(block: memoryview, count: int) -> Ints:
    import numpy as np

    if count == 0:
        if len(block):
            raise _damaged("a block of nothing holds something")
        return np.empty(0, "<i8")
    width, first, least = _FRAME.unpack_from(block)
    found = np.empty(count, "<i8")
    found[0] = first
    if width == 0:
        if len(block) != _FRAME.size:
            raise _damaged("a block has another length than it says")
        found[1:] = least
    elif width in _WIDTHS and len(block) == _FRAME.size + (count - 1) * width:
        found[1:] = np.frombuffer(block, _WIDTHS[width], offset=_FRAME.size)
        found[1:] += least
    else:
        raise _damaged("a block has another length than it says")
    return np.cumsum(found, out=found)


def _floats(bits: Ints) -> bytes:
    import numpy as np

    if len(bits) == 0:
        return b""
    with np.errstate(over="ignore", invalid="ignore"):
        short = bits.view(np.float64).astype("<f4")
        is_exact = bool((short.astype(np.float64).view(np.int64) == bits).all())
    return b"\x04" + short.tobytes() if is_exact else b"\x08" + bits.tobytes()


def _floats_of(block: memoryview, count: int) -> Ints:
    import numpy as np

    if count == 0:
        if len(block):
            raise _damaged("a block of nothing holds something")
        return np.empty(0, "<i8")
    width = block[0] if len(block) else 0
    if width not in (4, 8) or len(block) != 1 + count * width:
        raise _damaged("a block has another length than it says")
    if width == 8:
        return np.frombuffer(block, "<i8", offset=1)
    return np.frombuffer(block, "<f4", offset=1).astype("<f8").view("<i8")


def _damaged(why: str) -> TapelineError:
    return TapelineError(f"these bytes are no columns of points: {why}", code="invalid", hint="send them again")
