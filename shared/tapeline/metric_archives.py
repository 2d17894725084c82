"""The bytes of archived measurements: objects of packed points, a manifest that names them, and a marker on METRICS.

An *object* is the packed points of segments, one after the other, as `tapeline.columns` packs them; its address is
its SHA-256. The *manifest* of a run is an object too: what the tables tell of the run, with the place and the digest
of each segment in an object. The *marker* lies on the run's subject of METRICS, after the batches that it stands
for, and names the manifest: whoever reads the stream needs nothing before it. *Arrivals* are what batches say
besides their points, so that the tables of any moment before can be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tapeline.contracts.artifacts import Artifact
from tapeline.errors import TapelineError
from tapeline.store import ArtifactStore

if TYPE_CHECKING:
    from tapeline.log.metrics import MetricsMessage

OBJECT_BYTES = 8 * 2**20
"""An object is closed once it is so large."""
PART_BYTES = 2**20
FORMAT = 1


class Object(msgspec.Struct, array_like=True, frozen=True):
    """Immutable bytes in the artifact store."""

    sha256: str
    size_bytes: int


class Segment(msgspec.Struct, array_like=True):
    """A segment of a tag, and where its points lie: `object` is a place in the manifest's list.

    Attributes
    ----------
    digest : SHA-256 of its packed points
    thin : the extremes that a curve from afar is drawn from, packed; they stay in the tables
    """

    tag: str
    attempt: int
    first_us: int
    last_us: int
    points: int
    min_step: int
    max_step: int
    nonfinite: int
    thin: bytes | None
    object: int
    offset: int
    size_bytes: int
    digest: bytes


class Arrival(msgspec.Struct, array_like=True):
    """A batch without its points: those of its attempt that are later than the batch before, up to `last_us`."""

    position: int
    stored_us: int
    attempt: int
    batch: int
    epoch: int
    upto: int
    last_us: int
    seal: int | None
    refused: str | None
    progress: list[Any]


class Manifest(msgspec.Struct):
    """All that is kept of a run's measurements up to a position of METRICS.

    Attributes
    ----------
    through : the position of the last message that is in it, 0 for those of another run that this one was copied from
    ledger : how far each attempt is, as batches carry it; nothing is left to be made into segments
    unsealed : by attempt the first batch that had not become a segment by itself
    attempts, latest, progress : rows of the tables, without team and run
    arrivals : objects of msgpack lists, in order
    """

    team: str
    run: str
    through: int
    points: int
    batches: int
    last_us: int
    ledger: dict[int, list[int]]
    unsealed: dict[int, int]
    attempts: list[dict[str, Any]]
    latest: list[dict[str, Any]]
    progress: list[dict[str, Any]]
    objects: list[Object]
    segments: list[Segment]
    arrivals: list[Object]
    format: int = FORMAT

    @property
    def size_bytes(self) -> int:
        """What the objects of its points take."""
        return sum(each.size_bytes for each in self.objects)


class Marker(msgspec.Struct):
    """What stands on METRICS for the batches before it; `messages` is how many there ever were before it."""

    team: str
    run: str
    through: int
    messages: int
    manifest: Object
    last_us: int
    ledger: dict[int, list[int]]


_manifests = msgspec.msgpack.Decoder(Manifest)
_markers = msgspec.msgpack.Decoder(Marker)
_arrivals = msgspec.msgpack.Decoder(list[Arrival])
encode = msgspec.msgpack.Encoder().encode


def marker_of(body: bytes) -> Marker:
    """The marker of a message; `corrupt` when it is none."""
    try:
        return _markers.decode(body)
    except msgspec.MsgspecError as error:
        raise TapelineError(f"the marker of an archive cannot be read: {error}", code="corrupt") from error


def mark(manifest: Manifest, at: Object, messages: int) -> bytes:
    """The body of the message that stands for what a manifest holds, and for so many messages before it."""
    return encode(
        Marker(
            team=manifest.team, run=manifest.run, through=manifest.through, messages=messages, manifest=at,
            last_us=manifest.last_us, ledger=manifest.ledger,
        )
    )  # fmt: skip


# --- writing ----------------------------------------------------------------------------------------


class Packer:
    """Puts the points of segments into objects of even size."""

    def __init__(self, most: int = OBJECT_BYTES) -> None:
        self._most = most
        self._open: list[bytes] = []
        self._size = 0
        self.done: list[bytes] = []

    def add(self, body: bytes) -> tuple[int, int]:
        """Add packed points; in which of the objects they lie, and where."""
        place = len(self.done), self._size
        self._open.append(body)
        self._size += len(body)
        if self._size >= self._most:
            self.close()
        return place

    def close(self) -> list[bytes]:
        """Every object, the last one too."""
        if self._open:
            self.done.append(b"".join(self._open))
            self._open, self._size = [], 0
        return self.done


async def keep(store: ArtifactStore, data: bytes) -> Object:
    """Put bytes into the store, read them again, and say where they are; repeating it changes nothing.

    Raises
    ------
    TapelineError
        `corrupt` when the store has other bytes under that digest, `insufficient_storage` when it is full.
    """
    made = Object(hashlib.sha256(data).hexdigest(), len(data))
    if not await store.has(made.sha256):
        key = f"metrics/{made.sha256}"
        await store.stage_bytes(key, data)
        await store.promote(key, sha256=made.sha256, size_bytes=made.size_bytes)
    await check(store, made)
    return made


def digest_of(body: bytes) -> bytes:
    """The digest that a segment's points must have."""
    return hashlib.sha256(body).digest()


def artifact_of(made: Object, name: str) -> Artifact:
    """An object as events name it."""
    return Artifact(name=name, size_bytes=made.size_bytes, sha256=made.sha256)


# --- reading ----------------------------------------------------------------------------------------


def lacking(what: str, why: str) -> TapelineError:
    """The error of archived measurements that cannot be read."""
    return TapelineError(
        f"an object of archived metrics, {what}, {why}",
        code="corrupt",
        hint="put it back from an export or another copy of the store; then tapeline log verify --metrics",
    )


@contextmanager
def _readable(sha256: str) -> Iterator[None]:
    """Name the object that the store does not have, or that its disk does not give."""
    try:
        yield
    except TapelineError as error:
        if error.code != "not_found":
            raise
        raise lacking(sha256[:12], "is missing from the artifact store") from error
    except OSError as error:
        raise lacking(sha256[:12], f"cannot be read: {error.strerror}") from error


async def fetch(store: ArtifactStore, of: Object) -> bytes:
    """The bytes of an object; `corrupt` when they are missing or others."""
    with _readable(of.sha256):
        data = await store.read(of.sha256)
    if len(data) != of.size_bytes or hashlib.sha256(data).hexdigest() != of.sha256:
        raise lacking(of.sha256[:12], "is damaged: its digest is another one")
    return data


async def check(store: ArtifactStore, of: Object) -> None:
    """Read an object in parts; `corrupt` when it is missing, or has other bytes than its address says."""
    digest, offset = hashlib.sha256(), 0
    with _readable(of.sha256):
        while part := await store.read(of.sha256, offset, PART_BYTES):
            digest.update(part)
            offset += len(part)
    if offset != of.size_bytes or digest.hexdigest() != of.sha256:
        raise lacking(of.sha256[:12], "is damaged: its digest is another one")


async def manifest_at(store: ArtifactStore, of: Object) -> Manifest:
    """The manifest at an address.

    Raises
    ------
    TapelineError
        `corrupt` when it is missing or damaged, `schema_unknown` when a newer version wrote it.
    """
    data = await fetch(store, of)
    try:
        found = _manifests.decode(data)
    except msgspec.MsgspecError as error:
        raise lacking(of.sha256[:12], f"is no manifest: {error}") from error
    if found.format != FORMAT:
        raise TapelineError(
            f"the manifest {of.sha256[:12]} has format {found.format}; this version reads {FORMAT}",
            code="schema_unknown",
            hint="run the version of tapeline that wrote it, or a newer one",
        )
    return found


async def check_all(store: ArtifactStore, manifest: Manifest) -> None:
    """Read every object that a manifest names; `corrupt`, naming the first that is missing or damaged."""
    for each in (*manifest.objects, *manifest.arrivals):
        await check(store, each)


async def arrivals_of(store: ArtifactStore, manifest: Manifest) -> AsyncIterator[Sequence[Arrival]]:
    """The batches that a manifest stands for, without their points, in order."""
    for each in manifest.arrivals:
        yield _arrivals.decode(await fetch(store, each))


async def archived_before(lists: AsyncIterator[Sequence[MetricsMessage]]) -> int:
    """How many messages were purged that an archive stands for, of all that there are in a stream."""
    present: dict[tuple[str, str], int] = {}
    gone: dict[tuple[str, str], int] = {}
    async for many in lists:
        for one in many:
            of = one.team, one.run
            if one.is_archive:
                # Each marker counts all that came before it in its run.
                gone[of] = max(0, marker_of(one.body).messages - present.get(of, 0))
            present[of] = present.get(of, 0) + 1
    return sum(gone.values())


class Absent(Exception):
    """An object is to be fetched before a question can be answered."""

    def __init__(self, sha256: str) -> None:
        super().__init__(sha256)
        self.sha256 = sha256


class Files:
    """Objects as local files, for questions that cannot wait: one that is not at hand is asked for by `Absent`.

    Parameters
    ----------
    store
        Where the objects lie.
    cache
        A folder for those of a store that is elsewhere.
    """

    def __init__(self, store: ArtifactStore, cache: Path) -> None:
        self._store = store
        self._cache = cache
        self._paths: dict[str, Path] = {}

    def body(self, sha256: str, offset: int, size_bytes: int, digest: bytes) -> bytes:
        """The packed points of a segment.

        Raises
        ------
        Absent
            Its object is not at hand: `bring` it, and ask again.
        TapelineError
            `corrupt` when the bytes are others than were archived.
        """
        path = self._paths.get(sha256)
        if path is None:
            raise Absent(sha256)
        if not path.exists():
            del self._paths[sha256]
            raise Absent(sha256)
        with _readable(sha256), path.open("rb") as file:
            file.seek(offset)
            data = file.read(size_bytes)
        if hashlib.sha256(data).digest() != digest:
            raise lacking(sha256[:12], "is damaged: points in it have another digest")
        return data

    async def bring(self, sha256: str) -> None:
        """Have an object at hand; `corrupt` when it is missing or damaged."""
        with suppress(FileExistsError):
            self._cache.mkdir(mode=0o700, parents=True)
        with _readable(sha256):
            self._paths[sha256] = await self._store.local_path(sha256, self._cache)
