"""An export becomes a log again: verified whole before the first write, every position reproduced."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tapeline import topology
from tapeline.connection import connect_as
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.home import Home, read_instance
from tapeline.log import StoredCommit, wire
from tapeline.log.bulk import BulkAppender, BulkClient
from tapeline.log.codec import MAX_BODY_BYTES, MAX_HEADER_BYTES
from tapeline.replay.artifacts import artifacts_in, check_artifacts, put_artifacts
from tapeline.replay.chain import Fault, Walk
from tapeline.replay.manifest import Manifest, Segment, corrupt, whole_manifest
from tapeline.replay.reading import codec
from tapeline.replay.seals import last_seal
from tapeline.replay.segments import LIST, Damaged, commits_in, salvaged, texts
from tapeline.security.keys import read_credentials
from tapeline.store import LocalStore
from tapeline.subjects import events_of, ref_of

STREAM = "EVENTS"
_ONE_LINE = re.compile(rb"[\x20-\x7f]*")


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import found and did.

    `artifacts` came from beside the export into the store; `missing_artifacts` are named by events and lie in
    neither. `sealed` is where the last seal lies that the home knows of this log.
    """

    log_id: str
    position: int
    commits: int
    events: int
    root: str
    written: int
    verified_only: bool
    artifacts: int = 0
    missing_artifacts: int = 0
    sealed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The report with stable keys."""
        return asdict(self)

    def __str__(self) -> str:
        whole = f"complete: {self.events} events in {self.commits} commits"
        if self.verified_only:
            return whole
        found = f"{whole}; {self.written} written, log {self.log_id} ends at {self.position}"
        if self.artifacts:
            found += f"; {self.artifacts} artifacts put into the store"
        if self.sealed > self.position:
            lost = self.sealed - self.position
            found += (
                f"\nrestored to position {self.position}; the last seal known is {self.sealed}: {lost} commits are lost"
            )
        if self.missing_artifacts:
            found += f"\n{self.missing_artifacts} artifacts that events name are not in the store: copy them into it"
        return found


def verify_export(folder: Path, *, see: Callable[[list[StoredCommit]], None] = lambda _: None) -> tuple[Manifest, Walk]:
    """Check an export to the last byte: manifest, files, positions, chains, events, roots.

    `see` is called with commits once they have passed.

    Raises
    ------
    TapelineError
        `corrupt` or `log_damaged`, naming what is wrong and where; `schema_unknown` for a newer event.
    """
    manifest = whole_manifest(folder)
    walk = Walk(codec())
    sealed = manifest.seal or {}
    for segment, text, fault in texts(folder, manifest.segments):
        check_segment(segment, text, fault, walk, sealed=sealed, see=see)
    if walk.position != manifest.position or walk.root.hex() != manifest.root:
        raise TapelineError(f"{folder} ends at {walk.position} with another root than its manifest", code="corrupt")
    if sealed and sealed.get("log_id") != manifest.log_id:
        raise TapelineError(
            f"the seal of the export is of log {sealed.get('log_id')}, not of {manifest.log_id}", code="log_mismatch"
        )
    return manifest, walk


def check_segment(
    segment: Segment,
    text: bytes,
    fault: str,
    walk: Walk,
    *,
    sealed: Mapping[str, Any] = MappingProxyType({}),
    dense: bool = True,
    see: Callable[[list[StoredCommit]], None] = lambda _: None,
) -> None:
    """Check a segment, list after list as it is read; `walk` goes over its commits, and `see` is given those that pass.

    Parameters
    ----------
    text, fault
        What its file holds, and what is wrong with it; see `text_of`.
    sealed
        A seal that the root at its position must fit.
    dense
        Whether positions follow each other; those of a bundle only rise.

    Raises
    ------
    TapelineError
        `corrupt` for a damaged file and for what no log holds, `invalid` for such in a bundle,
        `schema_unknown` for a newer event.
    """
    lists: Iterable[list[StoredCommit]] = commits_in(text)
    if fault:
        commits, fault = salvaged(segment, text, fault)
        lists = [commits]
    faults: list[Fault] = []
    first = 0
    try:
        for commits in filter(None, lists):
            first = first or commits[0].position
            faults = _faults(commits, walk, sealed, dense)
            if faults:
                break
            see(commits)
    except Damaged as error:
        fault = f"is damaged: line {error.args[0]}, after position {walk.position}: {error.args[1]}"
    if not fault and not faults and not first:
        fault = "holds no commit"
    if not fault and not faults and first != segment.first:
        fault = f"begins at position {first}, expected {segment.first}"
    if not fault and not faults and (walk.position, walk.digest, walk.root.hex()) != (
        segment.last, segment.digest, segment.root,
    ):  # fmt: skip
        fault = f"ends at position {walk.position} with another root than the manifest says"
    if fault or faults:
        _refuse(segment, fault, faults, code="corrupt" if dense or fault else "invalid")


def _faults(commits: list[StoredCommit], walk: Walk, sealed: Mapping[str, Any], dense: bool) -> list[Fault]:
    """What is wrong at the first position at which something is: what follows may only look wrong because of it."""
    for part in _parts(commits, sealed.get("position")):
        harm = next((found for one in part if (found := _hostile(one))), None)
        if harm is not None:
            part = [one for one in part if one.position < harm.position]
        faults: list[Fault] = []
        if dense:
            faults += walk.add_all(part)
        else:
            for one in part:
                if one.position > walk.position:
                    walk.position = one.position - 1
                faults += walk.add(one)
        if harm is not None:
            faults.append(harm)
        elif walk.position == sealed.get("position") and sealed.get("root") != walk.root.hex():
            faults.append(Fault(walk.position, "seal", "the root is not the sealed one"))
        if faults:
            return [one for one in faults if one.position == faults[0].position]
    return []


def _refuse(segment: Segment, fault: str, faults: list[Fault], *, code: str) -> None:
    unknown = [one for one in faults if one.kind == "decode" and "this code knows" in one.message]
    if unknown and not fault:
        raise TapelineError(
            unknown[0].message,
            code="schema_unknown",
            hint="use a version of tapeline that is at least as new as the one that wrote it",
        )
    found = f"; first fault at position {faults[0].position}: {faults[0].kind}: {faults[0].message}" if faults else ""
    raise TapelineError(
        f"segment {segment.name} {fault or 'is not what a log holds'}{found}",
        code=code,
        hint="use another backup; nothing was written",
    )


def _parts(commits: list[StoredCommit], end: int | None) -> Iterator[list[StoredCommit]]:
    """Commits in lists of at most a thousand, one of which ends at the position `end`."""
    cut = next((k for k, one in enumerate(commits, 1) if one.position == end), len(commits)) if end else len(commits)
    for start, stop in ((0, cut), (cut, len(commits))):
        for first in range(start, stop, LIST):
            yield commits[first : min(first + LIST, stop)]


_known_subject = lru_cache(maxsize=100_000)(ref_of)


def _hostile(commit: StoredCommit) -> Fault | None:
    """What no log of ours can hold, and what would break out of its place on the wire."""
    try:
        _known_subject(commit.subject)
    except TapelineError as error:
        return Fault(commit.position, "decode", error.message)
    if not _ONE_LINE.fullmatch(commit.header):
        return Fault(commit.position, "decode", "its header is not one line of ASCII")
    if len(commit.header) > MAX_HEADER_BYTES or len(commit.body) > MAX_BODY_BYTES:
        return Fault(commit.position, "decode", "it is larger than a commit may be")
    return None


def verify_only(folder: Path) -> Imported:
    """Check an export and write nothing."""
    manifest, walk = verify_export(folder)
    check_artifacts(folder, manifest)
    return Imported(manifest.log_id, walk.position, walk.commits, walk.events, walk.root.hex(), 0, True)


async def restore(
    home: Home,
    folder: Path,
    *,
    as_new_log: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Imported:
    """Import into a home: its server runs alone meanwhile, or is the one of the running instance.

    Raises
    ------
    TapelineError
        As `import_log`; an instance that runs has commits of its own already (`not_empty`).
    """
    # The cheap refusals first: a bad export starts no server.
    named: set[str] = set()
    decoder = codec()
    manifest, walk = verify_export(
        folder, see=lambda commits: named.update(one.sha256 for one in artifacts_in(commits, decoder))
    )
    check_artifacts(folder, manifest)

    if (instance := read_instance(home)) is not None:
        async with _admin(home, instance.url) as client:
            before = await _begin(client, folder, manifest, as_new_log=as_new_log)
            await _write(client, folder, manifest, before, atomic=True, on_progress=on_progress)
            done = await _end(client, manifest, walk, before)
    else:
        from tapeline.embedded.alone import server_alone

        # Nobody hears an acknowledgement of this server but the import: it syncs once, when all is written.
        async with server_alone(home, syncs_always=False) as url, _admin(home, url) as client:
            before = await _begin(client, folder, manifest, as_new_log=as_new_log)
            await _write(client, folder, manifest, before, atomic=False, on_progress=on_progress)
        sync_all(home.log)
        passed("import.synced")
        async with server_alone(home) as url, _admin(home, url) as client:
            done = await _end(client, manifest, walk, before)
    store = LocalStore(home.store)
    added = await put_artifacts(folder, manifest, store)
    missing = [sha256 for sha256 in sorted(named) if not await store.has(sha256)]
    seal = last_seal(home, done.log_id)
    sealed = int(seal["position"]) if seal is not None else 0
    return replace(done, artifacts=added, missing_artifacts=len(missing), sealed=sealed)


@asynccontextmanager
async def _admin(home: Home, url: str) -> AsyncIterator[BulkClient]:
    client = BulkClient()
    await connect_as(client, read_credentials(home.credential("admin")), url, name="import")
    try:
        yield client
    finally:
        await client.close()


async def import_log(
    client: BulkClient,
    folder: Path,
    *,
    as_new_log: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Imported:
    """Write an export into an empty log; one that was cut off goes on from where it stands.

    Parameters
    ----------
    client
        A connection of the admin identity to a broker that has the streams and no running services.
    as_new_log : bool
        Keep the log's own id: a copy for trials, which no read model or seal of the original fits.

    Raises
    ------
    TapelineError
        As `verify_export`; `not_empty` when the log holds other commits.
    """
    manifest, walk = verify_export(folder)
    before = await _begin(client, folder, manifest, as_new_log=as_new_log)
    await _write(client, folder, manifest, before, atomic=True, on_progress=on_progress)
    return await _end(client, manifest, walk, before)


async def _begin(client: BulkClient, folder: Path, manifest: Manifest, *, as_new_log: bool) -> int:
    """Where the log ends, once it is marked as being imported: it holds the beginning of the export, or nothing."""
    state = await wire.stream_state(client, STREAM)
    if state.last:
        same = as_new_log or state.config.get("metadata", {}).get(topology.LOG_ID) == manifest.log_id
        other = None
        if same and state.last <= manifest.position:
            other = await _first_other(client, folder, manifest, state.last)
        if not same or state.last > manifest.position or other is not None:
            where = f"{state.last} commits, and that of position {other} is another one"
            raise TapelineError(
                f"{STREAM} holds {state.last} other commits" if other in (None, 1) else f"{STREAM} holds {where}",
                code="not_empty",
                hint="import into an empty home: set TAPELINE_HOME to a new folder",
            )
    await topology.begin_import(client, log_id=None if as_new_log else manifest.log_id, upto=manifest.position)
    return state.last


async def _write(
    client: BulkClient,
    folder: Path,
    manifest: Manifest,
    before: int,
    *,
    atomic: bool,
    on_progress: Callable[[int, int], None],
) -> None:
    bulk = BulkAppender(client, position=before, atomic=atomic)
    for commits in _after(folder, manifest, before):
        await bulk.add(commits)
        passed("import.batch")
        on_progress(bulk.position, manifest.position)
    await bulk.finish()
    on_progress(bulk.position, manifest.position)


async def _end(client: BulkClient, manifest: Manifest, walk: Walk, before: int) -> Imported:
    """Take the mark of the import away, and say what the log is now."""
    await topology.end_import(client)
    ended = await wire.stream_state(client, STREAM)
    if ended.last != manifest.position:
        raise TapelineError(
            f"the log ends at {ended.last}, expected {manifest.position}",
            code="log_mismatch",
            hint="somebody else wrote to it during the import",
        )
    log_id = str(ended.config["metadata"][topology.LOG_ID])
    return Imported(log_id, ended.last, walk.commits, walk.events, walk.root.hex(), ended.last - before, False)


def _after(folder: Path, manifest: Manifest, position: int) -> Iterator[list[StoredCommit]]:
    """The commits of an export that follow a position, in lists."""
    for segment, text, fault in texts(folder, (one for one in manifest.segments if one.last > position)):
        if fault:
            raise corrupt(f"segment {segment.name} {fault}")
        try:
            for commits in commits_in(text):
                left = [one for one in commits if one.position > position] if segment.first <= position else commits
                if left:
                    yield left
        except Damaged as error:
            raise corrupt(f"segment {segment.name} is damaged: line {error.args[0]}: {error.args[1]}") from error


async def _first_other(client: BulkClient, folder: Path, manifest: Manifest, end: int) -> int | None:
    """The first position up to `end` at which the log does not hold what the export does; None when there is none.

    A server that lost its power in the middle of an import may have kept its end and lost something before it.
    """
    direct = wire.DirectGet(client, STREAM)
    at = 0
    for commits in _after(folder, manifest, 0):
        many = commits[: end - at]
        found: list[wire.Message] = []
        while len(found) < len(many):
            more, _ = await direct.messages(events_of(None), after=at + len(found), batch=len(many) - len(found))
            if not more:
                return at + len(found) + 1
            found += more
        for one, message in zip(many, found, strict=False):
            told = (message.position, message.subject, message.headers.get("Tl-Commit", "").encode(), message.body)
            if told != (one.position, one.subject, one.header, one.body):
                return one.position
        at += len(many)
        if at >= end:
            break
    return None


def sync_all(folder: Path) -> None:
    """Have every file of a folder on disk, whoever wrote it."""
    for path in [folder, *folder.rglob("*")]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
