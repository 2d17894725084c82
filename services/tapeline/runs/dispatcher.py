"""The process manager of runs: jobs for those that want one, devices for those that wait, ends for the lost.

It looks at the tables and asks the aggregates; what it finds is what is still to be done, so a crash at any
point loses nothing: the next look finds it again. A command's id comes from the event that led to it, so that
asking twice has one effect. Messages to agents are hints, and are sent again by renewals and later offers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import RowMapping, or_, select
from sqlalchemy.exc import DBAPIError

from tapeline import subjects
from tapeline.clock import Clock
from tapeline.contracts.agents import Stop
from tapeline.contracts.runs import FINISHED, STOPPING, Status
from tapeline.decider import Deciders, Outcome, origin_of
from tapeline.errors import TapelineError
from tapeline.ids import derived_id
from tapeline.log import StoredCommit
from tapeline.log.codec import read_header
from tapeline.logs import get_logger
from tapeline.projections import Reader, Tail
from tapeline.runs import jobs, schedule
from tapeline.runs.blueprint import config as configs
from tapeline.runs.device.presence import REST_S, SHORT_REST_S, Presence
from tapeline.runs.device.queries import devices
from tapeline.runs.leases import Leases
from tapeline.runs.moments import us_of
from tapeline.runs.offers import Offers
from tapeline.runs.quantities import Wanted, wanted
from tapeline.runs.run import aggregate
from tapeline.runs.run.commands import ExpireLease, GiveUp, HoldBack, Overdue, RunCommand
from tapeline.runs.run.tables import runs
from tapeline.service import Publish
from tapeline.subjects import Ref

log = get_logger()

ACTOR = "service:runs"
LOOK_EVERY_S = 1.0
SWEEP_EVERY_S = 5.0
BREATH_S = 0.02
UNKNOWN_GRACE_S = 15.0
SETTLE_US = 300_000
"""A new attempt is offered no sooner: the agent that reported the end of the last one is just letting go."""

_WATCHED = [status.value for status in Status if status not in FINISHED]
_STARTABLE = frozenset({Status.RUN_CREATED, Status.RUN_RESTART_REQUESTED})
_WAITING = frozenset({Status.JOB_SUBMITTED, Status.JOB_PENDING})
QUIET = frozenset({"NotesChanged", "RunRenamed", "CheckpointBegun", "CheckpointCompleted", "CheckpointPinned",
                   "CheckpointDeleted", "NameClaimed", "NameReleased", "NumberTaken"})  # fmt: skip
"""Events that leave nothing to do: users write notes and trainers keep checkpoints all the time."""
_COLUMNS = (
    "team", "id", "number", "status", "status_event", "status_updated_us", "attempt", "epoch", "agent", "device",
    "lease_ttl_s", "lost_cause", "submitted_us", "due_us", "deadline_us", "stop_reason", "wanted_device", "priority",
    "blueprint_id", "resources",
)  # fmt: skip

_OPEN = (
    select(*(runs.c[name] for name in _COLUMNS))
    .where(
        or_(runs.c.status.in_(_WATCHED), runs.c.lease_ttl_s.is_not(None)),
        runs.c.is_deleted.is_(False),
    )
    .order_by(runs.c.created_us)
)


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a run needs of a device; fixed at its birth."""

    wanted: Wanted
    blueprint: tuple[str, str]
    backend: str
    queue_timeout_s: float | None


class Dispatcher:
    """Keeps runs moving."""

    def __init__(
        self,
        *,
        log: Tail,
        deciders: Deciders,
        reader: Reader,
        clock: Clock,
        publish: Publish,
        leases: Leases,
        offers: Offers,
        presence: Presence,
        unknown_grace_s: float = UNKNOWN_GRACE_S,
        sweep_every_s: float = SWEEP_EVERY_S,
    ) -> None:
        self._log = log
        self._deciders = deciders
        self._reader = reader
        self._clock = clock
        self._publish = publish
        self.leases = leases
        self.offers = offers
        self.presence = presence
        self._unknown_grace_s = unknown_grace_s
        self._sweep_every_s = sweep_every_s
        self._swept = clock.monotonic()
        self._woken = asyncio.Event()
        self._unknown_since: dict[tuple[str, str, int], float] = {}
        self._told: dict[tuple[str, str, int], int] = {}
        self._needs: dict[tuple[str, str], _Needs] = {}

    def wake(self) -> None:
        """Look again soon."""
        self._woken.set()

    async def start(self) -> None:
        """Find the leases that are live on the log; each gets one full ttl from now."""
        await self._reader.projector.wait_for(0)
        self._reconcile(await self._rows())

    async def follow(self) -> None:
        """Wake up at each commit that may matter, once the tables have it."""
        while True:
            _leave_if_cancelled()
            after = max(self._reader.projector.position, 0)
            try:
                async for commits in self._log.read(after=after, follow=True):
                    if any(_may_matter(commit) for commit in commits):
                        await self._reader.projector.wait_for(commits[-1].position, timeout_s=30)
                        self.wake()
            except TapelineError as error:
                log.warning("dispatcher_waits", code=error.code, why=error.message)
                await asyncio.sleep(0.5)

    async def run(self) -> None:
        """Look at every wake-up, and once a second, from the moment that the tables have caught up."""
        await self._catch_up()
        # Another copy may have looked until now, and have heard of renewals that this one did not.
        self.leases.renew_all()
        while True:
            _leave_if_cancelled()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self.look()
                # A burst of commits is one look, not one each.
                await asyncio.sleep(BREATH_S)
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
        """Do all that is to be done now."""
        rows = await self._rows()
        self._reconcile(rows)
        for row in rows:
            status = Status(row["status"])
            if status in _STARTABLE and (row["due_us"] or 0) <= us_of(self._clock.now()):
                await self._create_job(row)
            elif status in STOPPING and row["lease_ttl_s"] is not None:
                await self._tell_to_stop(row)
            elif status == Status.JOB_UNKNOWN and row["lease_ttl_s"] is None:
                await self._give_up(row)
        now = self._clock.monotonic()
        if now - self._swept >= self._sweep_every_s:
            self._swept = now
            await self._sweep()
        await self._schedule([row for row in rows if Status(row["status"]) in _WAITING and row["lease_ttl_s"] is None])

    async def _rows(self) -> Sequence[RowMapping]:
        return await self._reader.at(None, lambda connection: connection.execute(_OPEN).mappings().all())

    def _reconcile(self, rows: Sequence[RowMapping]) -> None:
        live = [row for row in rows if row["lease_ttl_s"] is not None]
        for row in live:
            self.leases.hold(
                row["team"], row["id"], epoch=row["epoch"], agent=row["agent"] or "", device=row["device"] or "",
                ttl_s=row["lease_ttl_s"],
            )  # fmt: skip
        self.leases.keep_only(
            [(row["team"], row["id"], row["epoch"]) for row in live],
            {(row["team"], row["id"]): row["epoch"] for row in rows},
        )
        known = {(row["team"], row["id"]) for row in rows}
        for key in [key for key in self._needs if key not in known]:
            del self._needs[key]
        for told in [key for key in self._told if key[:2] not in known]:
            del self._told[told]
        unknown = {(row["team"], row["id"], row["epoch"]) for row in rows if row["status"] == Status.JOB_UNKNOWN}
        for lost in [key for key in self._unknown_since if key not in unknown]:
            del self._unknown_since[lost]

    async def _ask(self, row: RowMapping, command: RunCommand, why: str) -> Outcome[aggregate.Run] | None:
        """Run a command whose id comes from the event that led to it; a refusal is an answer and moves on."""
        ref = Ref(row["team"], "run", row["id"])
        try:
            led = await self._deciders.cause(aggregate, ref, row["status_event"])
            origin = origin_of(
                ACTOR, derived_id("dispatcher", row["status_event"], why), cause=led.cause,
                correlation=led.correlation_id,
            )  # fmt: skip
            return await self._deciders.handle(aggregate, ref, command, origin)
        except TapelineError as error:
            if error.code in ("unavailable", "timeout", "unknown_outcome", "insufficient_storage"):
                raise
            log.warning("dispatch_refused", run=row["id"], why=why, code=error.code, message=error.message)
            return None

    # --- jobs -------------------------------------------------------------------------------------

    async def _create_job(self, row: RowMapping) -> None:
        ref = Ref(row["team"], "run", row["id"])
        run = await self._deciders.state(aggregate, ref)
        if run.status not in _STARTABLE or run.is_deleted:
            return
        # Whatever the user's command named was in the tables at the position of the birth.
        command = await self._reader.at(None, jobs.specify, row["team"], row["id"], run)
        await self._ask(row, command, f"job-{run.attempt}")

    # --- stops ------------------------------------------------------------------------------------

    async def _tell_to_stop(self, row: RowMapping) -> None:
        key = (row["team"], row["id"], row["epoch"])
        deadline = row["deadline_us"] or 0
        if self._told.get(key) == deadline:
            return
        left_s = max(0.0, (deadline - us_of(self._clock.now())) / 1e6)
        stop = Stop(
            team=row["team"], run=row["id"], epoch=row["epoch"], grace_s=left_s, reason=row["stop_reason"] or "user"
        )
        await self._publish(subjects.control(row["agent"], "stop"), stop.model_dump_json().encode())
        self._told[key] = deadline

    # --- lost leases ------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        for held in self.leases.expired():
            await self.expire(held.team, held.run, held.epoch, "not_renewed")

    async def expire(self, team: str, run: str, epoch: int, cause: Any) -> None:
        """Take a lease away that was not renewed, or that a new boot of its agent does not know."""
        command = ExpireLease(epoch=epoch, cause=cause)
        ref = Ref(team, "run", run)
        led = await self._deciders.cause(aggregate, ref)
        origin = origin_of(
            ACTOR, derived_id("expire", team, run, str(epoch)), cause=led.cause, correlation=led.correlation_id
        )
        outcome = await self._deciders.handle(aggregate, ref, command, origin)
        self.leases.end(team, run, epoch)
        log.warning("lease_expired", run=run, epoch=epoch, cause=cause, status=outcome.state.status.value)
        self.wake()

    async def _give_up(self, row: RowMapping) -> None:
        key = (row["team"], row["id"], row["epoch"])
        now = self._clock.monotonic()
        since = self._unknown_since.setdefault(key, now)
        # An agent that has started again has said all that it still holds: nothing is left to reclaim.
        is_certain = row["lost_cause"] == "agent_restarted"
        if is_certain or now - since >= self._unknown_grace_s:
            reason: Any = "agent_restarted" if is_certain else "lease_lost"
            await self._ask(row, GiveUp(epoch=row["epoch"], reason=reason), f"give-up-{row['epoch']}")

    # --- devices ----------------------------------------------------------------------------------

    async def _schedule(self, rows: Sequence[RowMapping]) -> None:
        for lapsed in self.offers.lapse():
            # An agent that is alive and did not want it is asked again soon; a silent one rests.
            is_alive = self.presence.heard_since(lapsed.agent, lapsed.made)
            self.presence.rest(lapsed.agent, SHORT_REST_S if is_alive else REST_S)
            log.info("offer_lapsed", run=lapsed.offer.run, agent=lapsed.agent, device=lapsed.offer.device)
        open_rows = [
            row
            for row in rows
            if not self.offers.is_offered(row["team"], row["id"])
            and not self.leases.is_ahead(row["team"], row["id"], row["epoch"])
        ]
        if not open_rows:
            return
        known = await self._reader.at(None, devices, self.presence, self.leases)
        now_us = us_of(self._clock.now())
        free = [
            device if not self._is_spoken_for(device) else replace(device, is_free=False)
            for device in known
        ]  # fmt: skip
        waiting: dict[str, RowMapping] = {}
        candidates: list[schedule.Waiting] = []
        for row in open_rows:
            needs = await self._needs_of(row)
            if needs.queue_timeout_s is not None and now_us - row["submitted_us"] >= needs.queue_timeout_s * 1e6:
                message = f"no device within {needs.queue_timeout_s:g} s"
                await self._ask(row, Overdue(attempt=row["attempt"], message=message), f"overdue-{row['attempt']}")
                continue
            if row["attempt"] > 1 and now_us - row["submitted_us"] < SETTLE_US:
                asyncio.get_running_loop().call_later(SETTLE_US / 1e6, self.wake)
                continue
            waiting[row["id"]] = row
            candidates.append(
                schedule.Waiting(
                    team=row["team"], run=row["id"], attempt=row["attempt"], submitted_us=row["submitted_us"] or 0,
                    selector=row["wanted_device"], wanted=needs.wanted, blueprint=needs.blueprint,
                    backend=needs.backend, priority=row["priority"],
                )
            )  # fmt: skip
        matches, unmatched = schedule.match(candidates, free, self.leases.busy())
        for match in matches:
            offer = self.offers.make(
                team=match.run.team, run=match.run.run, attempt=match.run.attempt, agent=match.device.agent,
                device=match.device.name,
            )  # fmt: skip
            await self._publish(subjects.control(match.device.agent, "start"), offer.model_dump_json().encode())
        for one in unmatched:
            row = waiting[one.run.run]
            if row["status"] == Status.JOB_SUBMITTED:
                command = HoldBack(attempt=one.run.attempt, reason=one.reason, nearest=one.nearest)
                await self._ask(row, command, f"pending-{one.run.attempt}")

    def _is_spoken_for(self, device: schedule.Device) -> bool:
        return self.offers.is_reserved(device.agent, device.name) or self.presence.is_resting(device.agent)

    async def _needs_of(self, row: RowMapping) -> _Needs:
        key = (row["team"], row["id"])
        needs = self._needs.get(key)
        if needs is None:
            statement = select(runs.c.config).where(runs.c.team == row["team"], runs.c.id == row["id"])
            found: Any = await self._reader.at(None, lambda connection: connection.scalar(statement))
            config: dict[str, Any] = found or {}
            blueprint = configs.find(row["blueprint_id"])
            needs = self._needs[key] = _Needs(
                wanted(row["resources"]),
                (blueprint.name, blueprint.version),
                str(config.get("backend", "auto")),
                config.get("queue_timeout_s"),
            )
        return needs


def _may_matter(commit: StoredCommit) -> bool:
    if commit.subject.split(".", 3)[2] not in ("run", "device"):
        return False
    return not QUIET.issuperset(read_header(commit.header, commit.position).types)


def _leave_if_cancelled() -> None:
    # Until Python 3.12, `asyncio.wait_for`, which clients use inside, swallows a cancellation that meets an answer.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
