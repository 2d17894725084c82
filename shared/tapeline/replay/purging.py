"""Removing the batches of runs whose points are archived: compared first, on the log before, and for ever.

Whoever purges is the admin: no service may. What is removed was read once more, and every point of it was found in
the archive, whose objects were read in full.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import msgspec
from nats.aio.client import Client

from tapeline import metric_archives as forms
from tapeline import topology
from tapeline.address import find_url
from tapeline.clock import SystemClock
from tapeline.columns import Points, unpack
from tapeline.connection import connect
from tapeline.contracts.archives import PurgeMetrics
from tapeline.decider import Deciders, Origin
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.home import Home, find_home
from tapeline.ids import new_id
from tapeline.log import EventLog
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.metrics import MetricsMessage, MetricsStream
from tapeline.metric_archives import Manifest
from tapeline.replay.past import fold_of
from tapeline.replay.reading import codec, find_ref
from tapeline.security.keys import read_credentials
from tapeline.store import ArtifactStore, LocalStore
from tapeline.subjects import Ref

ACTOR = "operator:admin"
_LAST = 2**62
Prints = dict[tuple[int, str], tuple[int, str]]
"""Of each attempt and tag how many points there are, and a digest of them in the order of their times."""


class _Column(msgspec.Struct):
    tag: str
    body: bytes


class _Batch(msgspec.Struct):
    columns: list[_Column] = []


_batches = msgspec.msgpack.Decoder(_Batch)


class Rules(Protocol):
    """What is needed of the decider of runs."""

    def initial(self) -> Any: ...

    def decide(self, state: Any, command: Any, /) -> list[Any]: ...

    def evolve(self, state: Any, event: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has removed, or would: `messages` batches of a run whose `points` lie in the archive `manifest`.

    `later` is how many messages came after the archive: they stay. `is_done` is False for a dry run.
    """

    run: str
    number: int
    manifest: str
    points: int
    objects: int
    size_bytes: int
    messages: int
    bytes: int
    later: int
    is_done: bool

    def to_json(self) -> dict[str, Any]:
        """The report with stable keys."""
        return asdict(self)

    def __str__(self) -> str:
        held = f"{self.points} points in {self.objects} objects, all of them read and right"
        if not self.messages:
            return f"r{self.number} {self.run}: nothing is left to purge; {held}"
        does = "purged" if self.is_done else "would purge"
        return f"r{self.number} {self.run}: {does} {self.messages} messages, {self.bytes} bytes; {held}"


@dataclass(slots=True)
class _Read:
    """What METRICS has of a run up to the marker of its archive."""

    before: int = 0
    messages: int = 0
    bytes: int = 0
    later: int = 0


class _Hashes:
    """Prints of points that come in the order of their times."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str], list[Any]] = {}

    def add(self, attempt: int, tag: str, points: Points) -> None:
        import numpy as np

        known = self._found.setdefault((attempt, tag), [0, hashlib.sha256()])
        known[0] += len(points)
        # Point by point, so that where one list ends and the next begins does not matter.
        known[1].update(np.stack([points.steps, points.times, points.bits, points.whole.astype("<i8")], 1).tobytes())

    def prints(self) -> Prints:
        return {of: (count, digest.hexdigest()) for of, (count, digest) in self._found.items() if count}


async def purge_metrics(
    log: EventLog, metrics: MetricsStream, deciders: Deciders, store: ArtifactStore, ref: Ref, *, dry_run: bool = False
) -> Purged:
    """Remove the batches of a run that its archive stands for; see `purge`."""
    rules: Rules = fold_of("run")  # type: ignore[assignment]
    run = await deciders.state(rules, ref)
    noted = run.archived
    # The rules are asked before anything is read: a run that lives or is not archived is refused here.
    manifest_id = noted.manifest.sha256 if noted is not None else ""
    rules.decide(run, PurgeMetrics(before=_LAST, messages=0, points=0, manifest=manifest_id))
    if noted is None:
        raise TapelineError(f"run {ref.id} has no archive", code="conflict", hint=f"tapeline metrics archive {ref.id}")
    at = forms.Object(noted.manifest.sha256, noted.manifest.size_bytes)
    manifest = await forms.manifest_at(store, at)
    await forms.check_all(store, manifest)
    found, stored = await _read(metrics, store, ref, manifest_id)
    if stored is not None:
        _compare(ref, stored, await _archived(store, manifest))
    report = Purged(
        ref.id, run.number, manifest_id, manifest.points, len(manifest.objects), manifest.size_bytes, found.messages,
        found.bytes, found.later, not dry_run and found.messages > 0,
    )  # fmt: skip
    if dry_run or not found.messages:
        return report
    passed("purge.compared")
    command = PurgeMetrics(
        before=found.before, messages=found.messages, points=manifest.points, manifest=manifest_id
    )  # fmt: skip
    # On the log first: who was stopped in between repeats it, and nobody wonders where the batches are.
    await deciders.handle(rules, ref, command, Origin(actor=ACTOR, command_id=new_id()))
    passed("purge.noted")
    await metrics.purge(ref.team, ref.id, before=found.before)
    passed("purge.done")
    return report


async def _read(
    metrics: MetricsStream, store: ArtifactStore, ref: Ref, manifest_id: str
) -> tuple[_Read, Prints | None]:
    """Read a run's messages up to the marker of its archive; no prints where there is nothing before it."""
    found, hashes = _Read(), _Hashes()
    reached: dict[int, int] = {}
    begun: Manifest | None = None
    async for one in metrics.messages_of(ref.team, ref.id):
        if found.before:
            found.later += 1
            continue
        if one.is_archive and forms.marker_of(one.body).manifest.sha256 == manifest_id:
            found.before = one.position
            continue
        if one.is_archive and not found.messages:
            # What came before it is gone already: its own archive tells of that.
            begun = await forms.manifest_at(store, forms.marker_of(one.body).manifest)
            reached = {attempt: each[0] for attempt, each in begun.ledger.items()}
            await _add(store, begun, hashes)
        found.messages, found.bytes = found.messages + 1, found.bytes + len(one.body)
        if one.is_batch:
            _take(one, reached, hashes)
    if not found.before:
        raise TapelineError(
            f"METRICS does not know yet that run {ref.id} is archived",
            code="conflict",
            hint=f"tapeline metrics archive {ref.id}",
        )
    return found, hashes.prints() if found.messages else None


def _take(one: MetricsMessage, reached: dict[int, int], hashes: _Hashes) -> None:
    known = reached.get(one.attempt, 0)
    if one.batch <= known:
        return
    if one.batch != known + 1:
        raise TapelineError(
            f"batches {known + 1} to {one.batch - 1} of attempt {one.attempt} of run {one.run} are missing",
            code="log_damaged",
            hint="tapeline log verify --metrics; nothing was purged",
        )
    reached[one.attempt] = one.batch
    try:
        columns = _batches.decode(one.body).columns
    except msgspec.MsgspecError as error:
        raise TapelineError(
            f"batch {one.batch} of run {one.run} cannot be read: {error}", code="log_damaged"
        ) from error
    for column in columns:
        hashes.add(one.attempt, column.tag, _in_time(unpack(column.body)))


def _in_time(points: Points) -> Points:
    import numpy as np

    return points.take(np.argsort(points.times, kind="stable"))


async def _archived(store: ArtifactStore, manifest: Manifest) -> Prints:
    hashes = _Hashes()
    await _add(store, manifest, hashes)
    return hashes.prints()


async def _add(store: ArtifactStore, manifest: Manifest, hashes: _Hashes) -> None:
    of_object: dict[int, list[forms.Segment]] = {}
    for segment in manifest.segments:
        of_object.setdefault(segment.object, []).append(segment)
    for number, segments in sorted(of_object.items()):
        data = await forms.fetch(store, manifest.objects[number])
        for each in sorted(segments, key=lambda one: (one.tag, one.last_us)):
            body = data[each.offset : each.offset + each.size_bytes]
            if forms.digest_of(body) != each.digest:
                raise forms.lacking(manifest.objects[number].sha256[:12], f"has other points of {each.tag!r}")
            hashes.add(each.attempt, each.tag, unpack(body))


def _compare(ref: Ref, stored: Prints, archived: Prints) -> None:
    for of in sorted({*stored, *archived}):
        here, there = stored.get(of, (0, "")), archived.get(of, (0, ""))
        if here != there:
            attempt, tag = of
            raise TapelineError(
                f"the archive of run {ref.id} is not what METRICS has of {tag!r} in attempt {attempt}: "
                f"{there[0]} points with digest {there[1][:12]}, not {here[0]} with {here[1][:12]}",
                code="corrupt",
                hint="nothing was purged; tapeline log verify --metrics",
            )


async def purge(home: Home | None, places: Sequence[str], *, dry_run: bool = False) -> list[Purged]:
    """Remove the batches of runs whose points are archived, as the admin of a home, whose instance may run.

    Parameters
    ----------
    places
        Runs, each as `<id>`, `run/<id>` or `<team>/run/<id>`.
    dry_run
        Compare everything, and remove nothing.

    Raises
    ------
    TapelineError
        `unauthenticated` without the admin's credential file; `not_found` for an unknown run; `conflict` for one
        that has not ended or is not archived; `corrupt` when an object is missing or damaged, or has other points
        than the batches.
    """
    home = home or find_home()
    async with _admin(home) as client:
        await topology.check(client)
        log = JetStreamLog(client, codec(), connect=_unused, role="admin")
        metrics = MetricsStream(client, connect=_unused, role="admin")
        deciders, store = Deciders(log, codec(), SystemClock()), LocalStore(home.store)
        refs = [await _ref_of(log, place) for place in places]
        return [await purge_metrics(log, metrics, deciders, store, ref, dry_run=dry_run) for ref in refs]


async def _ref_of(log: EventLog, place: str) -> Ref:
    ref = await find_ref(log, place if "/" in place else f"run/{place}")
    if ref.kind != "run":
        raise TapelineError(f"{place!r} is no run", code="invalid", hint="write its id, or <team>/run/<id>")
    return ref


async def _unused(_client: Client, /, **_more: Any) -> None:
    raise TapelineError("a purge reads runs; nothing reads a whole stream", code="internal")


@asynccontextmanager
async def _admin(home: Home) -> AsyncIterator[Client]:
    url = await find_url(home, os.environ.get("TAPELINE_URL"))
    client = await connect(read_credentials(home.credential("admin")), url, name="purge")
    try:
        yield client
    finally:
        await client.close()
