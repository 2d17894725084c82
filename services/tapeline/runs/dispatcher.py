"""The process manager of runs: jobs for those that want one, devices for those that wait, ends for the lost.

What is to be asked for is decided in `process.py`; here it is carried out. Events are reacted to in order, from the
position that is stored once all that followed from them was answered; and every moment the tables are looked at for
what is due. A crash at any point loses nothing, and a command's id comes from the event that led to it, so that
asking twice has one effect. Messages to agents are hints, and are sent again by renewals and later offers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from contextlib import aclosing
from typing import Any, assert_never

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tapeline import subjects
from tapeline.clock import Clock
from tapeline.contracts.agents import Stop
from tapeline.contracts.runs import Status
from tapeline.database import Engine
from tapeline.decider import Deciders, Outcome, origin_of
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.ids import derived_id
from tapeline.log import StoredCommit, StoredEvent
from tapeline.log.codec import Codec, read_header
from tapeline.logs import get_logger
from tapeline.process import Progress
from tapeline.projections import Reader, Tail, row_of
from tapeline.projections.turns import first_of
from tapeline.runs import jobs, process, schedule
from tapeline.runs.blueprint import queries as blueprints
from tapeline.runs.device.presence import REST_S, SHORT_REST_S, Presence
from tapeline.runs.device.queries import devices
from tapeline.runs.leases import Leases
from tapeline.runs.moments import us_of
from tapeline.runs.offers import Offers
from tapeline.runs.open_jobs import OpenJobs, all_open, of_keys
from tapeline.runs.process import UNKNOWN_GRACE_S, Ask, Expire, Job, Lease, Needs, Propose, Specify, State, Tell, Wait
from tapeline.runs.quantities import wanted
from tapeline.runs.run import aggregate
from tapeline.runs.run.commands import ExpireLease, GiveUp, RunCommand
from tapeline.runs.run.tables import runs
from tapeline.service import Publish
from tapeline.subjects import Ref

log = get_logger()

ACTOR = "service:runs"
LOOK_EVERY_S = 1.0
SWEEP_EVERY_S = 5.0
BREATH_S = 0.02
YIELDS = 2.0
"""So many times as long as a look took the next one waits."""
SAVE_EVERY_S = 0.25
"""A position is stored this often at most: what is repeated after a crash has one effect all the same."""
REREAD_EVERY_S = 15.0
"""All open runs are read anew this often at most: rows also change without an event, when an aggregate is unparked."""
REREAD_SHARE = 50
"""Reading them all takes at most this part of the time."""
AT_ONCE = 64
"""Jobs that one look asks for: who waits for a device does not wait for a thousand births as well."""

_STARTABLE = frozenset({Status.RUN_CREATED, Status.RUN_RESTART_REQUESTED})
QUIET = frozenset({"NotesChanged", "RunRenamed", "CheckpointBegun", "CheckpointCompleted", "CheckpointPinned",
                   "CheckpointDeleted", "NameClaimed", "NameReleased", "NumberTaken", "MetricsArchived",
                   "MetricsPurged"})  # fmt: skip
"""Events that leave nothing to do: users write notes and trainers keep checkpoints all the time."""


class Dispatcher:
    """Keeps runs moving."""

    def __init__(
        self,
        *,
        log: Tail,
        codec: Codec,
        deciders: Deciders,
        reader: Reader,
        engine: Engine,
        clock: Clock,
        publish: Publish,
        leases: Leases,
        offers: Offers,
        presence: Presence,
        unknown_grace_s: float = UNKNOWN_GRACE_S,
        sweep_every_s: float = SWEEP_EVERY_S,
    ) -> None:
        self._log = log
        self._codec = codec
        self._deciders = deciders
        self._reader = reader
        self._clock = clock
        self._publish = publish
        self._progress = Progress(engine, process)
        self.leases = leases
        self.offers = offers
        self.presence = presence
        self._unknown_grace_s = unknown_grace_s
        self._sweep_every_s = sweep_every_s
        self._swept = clock.monotonic()
        self._woken = asyncio.Event()
        self._unknown_since: dict[Lease, float] = {}
        self._told: dict[Lease, int] = {}
        self._open = OpenJobs()
        self._reread_at = -math.inf
        self._is_following = False
        self._pending: deque[tuple[int, list[StoredEvent]]] = deque()
        self._saved_at = -SAVE_EVERY_S
        self.position = -1

    def wake(self) -> None:
        """Look again soon."""
        self._woken.set()

    async def start(self) -> None:
        """Find the leases that are live on the log; each gets one full ttl from now."""
        await self._reader.projector.wait_for(0)
        await self._read_all()
        self._reconcile()

    async def run(self) -> None:
        """React to every commit, and look once a second, from the moment that the tables have caught up."""
        await self._catch_up()
        # Another copy may have looked until now, and have heard of renewals that this one did not.
        self.leases.renew_all()
        self.position = await self._progress.open(self._reader.projector.log_id, self._reader.projector.position)
        self._pending.clear()
        self._is_following, self._reread_at = True, -math.inf
        await first_of(self._follow(self.position), self._work())

    async def _follow(self, after: int) -> None:
        """Hear of each commit, once the tables have it."""
        while True:
            _leave_if_cancelled()
            try:
                async with aclosing(self._log.read(after=after, follow=True)) as lists:
                    async for commits in lists:
                        chosen = [commit for commit in commits if _may_matter(commit)]
                        if chosen:
                            # A wait of its own would have each commit folded alone.
                            await self._reader.projector.wait_for(chosen[-1].position, timeout_s=30, hurries=False)
                        after = commits[-1].position
                        self._pending.append((after, [event for one in chosen for event in self._codec.decode(one)]))
                        if chosen:
                            self.wake()
            except TapelineError as error:
                log.warning("dispatcher_waits", code=error.code, why=error.message)
                await asyncio.sleep(0.5)

    async def _work(self) -> None:
        while True:
            _leave_if_cancelled()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._woken.wait()
            self._woken.clear()
            began = self._clock.monotonic()
            try:
                await self.look()
                # A burst of commits is one look, not one each; and who sends it goes before what follows from it.
                took = self._clock.monotonic() - began
                await asyncio.sleep(min(max(BREATH_S, YIELDS * took), LOOK_EVERY_S / 2))
            except TapelineError as error:
                log.warning("dispatcher_waits", code=error.code, why=error.message)
                await asyncio.sleep(0.2)
            except (DBAPIError, OSError) as error:
                log.warning("dispatcher_waits", code="unavailable", why=str(error)[:200])
                await asyncio.sleep(0.5)

    async def _catch_up(self) -> None:
        # What old tables show as waiting may long be done: agents would be asked in vain.
        while True:
            _leave_if_cancelled()
            try:
                await self._reader.projector.wait_for(await self._reader.projector.head(), timeout_s=30)
                return
            except TapelineError as error:
                log.warning("dispatcher_waits", code=error.code, why=error.message)
                await asyncio.sleep(0.2)

    async def look(self) -> None:
        """Do what follows from what has come, and what is due now; then the position is stored."""
        come = list(self._pending)
        events = [event for _, many in come for event in many]
        state = await self._state({(event.ref.team, event.ref.id) for event in events if event.ref.kind == "run"})
        wishes = [wish for event in events for wish in process.react(state, event)]
        wishes = process.once([*wishes, *process.tick(state, self._clock.now())])
        left = AT_ONCE
        for wish in wishes:
            if isinstance(wish, Specify):
                left -= 1
                if left < 0:
                    continue
            await self._do(wish)
        if left < 0:
            # What came is looked at again: it is not done with before all that follows was asked for.
            self.wake()
            return
        for position, _ in come:
            self._pending.popleft()
            self.position = position
        await self._save()

    async def _save(self) -> None:
        now = self._clock.monotonic()
        if self.position <= self._progress.position or now - self._saved_at < SAVE_EVERY_S:
            # What comes a moment later is stored with it; at the latest the next look does it.
            return
        self._saved_at = now
        if not await self._progress.save(self.position):
            log.warning("dispatcher_moved", position=self._progress.position)

    # --- what is known ----------------------------------------------------------------------------

    async def _read_all(self) -> None:
        began = self._clock.monotonic()
        self._open.replace(await self._reader.at(None, all_open))
        now = self._clock.monotonic()
        self._reread_at = now + max(REREAD_EVERY_S, REREAD_SHARE * (now - began))

    async def _state(self, changed: set[tuple[str, str]]) -> State:
        if not self._is_following or self._clock.monotonic() >= self._reread_at:
            await self._read_all()
        elif changed:
            self._open.update(changed, await self._reader.at(None, of_keys, changed))
        self._reconcile()
        for lapsed in self.offers.lapse():
            # An agent that is alive and did not want it is asked again soon; a silent one rests.
            is_alive = self.presence.heard_since(lapsed.agent, lapsed.made)
            self.presence.rest(lapsed.agent, SHORT_REST_S if is_alive else REST_S)
            log.info("offer_lapsed", run=lapsed.offer.run, agent=lapsed.agent, device=lapsed.offer.device)
        open_ = self._open
        for job in open_.unknown():
            open_.tell(job, await self._needs_of(job))
        waiting: list[Job] = []
        known: list[schedule.Device] = []
        if open_.any_waits:
            found = await self._reader.at(None, devices, self.presence, self.leases)
            known = process.spoken_for(found, [one.key for one in found if self._is_spoken_for(one)])
            offered = self.offers.runs()
            waiting = open_.candidates(
                sum(one.is_free and one.is_online for one in known),
                lambda job: job.key in offered or self.leases.is_ahead(*job.lease),
            )
        now = self._clock.monotonic()
        return State(
            jobs=[*open_.moving, *waiting],
            told=dict(self._told),
            unknown_for_s={lease: now - since for lease, since in self._unknown_since.items()},
            unrenewed=self._unrenewed(now),
            needs={job.key: needs for job in waiting if (needs := open_.needs(job)) is not None},
            devices=known,
            busy=self.leases.busy(),
            unknown_grace_s=self._unknown_grace_s,
        )

    def _unrenewed(self, now: float) -> list[Lease]:
        if now - self._swept < self._sweep_every_s:
            return []
        self._swept = now
        return [(held.team, held.run, held.epoch) for held in self.leases.expired()]

    def _reconcile(self) -> None:
        live = [job for job in self._open.moving if job.lease_ttl_s is not None]
        for job in live:
            self.leases.hold(
                job.team, job.id, epoch=job.epoch, agent=job.agent or "", device=job.device or "",
                ttl_s=job.lease_ttl_s or 0.0,
            )  # fmt: skip
        self.leases.keep_only([job.lease for job in live], self._epoch)
        for told in [lease for lease in self._told if self._open.get(lease[:2]) is None]:
            del self._told[told]
        unknown = {
            job.lease for job in self._open.moving if job.status == Status.JOB_UNKNOWN and job.lease_ttl_s is None
        }
        for lost in [lease for lease in self._unknown_since if lease not in unknown]:
            del self._unknown_since[lost]
        for lease in unknown:
            self._unknown_since.setdefault(lease, self._clock.monotonic())

    def _epoch(self, key: tuple[str, str]) -> int:
        job = self._open.get(key)
        return 0 if job is None else job.epoch

    def _is_spoken_for(self, device: schedule.Device) -> bool:
        return self.offers.is_reserved(device.agent, device.name) or self.presence.is_resting(device.agent)

    async def _needs_of(self, job: Job) -> Needs:
        def asked(connection: Connection) -> Needs:
            row = row_of(connection, runs, job.team, job.id)
            config: dict[str, Any] = (row or {}).get("config") or {}
            blueprint = blueprints.of_run(connection, job.team, job.blueprint_id)
            return Needs(
                wanted=wanted(job.resources),
                blueprint=(blueprint.name, blueprint.version),
                backend=str(config.get("backend", "auto")),
                queue_timeout_s=config.get("queue_timeout_s"),
            )

        return await self._reader.at(None, asked)

    # --- what is done -----------------------------------------------------------------------------

    async def _do(self, wish: process.Wish) -> None:
        match wish:
            case Specify(job):
                await self._create_job(job)
            case Tell(job):
                await self._tell_to_stop(job)
            case Ask(job, command, why):
                await self._ask(job, command, why)
                if isinstance(command, GiveUp):
                    passed("lease.requeued")
            case Expire((team, run, epoch), command):
                await self.expire(team, run, epoch, command.cause)
            case Propose(match):
                await self._propose(match)
            case Wait(seconds):
                asyncio.get_running_loop().call_later(seconds, self.wake)
            case _:
                assert_never(wish)

    async def _ask(self, job: Job, command: RunCommand, why: str) -> Outcome[aggregate.Run] | None:
        """Run a command whose id comes from the event that led to it; a refusal is an answer and moves on."""
        ref = Ref(job.team, "run", job.id)
        try:
            led = await self._deciders.cause(aggregate, ref, job.status_event)
            origin = origin_of(
                ACTOR, derived_id(process.name, job.status_event, why), cause=led.cause,
                correlation=led.correlation_id,
            )  # fmt: skip
            return await self._deciders.handle(aggregate, ref, command, origin)
        except TapelineError as error:
            if error.code in ("unavailable", "timeout", "unknown_outcome", "insufficient_storage"):
                raise
            log.warning("dispatch_refused", run=job.id, why=why, code=error.code, message=error.message)
            return None

    async def _create_job(self, job: Job) -> None:
        self._open.defer(job.key)
        # What is known here is enough: an attempt that another copy has moved on refuses the command.
        run = await self._deciders.state(aggregate, Ref(job.team, "run", job.id), fresh=False)
        if run.status not in _STARTABLE or run.is_deleted:
            return
        # Whatever the user's command named was in the tables at the position of the birth.
        command = await self._reader.at(None, jobs.specify, job.team, job.id, run)
        await self._ask(job, command, f"job-{run.attempt}")

    async def _tell_to_stop(self, job: Job) -> None:
        deadline = job.deadline_us or 0
        left_s = max(0.0, (deadline - us_of(self._clock.now())) / 1e6)
        reason: Any = job.stop_reason or "user"
        stop = Stop(team=job.team, run=job.id, epoch=job.epoch, grace_s=left_s, reason=reason)
        await self._publish(subjects.control(job.agent or "", "stop"), stop.model_dump_json().encode())
        self._told[job.lease] = deadline

    async def expire(self, team: str, run: str, epoch: int, cause: Any) -> None:
        """Take a lease away that was not renewed, or that a new boot of its agent does not know."""
        command = ExpireLease(epoch=epoch, cause=cause)
        ref = Ref(team, "run", run)
        led = await self._deciders.cause(aggregate, ref)
        passed("lease.before_expire")
        origin = origin_of(
            ACTOR, derived_id("expire", team, run, str(epoch)), cause=led.cause, correlation=led.correlation_id
        )
        outcome = await self._deciders.handle(aggregate, ref, command, origin)
        passed("lease.expired")
        self.leases.end(team, run, epoch)
        log.warning("lease_expired", run=run, epoch=epoch, cause=cause, status=outcome.state.status.value)
        self.wake()

    async def _propose(self, match: schedule.Match) -> None:
        offer = self.offers.make(
            team=match.run.team, run=match.run.run, attempt=match.run.attempt, agent=match.device.agent,
            device=match.device.name,
        )  # fmt: skip
        await self._publish(subjects.control(match.device.agent, "start"), offer.model_dump_json().encode())


def _may_matter(commit: StoredCommit) -> bool:
    if commit.subject.split(".", 3)[2] not in ("run", "device"):
        return False
    return not QUIET.issuperset(read_header(commit.header, commit.position).types)


def _leave_if_cancelled() -> None:
    # Until Python 3.12, `asyncio.wait_for`, which clients use inside, swallows a cancellation that meets an answer.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
