"""What an agent and its child say to each other: one JSON object per line over two pipes.

A line is `{"v": 1, "n": <counter>, "kind": ..., ...}` in UTF-8, at most `MAX_LINE` bytes with its end.
`n` counts from 1 in each direction; a hole means that a line was lost, and the child is not believed again.
"""

from __future__ import annotations

import json
import math
import os
import threading
from typing import Any

from tapeline.errors import TapelineError

VERSION = 1
MAX_LINE = 64 * 1024

FROM_CHILD = frozenset({
    "hello", "started", "metrics", "progress", "checkpoint_begin", "checkpoint", "alive", "log", "stopping",
    "done", "failed",
})  # fmt: skip
FROM_AGENT = frozenset({"prepare", "start", "stop", "checkpoint_now", "checkpoint_kept", "checkpoint_refused"})


def number(value: float) -> float | str:
    """A float as JSON can say it: NaN and the infinities become their names."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def encode(n: int, kind: str, fields: dict[str, Any]) -> bytes:
    """One line, with its end.

    Raises
    ------
    TapelineError
        `too_large` when the line would be longer than `MAX_LINE`.
    """
    text = json.dumps({"v": VERSION, "n": n, "kind": kind} | fields, allow_nan=False, separators=(",", ":"))
    line = text.encode() + b"\n"
    if len(line) > MAX_LINE:
        raise TapelineError(
            f"a {kind} line of {len(line)} bytes is longer than {MAX_LINE}", code="too_large", hint="say less per line"
        )
    return line


class Decoder:
    """Lines of one direction, checked: form, version, kind and counter."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._expected = 1

    def decode(self, line: bytes) -> dict[str, Any]:
        """The object of one line.

        Raises
        ------
        TapelineError
            `invalid` for everything that is not the next line of this protocol; the message quotes at most
            200 characters of it.
        """
        quoted = line[:200].decode(errors="replace")
        if len(line) > MAX_LINE or not line.endswith(b"\n"):
            raise TapelineError(f"protocol: an overlong or unfinished line: {quoted}", code="invalid")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TapelineError(f"protocol: a line that is no JSON: {quoted}", code="invalid") from error
        if not isinstance(message, dict) or message.get("v") != VERSION:
            raise TapelineError(f"protocol: a line that is no message of version {VERSION}: {quoted}", code="invalid")
        kind = message.get("kind")
        if not isinstance(kind, str) or kind not in self._kinds:
            raise TapelineError(f"protocol: an unknown kind of line: {quoted}", code="invalid")
        n = message.get("n")
        if type(n) is not int or n != self._expected:
            raise TapelineError(f"protocol: line {n!r} where {self._expected} was due: {quoted}", code="invalid")
        self._expected += 1
        return message


class Writer:
    """The child's end for sending; safe to use from several threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._n = 0

    def send(self, kind: str, **fields: Any) -> None:
        """Write one line; blocks while the pipe is full."""
        with self._lock:
            line = encode(self._n + 1, kind, fields)
            self._n += 1
            view = memoryview(line)
            while view:
                view = view[os.write(self._descriptor, view) :]
