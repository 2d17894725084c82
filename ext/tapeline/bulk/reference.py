"""Many commits at once in plain Python, written to be read; `_bulk` must agree with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol


class Commit(Protocol):
    """What a commit consists of."""

    @property
    def position(self) -> int: ...

    @property
    def subject(self) -> str: ...

    @property
    def header(self) -> bytes: ...

    @property
    def body(self) -> bytes: ...

    @property
    def stored_at(self) -> datetime: ...


Make = Callable[[int, str, bytes, bytes, datetime], Any]
"""Makes a value of position, subject, header, body and time."""


def digests(commits: Sequence[Commit]) -> list[bytes]:
    """The raw digest of each commit: SHA-256 over `tl1`, subject, header and body, a newline between."""
    return [sha256(b"tl1\n%b\n%b\n%b" % (one.subject.encode(), one.header, one.body)).digest() for one in commits]


def roots(root: bytes, digests: Sequence[bytes]) -> list[bytes]:
    """The root after each commit: SHA-256 over the root before it and its digest."""
    found = []
    for digest in digests:
        root = sha256(root + digest).digest()
        found.append(root)
    return found


def lines(text: bytes, make: Make, start: int = 0, most: int = 2**62) -> tuple[list[Any], int]:
    """Values of at most so many whole lines of a segment's text from `start` on, and where the next line begins.

    It ends before a line that is not `{"p":…,"t":"…","s":"…","h":"…","b":"…"}` as an export writes it, with ASCII
    alone, no escape but `\\"` and `\\\\`, and a time with microseconds and `Z`: such a line is for others to read.
    """
    found: list[Any] = []
    while len(found) < most and (end := text.find(b"\n", start)) >= 0:
        value = _line(text[start:end], make)
        if value is None:
            break
        found.append(value)
        start = end + 1
    return found, start


def publishes(commits: Sequence[Commit], after: int, reply: bytes) -> bytes:
    """Plain publishes of commits as they are stored again, each bound to the position before its own.

    The last asks for an answer.
    """
    parts: list[bytes] = []
    for k, one in enumerate(commits, 1):
        headers = b"NATS/1.0\r\nNats-Expected-Last-Sequence: %d\r\nTl-Commit: %b\r\nTl-Stored-At: %b\r\n\r\n" % (
            after + k - 1,
            one.header,
            time_text(one.stored_at),
        )
        where = one.subject.encode() + (b" " + reply if k == len(commits) else b"")
        size = len(headers) + len(one.body)
        parts.append(b"HPUB %b %d %d\r\n%b%b\r\n" % (where, len(headers), size, headers, one.body))
    return b"".join(parts)


def time_text(at: datetime) -> bytes:
    """A time in UTC with microseconds and `Z`."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00").encode() + b"Z"


_LINE = re.compile(
    rb'\{"p":([1-9][0-9]{0,17}),"t":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)",'
    rb'"s":"([ !#-\[\]-~]*)","h":"((?:[ !#-\[\]-~]|\\["\\])*)","b":"((?:[ !#-\[\]-~]|\\["\\])*)"\}'
)


def _line(text: bytes, make: Make) -> Any:
    found = _LINE.fullmatch(text)
    if found is None:
        return None
    position, time, subject, header, body = found.groups()
    try:
        at = datetime.fromisoformat(time[:-1].decode()).replace(tzinfo=UTC)
    except ValueError:
        return None
    return make(int(position), subject.decode(), _plain(header), _plain(body), at)


def _plain(text: bytes) -> bytes:
    return re.sub(rb'\\(["\\])', rb"\1", text)
