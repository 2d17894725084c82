"""A bundle, part of another log, becomes part of this one.

All of it is checked and compared with what is here before the first write. Ids, sequences and digests stay,
positions are new. Up to 1000 commits are one atomic append; a larger bundle is several, in the order of its log,
and one that was cut off goes on when it is imported again.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from tapeline import topology
from tapeline.connection import connect
from tapeline.errors import TapelineError
from tapeline.home import Home, read_instance
from tapeline.log import EventLog, StoredCommit
from tapeline.log.codec import digest, link, read_brief
from tapeline.log.graft import BATCH, graft
from tapeline.log.jetstream import JetStreamLog
from tapeline.replay.artifacts import FOLDER, check_artifacts, put_artifacts
from tapeline.replay.chain import Walk
from tapeline.replay.manifest import MANIFEST, Manifest, read_manifest, sync
from tapeline.replay.reading import codec
from tapeline.replay.restore import check_segment
from tapeline.replay.segments import text_of
from tapeline.security.keys import read_credentials
from tapeline.store import LocalStore, key_of
from tapeline.subjects import Ref, ref_of

BATCH_BYTES = 8 * 1024 * 1024
_MOST_ZIPPED = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class Grafted:
    """Where commits of one aggregate were, and where they are now; `position` is None when nothing was written."""

    aggregate: str
    sequence: int
    source_position: int
    position: int | None

    def __str__(self) -> str:
        return f"{self.aggregate}  {self.sequence}  {self.source_position} -> {self.position or '-'}"


@dataclass(frozen=True, slots=True)
class Bundled:
    """What an import of a bundle found and did."""

    source: str
    aggregates: int
    commits: int
    events: int
    known: int
    artifacts: int
    verified_only: bool
    moved: tuple[Grafted, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report with stable keys."""
        return asdict(self)

    def __str__(self) -> str:
        found = f"{self.events} events in {self.commits} commits of {self.aggregates} aggregates, of log {self.source}"
        if self.verified_only:
            return f"complete: {found}; {self.known} are here already"
        return f"complete: {found}; {len(self.moved)} written, {self.known} were here already"


@dataclass(slots=True)
class _Here:
    """What a log has of one aggregate: the digest of each commit by its first sequence, and where it ends."""

    digests: dict[int, str]
    position: int
    sequence: int
    link: str


async def import_bundle(
    client: Client, log: EventLog, path: Path, *, store: LocalStore | None = None, verify_only: bool = False
) -> Bundled:
    """Append the aggregates of a bundle, a folder or a `.zip` of one, to a log.

    Parameters
    ----------
    client
        A connection of the admin identity.
    log
        The same log, to compare with.
    store
        Where files that lie beside the bundle go.

    Raises
    ------
    TapelineError
        `corrupt` or `schema_unknown` as an import of a whole log; `invalid` for a commit whose digest is not
        what its successor or the manifest says, and for a bundle that begins where this log has nothing;
        `conflict` for an aggregate that exists here with other digests. Nothing is written then.
    """
    with unpacked(path) as folder:
        manifest, walk, commits = read_bundle(folder)
        left = await _unknown(log, commits)
        known = len(commits) - len(left)
        moved: list[Grafted] = []
        added = 0
        if not verify_only:
            if store is not None:
                added = await put_artifacts(folder, manifest, store)
            ends = {subject: here.position for subject, here in (await _here_all(log, left)).items()}
            for batch in _batches(left):
                first = await graft(client, batch, ends)
                for position, commit in enumerate(batch, first):
                    ends[commit.subject] = position
                    brief, ref = read_brief(commit.header, commit.position), ref_of(commit.subject)
                    moved.append(Grafted(f"{ref.team}/{ref}", brief.seq, commit.position, position))
        return Bundled(
            manifest.log_id, walk.aggregates, walk.commits, walk.events, known, added, verify_only, tuple(moved)
        )


def read_bundle(folder: Path) -> tuple[Manifest, Walk, list[StoredCommit]]:
    """A bundle, checked to the last byte: manifest, files, chains of each aggregate, events, artifacts."""
    manifest = read_manifest(folder)
    after = manifest.part.after if manifest.part is not None else 0
    walk = Walk(codec(), after=after)
    found: list[StoredCommit] = []
    for segment in manifest.segments:
        check_segment(segment, *text_of(folder, segment), walk, dense=manifest.part is None, see=found.extend)
    if walk.root.hex() != manifest.root:
        raise TapelineError(
            f"{folder} ends with another root than its manifest says",
            code="invalid",
            hint="ask for the bundle again; nothing was written",
        )
    check_artifacts(folder, manifest)
    return manifest, walk, found


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A folder with a bundle: the path itself, or what a `.zip` holds, by names that an export gives."""
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="tapeline-bundle-") as made:
        folder = Path(made)
        try:
            with zipfile.ZipFile(path) as archive:
                members = {info.filename: info for info in archive.infolist()}
                if sum(info.file_size for info in members.values()) > _MOST_ZIPPED:
                    raise TapelineError(
                        f"{path} unpacks to more than {_MOST_ZIPPED >> 30} GiB",
                        code="too_large",
                        hint="unpack it yourself and import the folder",
                    )
                _take(archive, members, MANIFEST, folder)
                manifest = read_manifest(folder)
                for segment in manifest.segments:
                    _take(archive, members, segment.name, folder)
                for sha256 in manifest.artifacts:
                    _take(archive, members, f"{FOLDER}/{key_of(sha256)}", folder)
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
            raise TapelineError(
                f"{path} is no bundle: {error}", code="corrupt", hint="use another copy; nothing was written"
            ) from error
        yield folder


def pack(folder: Path, path: Path) -> None:
    """Make one file of the folder of a bundle, on disk before its name is there."""
    manifest = read_manifest(folder)
    names = [MANIFEST, *(each.name for each in manifest.segments)]
    names += [f"{FOLDER}/{key_of(sha256)}" for sha256 in manifest.artifacts]
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name in names:
                    archive.write(folder / name, name)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def _take(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, folder: Path) -> None:
    """Write one member whose name the caller has made; a missing one is found by the check of the folder."""
    if name not in members or ".." in name.split("/") or name.startswith("/"):
        return
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(members[name]) as source, target.open("xb") as out:
        while block := source.read(1 << 20):
            out.write(block)


async def _unknown(log: EventLog, commits: list[StoredCommit]) -> list[StoredCommit]:
    """The commits that are not here; refused when an aggregate went another way here, or has a hole before them."""
    here = await _here_all(log, commits)
    left: list[StoredCommit] = []
    tails = {subject: (found.sequence, found.link) for subject, found in here.items()}
    for commit in commits:
        brief, found = read_brief(commit.header, commit.position), here[commit.subject]
        ref = ref_of(commit.subject)
        own = digest(commit.subject, commit.header, commit.body)
        sequence, prev = tails[commit.subject]
        if brief.seq <= found.sequence:
            if found.digests.get(brief.seq) != own:
                raise TapelineError(
                    f"{ref.team}/{ref} exists here with another commit at sequence {brief.seq}",
                    code="conflict",
                    hint=f"tapeline log show {ref.team}/{ref}; nothing was written",
                )
        elif brief.seq != sequence + 1:
            raise TapelineError(
                f"the bundle goes on with {ref.team}/{ref} at sequence {brief.seq}; here it ends at {sequence}",
                code="invalid",
                hint="import the bundle that comes before it, or export this one without --after",
            )
        elif brief.prev != prev:
            raise TapelineError(
                f"{ref.team}/{ref} exists here with another commit at sequence {sequence}",
                code="conflict",
                hint=f"tapeline log show {ref.team}/{ref}; nothing was written",
            )
        else:
            left.append(commit)
            tails[commit.subject] = (brief.seq + brief.n - 1, link(commit))
    return left


async def _here_all(log: EventLog, commits: list[StoredCommit]) -> dict[str, _Here]:
    return {subject: await _here(log, ref_of(subject)) for subject in {one.subject for one in commits}}


async def _here(log: EventLog, ref: Ref) -> _Here:
    stored = await log.load(ref, leader=True)
    if not stored:
        return _Here({}, 0, 0, "0" * 64)
    digests = {read_brief(one.header, one.position).seq: digest(one.subject, one.header, one.body) for one in stored}
    last = read_brief(stored[-1].header, stored[-1].position)
    return _Here(digests, stored[-1].position, last.seq + last.n - 1, link(stored[-1]))


def _batches(commits: list[StoredCommit]) -> Iterator[list[StoredCommit]]:
    batch: list[StoredCommit] = []
    size = 0
    for commit in commits:
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(commit)
        size += len(commit.header) + len(commit.body)
    if batch:
        yield batch


async def take_in(home: Home, path: Path, *, verify_only: bool = False) -> Bundled:
    """Import a bundle into a home, beside its running services or with its server alone."""
    async with _admin(home) as client:
        await topology.check(client)
        log = JetStreamLog(client, codec(), connect=_unused, role="admin")
        return await import_bundle(client, log, path, store=LocalStore(home.store), verify_only=verify_only)


async def _unused(_client: Client, /, **_more: Any) -> None:
    raise TapelineError("a bundle is compared by aggregates; nothing reads the whole log", code="internal")


@asynccontextmanager
async def _admin(home: Home) -> AsyncIterator[Client]:
    """A connection as admin to the broker of a home, which runs alone meanwhile when no instance does."""
    async with AsyncExitStack() as stack:
        if (instance := read_instance(home)) is not None:
            url = instance.url
        else:
            from tapeline.embedded.alone import server_alone

            url = await stack.enter_async_context(server_alone(home))
        client = await connect(read_credentials(home.credential("admin")), url, name="import")
        stack.push_async_callback(client.close)
        yield client
