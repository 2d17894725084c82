"""Where two logs part, or two aggregates, and what differs then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any, Literal

import msgspec

from tapeline.log import StoredCommit, StoredEvent
from tapeline.log.codec import digest
from tapeline.replay.chain import Recorded
from tapeline.replay.reading import codec


@dataclass(frozen=True, slots=True)
class Change:
    """One event that the two sides do not share; `paths` say where a changed one differs."""

    aggregate: str
    sequence: int
    kind: Literal["missing", "extra", "changed"]
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.aggregate} {self.sequence}: {self.kind}" + (f": {'; '.join(self.paths)}" if self.paths else "")


@dataclass(frozen=True, slots=True)
class Difference:
    """The first position at which two logs differ, and every event that differs from there on."""

    position: int
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """The same with stable keys."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([f"the first difference is at position {self.position}", *map(str, self.changes)])


async def diff(a: Recorded, b: Recorded) -> Difference | None:
    """How log `b` differs from log `a`; none when every commit of both is the same.

    Events are compared within their aggregates: one that only `a` has is missing, one that only `b` has extra.
    """
    parted: int | None = None
    rest: tuple[dict[str, list[StoredCommit]], ...] = (defaultdict(list), defaultdict(list))
    async for pair in _pairs(a, b):
        if parted is None and (None in pair or len({_digest(one) for one in pair if one is not None}) > 1):
            parted = next(one.position for one in pair if one is not None)
        if parted is not None:
            for side, one in zip(rest, pair, strict=True):
                if one is not None:
                    side[one.subject].append(one)
    if parted is None:
        return None
    changes: list[Change] = []
    for subject in sorted({*rest[0], *rest[1]}):
        changes += _changes(_events(rest[0].get(subject, [])), _events(rest[1].get(subject, [])))
    return Difference(parted, tuple(changes))


def diff_aggregates(a: Sequence[StoredCommit], b: Sequence[StoredCommit]) -> Change | None:
    """The first event that differs beyond ids and times; none when two aggregates went the same way."""
    ours, theirs = _events(a), _events(b)
    for sequence in sorted({*ours, *theirs}):
        left, right = ours.get(sequence), theirs.get(sequence)
        if left is None or right is None:
            return _one_sided(left, right)
        if paths := tuple(paths_of(_content(left), _content(right))):
            return Change(f"{right.ref.team}/{right.ref}", sequence, "changed", paths)
    return None


async def _pairs(a: Recorded, b: Recorded) -> AsyncIterator[tuple[StoredCommit | None, StoredCommit | None]]:
    async with aclosing(_each(a)) as left, aclosing(_each(b)) as right:
        while True:
            pair = (await anext(left, None), await anext(right, None))
            if pair == (None, None):
                return
            yield pair


async def _each(log: Recorded) -> AsyncGenerator[StoredCommit, None]:
    async with aclosing(log.read(upto=(await log.head()).position)) as lists:
        async for commits in lists:
            for commit in commits:
                yield commit


def _digest(commit: StoredCommit) -> str:
    return digest(commit.subject, commit.header, commit.body)


def _events(commits: Sequence[StoredCommit]) -> dict[int, StoredEvent]:
    decoder = codec()
    return {event.sequence: event for commit in commits for event in decoder.decode(commit)}


def _changes(ours: dict[int, StoredEvent], theirs: dict[int, StoredEvent]) -> Iterator[Change]:
    for sequence in sorted({*ours, *theirs}):
        left, right = ours.get(sequence), theirs.get(sequence)
        if left is None or right is None:
            yield _one_sided(left, right)
        elif paths := tuple(paths_of(_whole(left), _whole(right))):
            yield Change(f"{right.ref.team}/{right.ref}", sequence, "changed", paths)


def _one_sided(left: StoredEvent | None, right: StoredEvent | None) -> Change:
    event = left or right
    assert event is not None
    return Change(
        f"{event.ref.team}/{event.ref}", event.sequence, "extra" if left is None else "missing", (event.type,)
    )


def _content(event: StoredEvent) -> dict[str, Any]:
    return {"type": event.type, "data": msgspec.to_builtins(event.data, str_keys=True)}


def _whole(event: StoredEvent) -> dict[str, Any]:
    created_at, by = event.created_at.isoformat(), (event.actor, event.command, event.command_id)
    return _content(event) | {"id": event.id, "created_at": created_at, "by": by, "cause": event.cause}


def paths_of(left: Any, right: Any, path: str = "") -> Iterator[str]:
    """Where two values of JSON differ, and how, path by path."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted({*left, *right}):
            inner = f"{path}.{key}" if path else key
            if key not in left or key not in right:
                yield f"{inner} is only in {'the second' if key not in left else 'the first'}"
            else:
                yield from paths_of(left[key], right[key], inner)
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for i, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from paths_of(one, other, f"{path}[{i}]")
    elif left != right:
        yield f"{path}: {_short(left)} -> {_short(right)}"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:59]}…"
