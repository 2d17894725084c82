"""The records of a spool: 36 bytes each, numbered from 1, with a CRC-32 of their own.

number: u32, tag: u16, kind: u8 (1 float, 2 int), 0, step: i64, value: f64 or i64, time in us: i64, crc: u32
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

FLOAT = struct.Struct("<IHBxqdq")
INT = struct.Struct("<IHBxqqq")
CRC = struct.Struct("<I")
BODY, SIZE = 32, 36
FLOATS, INTS = 1, 2
FILE_BYTES = 4 * 1024 * 1024
FILE_RECORDS = FILE_BYTES // SIZE
MOST_BYTES = 1024 * 1024 * 1024
MOST_RECORDS = 2**32 - 1
"""So many points may one attempt have; numbers are 32 bits."""
MAX_TAGS, MAX_TAG, MAX_STEP = 10_000, 200, 2**53
SUFFIX = ".points"
TAGS, ABOUT, END = "tags", "spool.json", "end.json"


def name_of(first: int) -> str:
    """The name of the file whose first record has a number."""
    return f"{first:012d}{SUFFIX}"


def files_of(folder: Path) -> list[tuple[int, Path]]:
    """The files of a spool with the number of their first records, in order."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        if path.stem.isdecimal():
            found.append((int(path.stem), path))
    return sorted(found)


def is_tag(tag: Any) -> bool:
    """Whether something is the name of a series: 1 to 200 visible characters."""
    return isinstance(tag, str) and 1 <= len(tag) <= MAX_TAG and tag.isprintable()


def tag_line(tag: str) -> bytes:
    """The line that tells a tag."""
    text = json.dumps(tag).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def tags_of(data: bytes) -> list[str]:
    """The tags of whole lines; a torn last line is none."""
    found: list[str] = []
    for line in data.splitlines(keepends=True):
        crc, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
            break
        found.append(json.loads(text))
    return found
