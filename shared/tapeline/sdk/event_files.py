"""Event files of TensorBoard: scalars written and read without TensorFlow.

A file is a row of records, `length: u64, masked CRC-32C of the length: u32, data, masked CRC-32C of the data: u32`;
the data is the message `Event` of protocol buffers, of which we write and read the fields that scalars have:

    Event   1 wall_time: double, 2 step: int64, 3 file_version: string, 5 summary
    Summary 1 value; Value 1 tag, 2 simple_value: float, 8 tensor, 9 metadata (1 plugin_data: 1 plugin_name)
    Tensor  1 dtype, 2 shape (2 dim), 4 tensor_content, 5 float_val, 6 double_val, 7 int_val, 10 int64_val
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PLUGIN = b"scalars"
MAX_RECORD = 64 * 1024 * 1024
"""Bytes of one record; what claims more is taken for damage."""
_FLOAT, _DOUBLE, _INT32, _INT64 = 1, 2, 3, 9
_PACKED = {_FLOAT: "<f", _DOUBLE: "<d", _INT32: "<i", _INT64: "<q"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Scalar(NamedTuple):
    """One value of one tag; `wall_time` in seconds since 1970. An int is kept as an int, a float as a double."""

    tag: str
    step: int
    wall_time: float
    value: float | int


@dataclass
class Found:
    """What a file holds: its scalars, how many other values were passed over, and whether its end is torn."""

    scalars: list[Scalar] = field(default_factory=list)
    others: int = 0
    is_torn: bool = False


def write(path: Path, scalars: Iterable[Scalar], *, began: float) -> int:
    """Write scalars in the order given, replacing the file in one step; how many they were."""
    beside, count = path.with_name(f".{path.name}.part"), 0
    with beside.open("wb") as file:
        file.write(_record(_double(1, began) + _text(3, b"brain.Event:2")))
        for each in scalars:
            file.write(_record(_event(each)))
            count += 1
    beside.replace(path)
    return count


def read(path: Path) -> Found:
    """The scalars of a file, as far as it is whole: a record that is cut or damaged ends it.

    Notes
    -----
    TensorBoard's own writer leaves a torn record behind when its process is killed; nothing follows it.
    """
    found = Found()
    with path.open("rb") as file:
        while head := file.read(12):
            if len(head) < 12 or _masked(head[:8]) != int.from_bytes(head[8:], "little"):
                found.is_torn = True
                break
            length = int.from_bytes(head[:8], "little")
            data = file.read(length + 4) if length <= MAX_RECORD else b""
            if len(data) < length + 4 or _masked(data[:-4]) != int.from_bytes(data[-4:], "little"):
                found.is_torn = True
                break
            try:
                _take(data[:-4], found)
            except (ValueError, IndexError, struct.error):
                found.others += 1
    return found


# --- writing ----------------------------------------------------------------------------------------


def _event(scalar: Scalar) -> bytes:
    if isinstance(scalar.value, int):
        kind, content = _INT64, struct.pack("<q", scalar.value)
    else:
        kind, content = _DOUBLE, struct.pack("<d", scalar.value)
    # As a tensor: the plain field for scalars is a float32, which would round.
    tensor = _number(1, kind) + _text(2, b"") + _text(4, content)
    metadata = _text(1, _text(1, PLUGIN))
    value = _text(1, scalar.tag.encode()) + _text(8, tensor) + _text(9, metadata)
    return _double(1, scalar.wall_time) + _number(2, scalar.step) + _text(5, _text(1, value))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def _number(place: int, value: int) -> bytes:
    return _varint(place << 3 | _VARINT) + _varint(value)


def _double(place: int, value: float) -> bytes:
    return _varint(place << 3 | _FIXED64) + struct.pack("<d", value)


def _text(place: int, content: bytes) -> bytes:
    return _varint(place << 3 | _BYTES) + _varint(len(content)) + content


# --- reading ----------------------------------------------------------------------------------------


def _take(data: bytes, found: Found) -> None:
    wall_time, step, summaries = 0.0, 0, []
    for place, kind, content in _fields(data):
        if (place, kind) == (1, _FIXED64):
            (wall_time,) = struct.unpack("<d", content)
        elif (place, kind) == (2, _VARINT):
            step = _signed(content)
        elif (place, kind) == (5, _BYTES):
            summaries.append(content)
    for summary in summaries:
        for place, kind, content in _fields(summary):
            if (place, kind) == (1, _BYTES):
                _take_value(content, step, wall_time, found)


def _take_value(data: bytes, step: int, wall_time: float, found: Found) -> None:
    tag, value, plugin = "", None, PLUGIN
    for place, kind, content in _fields(data):
        if (place, kind) == (1, _BYTES):
            tag = content.decode("utf-8", "replace")
        elif (place, kind) == (2, _FIXED32):
            (value,) = struct.unpack("<f", content)
        elif (place, kind) == (8, _BYTES):
            value = _scalar_of(content)
        elif (place, kind) == (9, _BYTES):
            plugin = _plugin_of(content) or plugin
    if value is None or plugin != PLUGIN or not tag:
        found.others += 1
    else:
        found.scalars.append(Scalar(tag, step, wall_time, value))


def _scalar_of(data: bytes) -> float | int | None:
    """The value of a tensor of one number; None for any other."""
    dtype, sizes, content = 0, [], b""
    given: float | int | None = None
    for place, kind, field_content in _fields(data):
        if (place, kind) == (1, _VARINT):
            dtype = _signed(field_content)
        elif (place, kind) == (2, _BYTES):
            sizes = [_size_of(each) for at, of, each in _fields(field_content) if (at, of) == (2, _BYTES)]
        elif (place, kind) == (4, _BYTES):
            content = field_content
        elif place in (5, 6) and kind in (_BYTES, _FIXED32, _FIXED64):
            form = "<f" if place == 5 else "<d"
            if len(field_content) != struct.calcsize(form):
                return None
            (given,) = struct.unpack(form, field_content)
        elif place in (7, 10) and kind in (_VARINT, _BYTES):
            given = _signed(field_content)
    if dtype not in _PACKED or any(size != 1 for size in sizes):
        return None
    if content:
        if len(content) != struct.calcsize(_PACKED[dtype]):
            return None
        (given,) = struct.unpack(_PACKED[dtype], content)
    # A tensor of zeros may leave its values out.
    return (0 if dtype in (_INT32, _INT64) else 0.0) if given is None else given


def _size_of(data: bytes) -> int:
    return next((_signed(content) for place, kind, content in _fields(data) if (place, kind) == (1, _VARINT)), 0)


def _plugin_of(data: bytes) -> bytes | None:
    for place, kind, content in _fields(data):
        if (place, kind) == (1, _BYTES):
            return next((name for at, of, name in _fields(content) if (at, of) == (1, _BYTES)), None)
    return None


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The fields of a message: number, kind on the wire, and bytes; those of a varint are the varint's."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        place, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, end = _read_varint(data, at)
        elif kind == _FIXED64:
            end = at + 8
        elif kind == _FIXED32:
            end = at + 4
        elif kind == _BYTES:
            length, at = _read_varint(data, at)
            end = at + length
        else:
            raise ValueError(f"wire kind {kind}")
        if end > len(data):
            raise ValueError("a field is longer than its message")
        yield place, kind, data[at:end]
        at = end


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")


def _signed(varint: bytes) -> int:
    value, _ = _read_varint(varint, 0)
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


# --- CRC-32C (Castagnoli), masked as TensorFlow does it ---------------------------------------------


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _table()


def _masked(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
