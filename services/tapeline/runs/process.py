"""The dispatcher as a process manager: what is to be asked for, from what is known. Pure: it looks nothing up.

`react` says what follows from one event, `tick` what is due by now. Both look at jobs as the tables show them, which
may be ahead of the event: then the event leads to nothing any more. What both ask for is one thing, with one id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from tapeline.contracts.metrics import ATTACHED
from tapeline.contracts.runs import STOPPING, Status
from tapeline.log import StoredEvent
from tapeline.runs import schedule
from tapeline.runs.moments import us_of
from tapeline.runs.quantities import Wanted
from tapeline.runs.run.commands import ExpireLease, GiveUp, HoldBack, Overdue, RunCommand

name = "dispatcher"
version = 1
start: Literal["head", "origin"] = "head"
"""What is still to be done is in the tables: a new dispatcher finds it there."""

SETTLE_US = 300_000
"""A new attempt is offered no sooner: the agent that reported the end of the last one is just letting go."""
UNKNOWN_GRACE_S = 15.0
_STARTABLE = frozenset({Status.RUN_CREATED, Status.RUN_RESTART_REQUESTED})
_WAITING = frozenset({Status.JOB_SUBMITTED, Status.JOB_PENDING})

Lease = tuple[str, str, int]
"""Team, run and epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run that is not over, as the tables show it; `status_event` is the event that led to its status."""

    team: str
    id: str
    number: int
    status: Status
    status_event: str
    status_updated_us: int
    attempt: int
    epoch: int
    agent: str | None
    device: str | None
    lease_ttl_s: float | None
    lost_cause: str | None
    submitted_us: int | None
    due_us: int | None
    deadline_us: int | None
    stop_reason: str | None
    wanted_device: str
    priority: int
    blueprint_id: str
    resources: Any

    @property
    def key(self) -> tuple[str, str]:
        return self.team, self.id

    @property
    def lease(self) -> Lease:
        return self.team, self.id, self.epoch

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a device."""
        return self.status in _WAITING and self.lease_ttl_s is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run needs of a device; fixed at its birth."""

    wanted: Wanted
    blueprint: tuple[str, str]
    backend: str
    queue_timeout_s: float | None


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known when something is to be decided.

    Attributes
    ----------
    jobs : the open runs to which something can happen now
    told : the deadline of the stop that the holder of a lease was told
    unknown_for_s : for how long a lost lease has been looked after
    unrenewed : leases whose deadline has passed
    needs : of each job that waits for a device
    devices : those that agents have announced, and whether each is free
    busy : how many devices each team has busy
    """

    jobs: Sequence[Job] = ()
    told: Mapping[Lease, int] = field(default_factory=dict)
    unknown_for_s: Mapping[Lease, float] = field(default_factory=dict)
    unrenewed: Sequence[Lease] = ()
    needs: Mapping[tuple[str, str], Needs] = field(default_factory=dict)
    devices: Sequence[schedule.Device] = ()
    busy: Counter[str] = field(default_factory=Counter)
    unknown_grace_s: float = UNKNOWN_GRACE_S

    @cached_property
    def by_event(self) -> Mapping[str, Job]:
        """The jobs by the event that led to their status."""
        return {job.status_event: job for job in self.jobs}


@dataclass(frozen=True, slots=True)
class Specify:
    """Ask for a job, with the start specification that the tables give."""

    job: Job


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the holder of a lease to stop."""

    job: Job


@dataclass(frozen=True, slots=True)
class Ask:
    """Run a command on a job; `why` and the event that led to its status make the command's id."""

    job: Job
    command: RunCommand
    why: str


@dataclass(frozen=True, slots=True)
class Expire:
    """Take a lease away that was not renewed."""

    lease: Lease
    command: ExpireLease


@dataclass(frozen=True, slots=True)
class Propose:
    """Offer a run to a device."""

    match: schedule.Match


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again after so many seconds."""

    seconds: float


Wish = Specify | Tell | Ask | Expire | Propose | Wait


def react(state: State, event: StoredEvent) -> list[Wish]:
    """What follows from an event, unless the job has moved on since."""
    job = state.by_event.get(event.id)
    return [] if job is None else _due(state, job, event.created_at)


def tick(state: State, now: datetime) -> list[Wish]:
    """What is due by now, and which device each job that waits is offered."""
    wishes = [wish for job in state.jobs for wish in _due(state, job, now)]
    wishes += [Expire(lease, ExpireLease(epoch=lease[2], cause="not_renewed")) for lease in state.unrenewed]
    return wishes + _matched(state, us_of(now))


def once(wishes: Iterable[Wish]) -> list[Wish]:
    """Wishes without those that ask for the same thing again."""
    found: dict[Any, Wish] = {}
    for wish in wishes:
        found.setdefault(_same(wish), wish)
    return list(found.values())


def _same(wish: Wish) -> Any:
    match wish:
        case Specify(job) | Tell(job):
            return type(wish), job.key
        case Ask(job, _, why):
            return Ask, job.key, why
        case Expire(lease, _):
            return Expire, lease
        case _:
            return id(wish)


def _due(state: State, job: Job, now: datetime) -> list[Wish]:
    if job.status in _STARTABLE and (job.due_us or 0) <= us_of(now):
        return [Specify(job)]
    if job.status in STOPPING and job.lease_ttl_s is not None:
        if (job.device or "").startswith(ATTACHED):
            # A script asks by itself, with each renewal.
            return []
        return [] if state.told.get(job.lease) == (job.deadline_us or 0) else [Tell(job)]
    if job.status == Status.JOB_UNKNOWN and job.lease_ttl_s is None:
        # An agent that has started again has said all that it still holds: nothing is left to reclaim.
        is_certain = job.lost_cause == "agent_restarted"
        if is_certain or state.unknown_for_s.get(job.lease, 0.0) >= state.unknown_grace_s:
            reason: Any = "agent_restarted" if is_certain else "lease_lost"
            return [Ask(job, GiveUp(epoch=job.epoch, reason=reason), f"give-up-{job.epoch}")]
    return []


def _matched(state: State, now_us: int) -> list[Wish]:
    wishes: list[Wish] = []
    candidates: dict[str, tuple[Job, schedule.Waiting]] = {}
    for job in state.jobs:
        if not job.is_waiting or (needs := state.needs.get(job.key)) is None:
            continue
        waited_us = now_us - (job.submitted_us or 0)
        if needs.queue_timeout_s is not None and waited_us >= needs.queue_timeout_s * 1e6:
            message = f"no device within {needs.queue_timeout_s:g} s"
            wishes.append(Ask(job, Overdue(attempt=job.attempt, message=message), f"overdue-{job.attempt}"))
        elif job.attempt > 1 and waited_us < SETTLE_US:
            wishes.append(Wait(SETTLE_US / 1e6))
        else:
            candidates[job.id] = job, schedule.Waiting(
                team=job.team, run=job.id, attempt=job.attempt, submitted_us=job.submitted_us or 0,
                selector=job.wanted_device, wanted=needs.wanted, blueprint=needs.blueprint, backend=needs.backend,
                priority=job.priority,
            )  # fmt: skip
    matches, unmatched = schedule.match((one for _, one in candidates.values()), state.devices, state.busy)
    wishes += map(Propose, matches)
    for one in unmatched:
        job, _ = candidates[one.run.run]
        if job.status == Status.JOB_SUBMITTED:
            held = HoldBack(attempt=one.run.attempt, reason=one.reason, nearest=one.nearest)
            wishes.append(Ask(job, held, f"pending-{one.run.attempt}"))
    return wishes


def spoken_for(devices: Iterable[schedule.Device], taken: Iterable[tuple[str, str]]) -> list[schedule.Device]:
    """Devices, those that are offered something or rest as not free."""
    keys = set(taken)
    return [replace(device, is_free=False) if device.key in keys else device for device in devices]
