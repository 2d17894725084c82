"""Frames of a broker's connection in plain Python, written to be read; `_frames` must agree with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

Message = tuple[int, bytes, bytes, bytes, "bytes | None"]
"""Subscription, subject, reply subject, body and headers."""

Run = tuple[int, int, int, list[Any]]
"""First and last position, how many are left behind the last, and the values, whose positions have no hole."""

Frame = bytes | Message | Run
"""A line that is no message, such as `PING`; a message; or a run of deliveries."""

Make = Callable[[int, str, bytes, bytes, datetime], Any]
"""Makes a value of position, subject, header, body and time."""

MOST_BYTES = 64 * 1024 * 1024
MOST_LINE = 1024 * 1024

_LINE = re.compile(rb"(H?)MSG[ \t]+(\S+)[ \t]+(\d{1,18})(?:[ \t]+(\S+))??((?:[ \t]+\d{1,18}){1,2})[ \t\r]*\Z")
_STORED_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,18}", re.ASCII)


class Frames:
    """Cuts what a broker sends into frames, however it is split; deliveries of one subscription into runs.

    A delivery is a message of the diverted subscription whose reply subject is `$JS.ACK.…` and which has the
    header `Tl-Commit`. Its time is that of `Tl-Stored-At`, or the broker's. A message of that subscription
    that is anything else comes as a message.
    """

    def __init__(self) -> None:
        self.sid = 0
        self._make: Make | None = None
        self._held = b""

    def reset(self) -> None:
        """Forget what has not come whole."""
        self._held = b""

    def divert(self, sid: int, make: Make | None) -> None:
        """Have the deliveries of one subscription come as runs; of none, when `make` is None."""
        self.sid, self._make = sid, make

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole with these bytes.

        Raises
        ------
        ValueError
            The bytes are not the protocol.
        """
        data = self._held + data
        found: list[Frame] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = data[start:end]
            if not line.startswith((b"MSG ", b"HMSG ")):
                found.append(data[start : end + 1])
                start = end + 1
                continue
            sid, subject, reply, header_size, size = _words(line)
            body = end + 1
            if len(data) - body < size + 2:
                break
            headers = data[body : body + header_size] if line.startswith(b"H") else None
            message: Message = (sid, subject, reply, data[body + header_size : body + size], headers)
            if (run := self._run_of(message)) is None:
                found.append(message)
            else:
                _join(found, run)
            start = body + size + 2
        self._held = data[start:]
        if b"\n" not in self._held and len(self._held) > MOST_LINE:
            raise ValueError("a line without an end")
        return found

    def _run_of(self, message: Message) -> Run | None:
        sid, subject, reply, body, headers = message
        if self._make is None or sid != self.sid or headers is None or not subject.isascii():
            return None
        if not headers.startswith(b"NATS/1.0\r\n") or not headers.endswith(b"\r\n"):
            return None
        lines = headers[10:-2].split(b"\r\n")
        if any(b"\n" in line for line in lines):
            return None
        named = dict(line.split(b": ", 1) for line in reversed(lines) if b": " in line)
        place = _place(reply)
        if place is None or b"Tl-Commit" not in named:
            return None
        position, ns, pending = place
        stored = named.get(b"Tl-Stored-At")
        at = _time_of_ns(ns) if stored is None else _time_of(stored)
        if at is None:
            return None
        value = self._make(position, subject.decode("ascii"), named[b"Tl-Commit"], body, at)
        return position, position, pending, [value]


def _words(line: bytes) -> tuple[int, bytes, bytes, int, int]:
    found = _LINE.match(line)
    if found is None:
        raise ValueError("a message line that is none")
    has_headers, subject, sid, reply, numbers = found.groups()
    sizes = [int(one) for one in numbers.split()]
    if not has_headers and len(sizes) == 2:  # a reply subject of digits
        reply, sizes = numbers.split()[0], sizes[1:]
    if len(sizes) != (2 if has_headers else 1) or sizes[-1] < sizes[0] or sizes[-1] > MOST_BYTES:
        raise ValueError("a message line that is none")
    return int(sid), subject, reply or b"", sizes[0] if has_headers else 0, sizes[-1]


def _place(reply: bytes) -> tuple[int, int, int] | None:
    """Position, time in ns and what is left behind, from `$JS.ACK.[domain.hash.]stream.consumer.…`."""
    tokens = reply.decode("latin-1").split(".")
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) not in (9, 11, 12, 13, 14, 15):
        return None
    at = 5 if len(tokens) == 9 else 7
    wanted = [tokens[at], tokens[at + 2], tokens[at + 3]]
    if not all(_DECIMAL.fullmatch(one) or (len(one) == 19 and one.isdecimal() and one < "9") for one in wanted):
        return None
    position, ns, pending = map(int, wanted)
    return (position, ns, pending) if position > 0 else None


def _time_of_ns(ns: int) -> datetime:
    seconds, rest = divmod(ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


def _time_of(text: bytes) -> datetime | None:
    decoded = text.decode("latin-1")
    if not _STORED_AT.fullmatch(decoded):
        return None
    try:
        return datetime.fromisoformat(decoded[:-1]).replace(tzinfo=UTC)
    except ValueError:
        return None


def _join(found: list[Frame], run: Run) -> None:
    """Put a delivery at the end of the run before it when it follows it."""
    if found and len(found[-1]) == 4 and isinstance(found[-1], tuple):
        first, last, _, values = found[-1]
        if run[0] == last + 1:
            found[-1] = (first, run[1], run[2], [*values, *run[3]])
            return
    found.append(run)
