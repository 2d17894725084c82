"""An agent's own file of reports not yet answered: length-prefixed JSON records, each with a CRC32C.

One file per (run, lease epoch). A record is on disk before it is sent; a torn tail is cut off when the file
is opened again, so what is read back is always a prefix of what was written.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, Self

from tapeline.errors import TapelineError

_PREFIX = struct.Struct("<II")
MAX_RECORD = 1 << 20


def _table() -> tuple[int, ...]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def parse(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """The whole records at the start of some bytes, and how many bytes they take."""
    records: list[dict[str, Any]] = []
    at = 0
    while at + _PREFIX.size <= len(data):
        size, crc = _PREFIX.unpack_from(data, at)
        body = data[at + _PREFIX.size : at + _PREFIX.size + size]
        if size > MAX_RECORD or len(body) < size or crc32c(body) != crc:
            break
        record = json.loads(body)
        if not isinstance(record, dict):
            break
        records.append(record)
        at += _PREFIX.size + size
    return records, at


class Journal:
    """One journal file, open for appending; `records` is what it holds."""

    def __init__(self, path: Path, records: list[dict[str, Any]], descriptor: int) -> None:
        self.path = path
        self.records = records
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """The journal at a path, made if need be; a torn tail is cut off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read()
        records, size = parse(data)
        if size < len(data):
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        if is_new:
            _sync_folder(path.parent)
        return cls(path, records, descriptor)

    def append(self, record: dict[str, Any], *, sync: bool = True) -> None:
        """Add one record; with `sync` it is on disk when this returns."""
        body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
        if len(body) > MAX_RECORD:
            raise TapelineError(f"a journal record of {len(body)} bytes is larger than {MAX_RECORD}", code="too_large")
        line = _PREFIX.pack(len(body), crc32c(body)) + body
        os.write(self._descriptor, line)
        if sync:
            os.fsync(self._descriptor)
        self.records.append(record)

    def close(self) -> None:
        """Close the file and keep it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Close the file and delete it: everything in it was answered, or nothing of it counts any more."""
        self.close()
        self.path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
