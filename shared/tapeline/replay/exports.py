"""Writing the log, or a part of it, into a folder.

The manifest is written last, after each segment: an export that was cut off goes on from there. Full segments
never change; the last one, while it is not full, is replaced by a longer one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.ids import new_id
from tapeline.log import EventLog, Head, StoredCommit
from tapeline.log.codec import digest
from tapeline.replay.chain import NO_ROOT
from tapeline.replay.erasure import Eraser
from tapeline.replay.manifest import MANIFEST, Erasure, Manifest, Part, Segment, read_manifest, write_manifest
from tapeline.replay.reading import codec
from tapeline.replay.segments import SegmentWriter
from tapeline.subjects import parse_ref, ref_of

OnSegment = Callable[[Segment], None]


def _silent(_segment: Segment) -> None:
    """Says nothing."""


async def export(
    log: EventLog,
    folder: Path,
    *,
    upto: int | None = None,
    seal: dict[str, Any] | None = None,
    on_segment: OnSegment = _silent,
) -> Manifest:
    """Write the log into a folder, or add what is new to an export that is there.

    Parameters
    ----------
    upto : int, optional
        Last position; the end of the log when not given.
    seal : dict, optional
        The newest seal of the log that reaches no further.

    Raises
    ------
    TapelineError
        `log_mismatch` when the folder holds an export of another log, `not_empty` when it holds a bundle,
        `log_damaged` when the log does not contain what was exported before or cannot be read, `invalid` for a
        position past the end.
    """
    head = await log.head()
    end = _end(head, upto)
    before = read_manifest(folder) if (folder / MANIFEST).exists() else None
    kept: list[Segment] = []
    if before is not None:
        _check_same(folder, before, head)
        if before.part is not None:
            raise _not_empty(folder, "a bundle")
        await _check_contained(log, before, head.position)
        if end <= before.position:
            return before
        kept = [segment for segment in before.segments if segment.full]
    else:
        _make(folder, head)
    _remove_partial(folder)
    made = before
    beside = before.artifacts if before is not None else ()
    async with aclosing(_written(log.read(after=kept[-1].last if kept else 0, upto=end), folder, kept)) as segments:
        async for segment in segments:
            passed("export.segment")
            kept.append(segment)
            if segment.full:
                made = write_manifest(folder, head.log_id, kept, seal=seal, artifacts=beside)
            on_segment(segment)
    if made is None or made.segments != tuple(kept):
        made = write_manifest(folder, head.log_id, kept, seal=seal, artifacts=beside)
    passed("export.manifest")
    if before is not None:
        for left in before.segments:
            # What the manifest no longer names was the shorter form of the last segment.
            if left.name not in {segment.name for segment in kept}:
                (folder / left.name).unlink(missing_ok=True)
    return made


async def export_part(
    log: EventLog,
    folder: Path,
    *,
    aggregates: Sequence[str] = (),
    team: str | None = None,
    after: int = 0,
    upto: int | None = None,
    on_segment: OnSegment = _silent,
) -> Manifest:
    """Write a bundle into a new folder: aggregates as `<team>/<kind>/<id>`, all of a team, or all after a position.

    Raises
    ------
    TapelineError
        `log_mismatch` when the folder holds an export of another log, `not_empty` when it holds one of this log,
        `not_found` when no commit is chosen, `invalid` for a position past the end.
    """
    head = await log.head()
    end = _end(head, upto)
    if not 0 <= after <= end:
        raise TapelineError(f"nothing lies after {after} and up to {end}", code="invalid", hint="leave --after out")
    _make(folder, head)
    part = Part(after=after, upto=end, aggregates=tuple(aggregates), team=team)
    segments = []
    async with aclosing(_written(_chosen(log, part), folder, [])) as written:
        async for segment in written:
            segments.append(segment)
            on_segment(segment)
    if not segments:
        raise TapelineError(
            f"no commit of {', '.join(aggregates) or team or 'any aggregate'} lies after {after} and up to {end}",
            code="not_found",
            hint="tapeline log tail",
        )
    return write_manifest(folder, head.log_id, segments, part=part)


async def export_erased(
    log: EventLog, folder: Path, erasures: Sequence[Erasure], *, on_segment: OnSegment = _silent
) -> Manifest:
    """Write the whole log into a new folder without what is to be erased; it becomes a log of its own.

    Raises
    ------
    TapelineError
        `not_empty` when the folder holds an export, `not_found` for an erasure that meets nothing, `invalid`
        for what cannot be erased.
    """
    head = await log.head()
    eraser = Eraser(erasures, codec())
    _make(folder, head)

    async def erased() -> AsyncGenerator[list[StoredCommit], None]:
        async for commits in log.read(upto=head.position):
            yield [eraser.apply(commit) for commit in commits]

    segments = []
    async with aclosing(_written(erased(), folder, [])) as written:
        async for segment in written:
            segments.append(segment)
            on_segment(segment)
    # Until here there is no manifest: what an erasure that meets nothing leaves behind is no export.
    return write_manifest(folder, new_id(), segments, source=head.log_id, erasures=eraser.done())


def _end(head: Head, upto: int | None) -> int:
    end = head.position if upto is None else upto
    if not 0 <= end <= head.position:
        raise TapelineError(
            f"position {end} is past the end of the log ({head.position})", code="invalid", hint="leave --upto out"
        )
    return end


def _not_empty(folder: Path, what: str) -> TapelineError:
    return TapelineError(f"{folder} holds {what} already", code="not_empty", hint="export into another folder")


def _check_same(folder: Path, found: Manifest, head: Head) -> None:
    if found.log_id != head.log_id:
        raise TapelineError(
            f"{folder} holds an export of log {found.log_id}, this is log {head.log_id}",
            code="log_mismatch",
            hint="export into another folder",
        )


def _make(folder: Path, head: Head) -> None:
    """A folder without an export in it."""
    if (folder / MANIFEST).exists():
        _check_same(folder, read_manifest(folder), head)
        raise _not_empty(folder, "an export")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_partial(folder)


def _remove_partial(folder: Path) -> None:
    for left in folder.glob(".*.partial"):
        left.unlink()


async def _chosen(log: EventLog, part: Part) -> AsyncGenerator[list[StoredCommit], None]:
    """The commits of a part in the order of the log."""
    if not part.aggregates:
        async for commits in log.read(after=part.after, upto=part.upto):
            if found := [one for one in commits if part.team in (None, ref_of(one.subject).team)]:
                yield found
        return
    loaded: list[StoredCommit] = []
    for aggregate in part.aggregates:
        loaded += await log.load(parse_ref(aggregate, part.team), after=part.after, upto=part.upto)
    loaded.sort(key=lambda one: one.position)
    for start in range(0, len(loaded), 1000):
        yield loaded[start : start + 1000]


async def _written(
    lists: AsyncIterator[list[StoredCommit]], folder: Path, before: Sequence[Segment]
) -> AsyncGenerator[Segment, None]:
    """Commits as segments that follow others; each is on disk when it is given."""
    root = bytes.fromhex(before[-1].root) if before else NO_ROOT
    writer: SegmentWriter | None = None
    try:
        async for commits in lists:
            taken = 0
            while taken < len(commits):
                writer = writer or SegmentWriter(folder, commits[taken].position, root)
                taken += writer.take(commits[taken:])
                if writer.is_full:
                    segment = writer.close(full=True)
                    writer, root = None, bytes.fromhex(segment.root)
                    yield segment
        if writer is not None:
            segment, writer = writer.close(full=False), None
            yield segment
    finally:
        if writer is not None:
            writer.abandon()


async def _check_contained(log: EventLog, before: Manifest, position: int) -> None:
    if not before.segments:
        return
    last = before.segments[-1]
    if position < last.last:
        raise TapelineError(
            f"the log ends at {position}, the export reaches {last.last}",
            code="log_damaged",
            hint="the log has lost its tail: restore it from this export (tapeline log import)",
        )
    found = [one async for many in log.read(after=last.last - 1, upto=last.last) for one in many]
    if [digest(one.subject, one.header, one.body) for one in found] != [last.digest]:
        raise TapelineError(
            f"the commit at position {last.last} is not the one that was exported",
            code="log_damaged",
            hint="tapeline log verify; export into another folder to compare (tapeline log diff)",
        )
