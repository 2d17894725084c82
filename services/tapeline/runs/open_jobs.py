"""The runs that are not over, kept in mind: what a look costs must not grow with how many wait."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import fields
from itertools import chain, islice

from sqlalchemy import Connection, or_, select

from tapeline.contracts.runs import FINISHED, Status
from tapeline.projections import rows_of
from tapeline.runs.process import Job, Needs
from tapeline.runs.run.tables import runs

Key = tuple[str, str]

_WATCHED = frozenset(status.value for status in Status if status not in FINISHED)
_NAMES = [field.name for field in fields(Job)]
_OPEN = (
    select(*(runs.c[name] for name in _NAMES))
    .where(
        or_(runs.c.status.in_(sorted(_WATCHED)), runs.c.lease_ttl_s.is_not(None)),
        runs.c.is_deleted.is_(False),
    )
    .order_by(runs.c.created_us)
)


def all_open(connection: Connection) -> list[Job]:
    """Every run that is not over, oldest first."""
    return [Job(**{**row, "status": Status(row["status"])}) for row in connection.execute(_OPEN).mappings()]


def of_keys(connection: Connection, keys: Collection[Key]) -> list[Job]:
    """Of these runs those that are not over."""
    return [
        Job(**{name: row[name] for name in _NAMES} | {"status": Status(row["status"])})
        for row in rows_of(connection, runs, list(keys))
        if not row["is_deleted"] and (row["status"] in _WATCHED or row["lease_ttl_s"] is not None)
    ]


class OpenJobs:
    """Open runs by what there is to do about them.

    Those that wait for a device are kept in lines of like ones: whichever device comes free, of a line only as many
    of the first can get one as there are devices.
    """

    def __init__(self) -> None:
        self._jobs: dict[Key, Job] = {}
        self._moving: dict[Key, Job] = {}
        self._needs: dict[Key, Needs] = {}
        self._lines: dict[Hashable, dict[Key, Job]] = {}
        self._line_of: dict[Key, Hashable] = {}
        self._fresh: dict[Key, None] = {}
        """Those that wait and have not been told so, or that wait only so long: each look is for them."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def moving(self) -> Collection[Job]:
        """The jobs that do not wait for a device: those of which an end, a start or a lease may be due."""
        return self._moving.values()

    @property
    def any_waits(self) -> bool:
        """Whether a job waits for a device."""
        return bool(self._line_of)

    def get(self, key: Key) -> Job | None:
        """The job of a run, None when it is over."""
        return self._jobs.get(key)

    def needs(self, job: Job) -> Needs | None:
        """What a job needs of a device, once it was told."""
        return self._needs.get(job.key)

    def replace(self, found: Iterable[Job]) -> None:
        """Know these jobs, and no others."""
        jobs = list(found)
        self._needs = {job.key: self._needs[job.key] for job in jobs if job.key in self._needs}
        for known in (self._jobs, self._moving, self._lines, self._line_of, self._fresh):
            known.clear()
        for job in sorted((job for job in jobs if job.is_waiting), key=lambda job: (job.submitted_us or 0, job.id)):
            self._put(job)
        for job in jobs:
            if not job.is_waiting:
                self._put(job)

    def update(self, keys: Iterable[Key], found: Iterable[Job]) -> None:
        """Know of these runs what was found; what was not found is over."""
        by_key = {job.key: job for job in found}
        for key in keys:
            job = by_key.get(key)
            if job is None:
                self._leave(key)
                self._jobs.pop(key, None)
                self._needs.pop(key, None)
            else:
                if not (job.is_waiting and key in self._line_of):
                    self._leave(key)
                self._put(job)

    def defer(self, key: Key) -> None:
        """Let the other moving jobs go first from now on."""
        if (job := self._moving.pop(key, None)) is not None:
            self._moving[key] = job

    def unknown(self) -> list[Job]:
        """Jobs that wait and whose needs were not told."""
        return [self._jobs[key] for key in self._fresh if key not in self._needs]

    def tell(self, job: Job, needs: Needs) -> None:
        """What a job needs of a device; it never changes."""
        self._needs[job.key] = needs
        if job.key in self._fresh:
            self._put(self._jobs[job.key])

    def candidates(self, free: int, passed_over: Callable[[Job], bool]) -> list[Job]:
        """The jobs that wait to which something can happen now, if so many devices are free.

        Those that are `passed_over` are in nobody's way.
        """
        fresh = [self._jobs[key] for key in self._fresh]
        if free:
            firsts = chain.from_iterable(self._first(line, free, passed_over) for line in self._lines.values())
            fresh = list({job.key: job for job in chain(fresh, firsts)}.values())
        return [job for job in fresh if not passed_over(job)]

    @staticmethod
    def _first(line: dict[Key, Job], many: int, passed_over: Callable[[Job], bool]) -> Iterator[Job]:
        return islice((job for job in line.values() if not passed_over(job)), many)

    def _put(self, job: Job) -> None:
        key = job.key
        self._jobs[key] = job
        if not job.is_waiting:
            self._moving[key] = job
            return
        needs = self._needs.get(key)
        line = self._line_of.get(key)
        if line is None or needs is not None:
            known = _line(job, needs)
            if known != line:
                self._leave(key)
            line = self._line_of[key] = known
        self._lines.setdefault(line, {})[key] = job
        # An attempt that follows another is offered a moment later, and one with a time limit ends without a device.
        stays = needs is None or needs.queue_timeout_s is not None or job.status == Status.JOB_SUBMITTED
        if stays:
            self._fresh[key] = None
        else:
            self._fresh.pop(key, None)

    def _leave(self, key: Key) -> None:
        self._moving.pop(key, None)
        self._fresh.pop(key, None)
        line = self._line_of.pop(key, None)
        if line is not None:
            del self._lines[line][key]
            if not self._lines[line]:
                del self._lines[line]


def _line(job: Job, needs: Needs | None) -> Hashable:
    if needs is None:
        return job.key
    return job.team, job.wanted_device, job.priority, needs.wanted, needs.blueprint, needs.backend
