"""An export becomes a log again: verified whole before the first write, every position reproduced."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
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
from tapeline.log.codec import MAX_BODY_BYTES, MAX_HEADER_BYTES, digest
from tapeline.replay.artifacts import check_artifacts, missing_artifacts, put_artifacts
from tapeline.replay.chain import Fault, Walk
from tapeline.replay.manifest import Manifest, Segment, whole_manifest
from tapeline.replay.reading import codec
from tapeline.replay.seals import last_seal
from tapeline.replay.segments import read_segment, salvage
from tapeline.security.keys import read_credentials
from tapeline.store import LocalStore
from tapeline.subjects import ref_of

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


def verify_export(folder: Path) -> tuple[Manifest, Walk]:
    """Check an export to the last byte: manifest, files, positions, chains, events, roots.

    Raises
    ------
    TapelineError
        `corrupt` or `log_damaged`, naming what is wrong and where; `schema_unknown` for a newer event.
    """
    manifest = whole_manifest(folder)
    decoder = codec()
    walk = Walk(decoder)
    sealed = manifest.seal or {}
    for segment in manifest.segments:
        check_segment(folder, segment, walk, sealed=sealed)
    if walk.position != manifest.position or walk.root.hex() != manifest.root:
        raise TapelineError(f"{folder} ends at {walk.position} with another root than its manifest", code="corrupt")
    if sealed and sealed.get("log_id") != manifest.log_id:
        raise TapelineError(
            f"the seal of the export is of log {sealed.get('log_id')}, not of {manifest.log_id}", code="log_mismatch"
        )
    return manifest, walk


def check_segment(
    folder: Path, segment: Segment, walk: Walk, *, sealed: Mapping[str, Any] = MappingProxyType({}), dense: bool = True
) -> list[StoredCommit]:
    """The commits of a segment, once each has passed; `walk` goes over them.

    Parameters
    ----------
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
    commits, fault = salvage(folder, segment)
    faults: list[Fault] = []
    for commit in commits:
        if not dense and commit.position > walk.position:
            walk.position = commit.position - 1
        faults += _hostile(commit) or walk.add(commit)
        if commit.position == sealed.get("position") and sealed.get("root") != walk.root.hex():
            faults.append(Fault(commit.position, "seal", "the root is not the sealed one"))
        if faults:
            break
    if not fault and not faults and not commits:
        fault = "holds no commit"
    if not fault and not faults and commits[0].position != segment.first:
        fault = f"begins at position {commits[0].position}, expected {segment.first}"
    if not fault and not faults and (walk.position, walk.digest, walk.root.hex()) != (
        segment.last, segment.digest, segment.root,
    ):  # fmt: skip
        fault = f"ends at position {walk.position} with another root than the manifest says"
    if fault or faults:
        _refuse(segment, fault, faults, code="corrupt" if dense or fault else "invalid")
    return commits


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


def _hostile(commit: StoredCommit) -> list[Fault]:
    """What no log of ours can hold, and what would break out of its place on the wire."""
    try:
        ref_of(commit.subject)
    except TapelineError as error:
        return [Fault(commit.position, "decode", error.message)]
    if not _ONE_LINE.fullmatch(commit.header):
        return [Fault(commit.position, "decode", "its header is not one line of ASCII")]
    if len(commit.header) > MAX_HEADER_BYTES or len(commit.body) > MAX_BODY_BYTES:
        return [Fault(commit.position, "decode", "it is larger than a commit may be")]
    return []


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
    manifest, _ = verify_export(folder)
    check_artifacts(folder, manifest)

    async def write(url: str) -> Imported:
        client = BulkClient()
        await connect_as(client, read_credentials(home.credential("admin")), url, name="import")
        try:
            return await import_log(client, folder, as_new_log=as_new_log, on_progress=on_progress)
        finally:
            await client.close()

    if (instance := read_instance(home)) is not None:
        done = await write(instance.url)
    else:
        from tapeline.embedded.alone import server_alone

        async with server_alone(home) as url:
            done = await write(url)
    store = LocalStore(home.store)
    added = await put_artifacts(folder, manifest, store)
    missing = await missing_artifacts(folder, manifest, store)
    seal = last_seal(home, done.log_id)
    sealed = int(seal["position"]) if seal is not None else 0
    return replace(done, artifacts=added, missing_artifacts=len(missing), sealed=sealed)


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
    state = await wire.stream_state(client, STREAM)
    metadata = state.config.get("metadata", {})
    if state.last:
        same = as_new_log or metadata.get(topology.LOG_ID) == manifest.log_id
        if not same or state.last > manifest.position or not await _continues(client, folder, manifest, state.last):
            raise TapelineError(
                f"{STREAM} holds {state.last} other commits",
                code="not_empty",
                hint="import into an empty home: set TAPELINE_HOME to a new folder",
            )
    await topology.begin_import(client, log_id=None if as_new_log else manifest.log_id, upto=manifest.position)
    bulk = BulkAppender(client, position=state.last)
    for commits in _after(folder, manifest, state.last):
        await bulk.add(commits)
        passed("import.batch")
        on_progress(bulk.position, manifest.position)
    await bulk.finish()
    on_progress(bulk.position, manifest.position)
    await topology.end_import(client)
    ended = await wire.stream_state(client, STREAM)
    if ended.last != manifest.position:
        raise TapelineError(
            f"the log ends at {ended.last}, expected {manifest.position}",
            code="log_mismatch",
            hint="somebody else wrote to it during the import",
        )
    log_id = str(ended.config["metadata"][topology.LOG_ID])
    return Imported(log_id, ended.last, walk.commits, walk.events, walk.root.hex(), ended.last - state.last, False)


def _after(folder: Path, manifest: Manifest, position: int) -> Iterator[list[StoredCommit]]:
    for segment in manifest.segments:
        if segment.last <= position:
            continue
        for commits in read_segment(folder, segment):
            left = [one for one in commits if one.position > position] if segment.first <= position else commits
            if left:
                yield left


async def _continues(client: BulkClient, folder: Path, manifest: Manifest, position: int) -> bool:
    """Whether the commit that ends the log is the one at its position in the export."""
    stored = await wire.message(client, STREAM, {"seq": position})
    expected = next(
        (one for commits in _after(folder, manifest, position - 1) for one in commits if one.position == position), None
    )
    if stored is None or expected is None:
        return False
    found = digest(stored.subject, stored.headers.get("Tl-Commit", "").encode(), stored.body)
    return found == digest(expected.subject, expected.header, expected.body)
