"""Verbs of trainer agents: announce, claim, renew, report, stage, append_metrics, reclaim."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pydantic
from pydantic import TypeAdapter

from tapeline.bus import Verbs, accepted
from tapeline.contracts.agents import (
    LEASE_TTL_S,
    Announce,
    AnnounceView,
    AppendMetrics,
    Claim,
    Lease,
    MetricsView,
    Reclaim,
    Renew,
    Renewed,
    RenewedView,
    Report,
    ReportView,
    Stage,
    StageFile,
    StageView,
)
from tapeline.contracts.message import Accepted
from tapeline.contracts.runs import (
    STOPPING,
    CheckpointBegun,
    CheckpointCompleted,
    JobCompleted,
    JobFailed,
    JobStarted,
    JobTerminated,
    JobTerminateRequested,
    JobTerminating,
    LeaseExpired,
)
from tapeline.decider import Outcome, origin_of
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.ids import derived_id
from tapeline.logs import get_logger
from tapeline.runs import jobs
from tapeline.runs.device import aggregate as device_aggregate
from tapeline.runs.device.aggregate import Admit, Forget
from tapeline.runs.device.queries import boot_of
from tapeline.runs.dispatcher import Dispatcher
from tapeline.runs.metrics.intake import Incoming, Intake
from tapeline.runs.run import aggregate
from tapeline.runs.run.aggregate import LEASE_CLOSED, Run, check_epoch, check_report
from tapeline.runs.run.commands import GrantLease, RegrantLease, TakeReport
from tapeline.runs.run.handlers import Desk
from tapeline.service import AgentTeams
from tapeline.subjects import PLATFORM_TEAM, Agent, Ref, is_slug

log = get_logger()


class _Kind(NamedTuple):
    event: type
    filled: frozenset[str]


def _kind(event: type, *filled: str) -> _Kind:
    return _Kind(event, frozenset(filled))


@cache
def _reader(event: type) -> TypeAdapter[Any]:
    """What reads an event's fields; made with the first report of its kind, for the service waits for none."""
    return TypeAdapter(event)


KINDS: dict[str, _Kind] = {
    "started": _kind(JobStarted, "epoch"),
    "terminate_requested": _kind(JobTerminateRequested, "epoch"),
    "terminating": _kind(JobTerminating, "epoch"),
    "terminated": _kind(JobTerminated),
    "completed": _kind(JobCompleted),
    "failed": _kind(JobFailed),
    "lease_lost": _kind(LeaseExpired, "epoch"),
    "checkpoint_begun": _kind(CheckpointBegun, "epoch", "attempt"),
    "checkpoint": _kind(CheckpointCompleted, "epoch", "attempt"),
}
"""What each kind of report stands for, and which of the event's fields the service fills in."""


def event_of(run_id: str, run: Run, request: Report) -> Any:
    """The event that a report stands for.

    Raises
    ------
    TapelineError
        `invalid` when its data are not those of the event.
    """
    kind = KINDS[request.kind]
    data: dict[str, Any] = {key: value for key, value in request.data.items() if key not in kind.filled}
    data |= {key: value for key, value in (("epoch", request.epoch), ("attempt", run.attempt)) if key in kind.filled}
    if request.kind == "lease_lost":
        data = {"epoch": request.epoch, "cause": LEASE_CLOSED}
    if data.get("checkpoint_id") is not None:
        data["checkpoint_id"] = checkpoint_id(run_id, str(data["checkpoint_id"]))
    try:
        return _reader(kind.event).validate_python(_finite(data))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise TapelineError(
            f"report {request.kind}: {'.'.join(str(step) for step in first['loc'])}: {first['msg']}",
            code="invalid",
            hint="its data are the fields of the event that it stands for",
        ) from error


def _finite(value: Any) -> Any:
    """The data without numbers that the log does not take: they become the words for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def checkpoint_id(run_id: str, given: str) -> str:
    """The id of a checkpoint that its child calls `given`: one of its own in every run."""
    return derived_id(run_id, "checkpoint", given)


def staging_prefix(run_id: str, epoch: int, given: str) -> str:
    """Where the files of a checkpoint are staged; an older epoch has another place."""
    return f"{run_id}/{epoch}/{given}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What the verbs of agents work with."""

    desk: Desk
    dispatcher: Dispatcher
    intake: Intake
    agent_teams: AgentTeams

    async def run(self, team: str, run_id: str) -> tuple[Ref, Run]:
        """A run that an agent names."""
        if not (is_slug(team) and is_slug(run_id)):
            raise TapelineError("no such run", code="not_found", data={"kind": "run"})
        ref = Ref(team, "run", run_id)
        return ref, await self.desk.deciders.state(aggregate, ref)

    def settle(self, ref: Ref, outcome: Outcome[Run]) -> None:
        """Let the register of leases know what the log has just decided."""
        lease = outcome.state.lease
        if lease is None:
            self.dispatcher.leases.end(ref.team, ref.id, outcome.state.epoch)
        else:
            self.dispatcher.leases.hold(
                ref.team, ref.id, epoch=lease.epoch, agent=lease.agent, device=lease.device, ttl_s=lease.ttl_s
            )
        self.dispatcher.wake()

    def granted(self, ref: Ref, outcome: Outcome[Run]) -> Accepted[Lease]:
        """The reply to a claim that the log has granted."""
        return accepted(outcome, lease_of(ref, outcome.state), self.desk.log_id)


def lease_of(ref: Ref, run: Run) -> Lease:
    """The live lease of a run, with all that its child needs."""
    if run.lease is None:
        raise TapelineError(f"run r{run.number} has ended", code="conflict", hint="drop the run")
    spec = run.spec or {}
    return Lease(
        team=ref.team, run=ref.id, attempt=run.attempt, epoch=run.lease.epoch, device=run.lease.device,
        ttl_s=run.lease.ttl_s, spec=spec, files=jobs.files_of(spec),
    )  # fmt: skip


def add_verbs(verbs: Verbs, gate: Gate) -> None:
    """Register the verbs of agents."""
    _add_presence(verbs, gate)
    _add_leases(verbs, gate)
    _add_reports(verbs, gate)


def _add_presence(verbs: Verbs, gate: Gate) -> None:
    desk, dispatcher = gate.desk, gate.dispatcher

    @verbs.agent("announce")
    async def announce(caller: Agent, request: Announce) -> Accepted[AnnounceView]:
        ref = Ref(PLATFORM_TEAM, "device", caller.name)
        teams = sorted(gate.agent_teams(caller.name))
        dispatcher.presence.hear(caller.name)
        holding = {(one.team, one.run, one.epoch) for one in request.holding}
        before = dispatcher.presence.boot(caller.name, request.boot)
        if before is None:
            before = await desk.reader.at(request.min_position, boot_of, caller.name)
        if before != request.boot:
            # A new boot says all that it still holds; what it does not name died with the old one.
            for held in dispatcher.leases.of_agent(caller.name):
                if (held.team, held.run, held.epoch) not in holding:
                    await dispatcher.expire(held.team, held.run, held.epoch, "agent_restarted")
        origin = origin_of(caller.actor, request.command_id)
        command: Any = Admit(agent=caller.name, teams=teams, said=request)
        if request.leaving:
            dispatcher.presence.leave(caller.name)
            command = Forget(agent=caller.name, cause="left")
        outcome = await desk.deciders.handle(device_aggregate, ref, command, origin)
        fenced = [one.run for one in request.holding if not await _holds(caller, one.team, one.run, one.epoch)]
        dispatcher.wake()
        return accepted(outcome, AnnounceView(agent=caller.name, teams=teams, fenced=fenced), desk.log_id)

    async def _holds(caller: Agent, team: str, run_id: str, epoch: int) -> bool:
        try:
            _, run = await gate.run(team, run_id)
            check_epoch(run, caller.name, epoch)
        except TapelineError as error:
            if error.code in ("fenced", "not_found"):
                return False
            raise
        return True

    @verbs.agent("renew")
    async def renew(caller: Agent, request: Renew) -> Accepted[RenewedView]:
        dispatcher.presence.hear(caller.name)
        answers = [await _renewed(caller, one.team, one.run, one.epoch, request) for one in request.leases]
        position = desk.reader.projector.position
        return Accepted(view=RenewedView(leases=answers), sequence=0, position=max(position, 0), log_id=desk.log_id)

    async def _renewed(caller: Agent, team: str, run_id: str, epoch: int, request: Renew) -> Renewed:
        if not await _holds(caller, team, run_id, epoch):
            return Renewed(run=run_id, epoch=epoch, answer="fenced")
        _, run = await gate.run(team, run_id)
        if run.lease is not None:
            dispatcher.leases.hold(
                team, run_id, epoch=epoch, agent=run.lease.agent, device=run.lease.device, ttl_s=run.lease.ttl_s
            )
        dispatcher.leases.renew(team, run_id, epoch)
        if run.status in STOPPING and run.deadline is not None:
            left_s = max(0.0, (run.deadline - request.at).total_seconds())
            return Renewed(run=run_id, epoch=epoch, answer="stop", grace_s=left_s, reason=run.stop_reason)
        return Renewed(run=run_id, epoch=epoch, answer="ok")


def _add_leases(verbs: Verbs, gate: Gate) -> None:
    desk, dispatcher = gate.desk, gate.dispatcher

    @verbs.agent("claim")
    async def claim(caller: Agent, request: Claim) -> Accepted[Lease]:
        dispatcher.presence.hear(caller.name)
        ref, run = await gate.run(request.team, request.run)
        origin = origin_of(caller.actor, request.command_id)
        if run.lease is not None and (run.lease.agent, run.lease.device) == (caller.name, request.device):
            # Granted before: the reply was lost, perhaps together with this service's process.
            dispatcher.offers.close(request.offer)
            position = max(desk.reader.projector.position, 0)
            return Accepted(view=lease_of(ref, run), sequence=0, position=position, log_id=desk.log_id, replayed=True)
        offer = dispatcher.offers.accepted(
            request.offer, agent=caller.name, team=request.team, run=request.run, device=request.device
        )
        held = dispatcher.leases.on(caller.name, request.device)
        if held is not None:
            dispatcher.offers.close(request.offer)
            raise TapelineError(
                f"{caller.name}/{request.device} is busy with run {held.run}",
                code="conflict",
                hint="wait for the next offer",
            )
        command = GrantLease(attempt=offer.offer.attempt, agent=caller.name, device=request.device, ttl_s=LEASE_TTL_S)
        passed("lease.before_grant")
        try:
            outcome = await desk.deciders.handle(aggregate, ref, command, origin)
        except TapelineError as error:
            if error.code == "conflict":
                dispatcher.offers.close(request.offer)
            raise
        passed("lease.granted")
        gate.settle(ref, outcome)
        dispatcher.offers.close(request.offer)
        return gate.granted(ref, outcome)

    @verbs.agent("reclaim")
    async def reclaim(caller: Agent, request: Reclaim) -> Accepted[Lease]:
        dispatcher.presence.hear(caller.name)
        ref, run = await gate.run(request.team, request.run)
        check_epoch(run, caller.name, request.epoch, is_known=True)
        command = RegrantLease(agent=caller.name, epoch=request.epoch, ttl_s=LEASE_TTL_S)
        outcome = await desk.deciders.handle(aggregate, ref, command, origin_of(caller.actor, request.command_id))
        gate.settle(ref, outcome)
        return gate.granted(ref, outcome)


def _add_reports(verbs: Verbs, gate: Gate) -> None:
    desk, dispatcher = gate.desk, gate.dispatcher

    @verbs.agent("stage")
    async def stage(caller: Agent, request: Stage) -> Accepted[StageView]:
        dispatcher.presence.hear(caller.name)
        ref, run = await gate.run(request.team, request.run)
        check_epoch(run, caller.name, request.epoch)
        view = StageView(prefix=staging_prefix(ref.id, request.epoch, request.checkpoint_id))
        position = max(desk.reader.projector.position, 0)
        return Accepted(view=view, sequence=0, position=position, log_id=desk.log_id)

    @verbs.agent("report")
    async def report(caller: Agent, request: Report) -> Accepted[ReportView]:
        dispatcher.presence.hear(caller.name)
        ref, run = await gate.run(request.team, request.run)
        is_new = check_report(run, caller.name, request.epoch, request.seq)
        event = event_of(ref.id, run, request)
        if is_new and isinstance(event, CheckpointCompleted):
            await _promote(ref, request)
        command = TakeReport(
            agent=caller.name, epoch=request.epoch, seq=request.seq, kind=request.kind, event=event
        )  # fmt: skip
        outcome = await desk.deciders.handle(aggregate, ref, command, origin_of(caller.actor, request.command_id))
        if outcome.events or outcome.replayed:
            gate.settle(ref, outcome)
        view = ReportView(seq=request.seq, status=outcome.state.status.value)
        return accepted(outcome, view, desk.log_id)

    async def _promote(ref: Ref, request: Report) -> None:
        given = str(request.data.get("checkpoint_id"))
        try:
            files = [StageFile.model_validate(file) for file in request.data.get("files", [])]
        except pydantic.ValidationError as error:
            raise TapelineError(f"the files of checkpoint {given} are malformed", code="invalid") from error
        if not files:
            raise TapelineError(f"checkpoint {given} has no files", code="invalid", hint="stage at least one")
        prefix = staging_prefix(ref.id, request.epoch, given)
        for file in files:
            try:
                await desk.store.promote(f"{prefix}/{file.name}", sha256=file.sha256, size_bytes=file.size_bytes)
            except TapelineError as error:
                # To an agent, `not_found` would mean that the run is not its own any more.
                if error.code != "not_found":
                    raise
                raise TapelineError(
                    f"{file.name} of checkpoint {given} is not staged", code="corrupt", hint="upload it again"
                ) from error

    @verbs.agent("append_metrics")
    async def append_metrics(caller: Agent, request: AppendMetrics) -> Accepted[MetricsView]:
        dispatcher.presence.hear(caller.name)
        _, run = await gate.run(request.team, request.run)
        check_epoch(run, caller.name, request.epoch)
        if request.attempt != run.attempt:
            raise TapelineError(
                f"run r{run.number} is at attempt {run.attempt}, not {request.attempt}", code="fenced",
                hint="drop the batch", data={"current": run.epoch},
            )  # fmt: skip
        stored = await gate.intake.take(
            Incoming(
                team=request.team, run=request.run, attempt=request.attempt, epoch=request.epoch,
                batch=request.batch, columns=request.columns, progress=request.progress, is_last=request.is_last,
            )
        )  # fmt: skip
        position = max(desk.reader.projector.position, 0)
        return Accepted(view=MetricsView(batch=stored.batch), sequence=0, position=position, log_id=desk.log_id)
