"""Verbs of processes that train by themselves: start, renew, append_metrics, finish."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any

from sqlalchemy import Connection, func, select

from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.agents import LEASE_TTL_S
from tapeline.contracts.message import Accepted, Answer
from tapeline.contracts.metrics import (
    ATTACHED,
    AppendBatch,
    FinishRun,
    RenewedRunView,
    RenewRun,
    StartedView,
    StartRun,
    StoredView,
)
from tapeline.contracts.runs import STOPPING, JobCompleted, JobFailed, JobTerminated, StopRun
from tapeline.decider import Outcome, origin_of
from tapeline.errors import TapelineError
from tapeline.ids import born_of
from tapeline.runs import births
from tapeline.runs.metrics.intake import Incoming
from tapeline.runs.metrics.tables import metric_attempts
from tapeline.runs.run import aggregate
from tapeline.runs.run.aggregate import Run, check_epoch
from tapeline.runs.run.commands import Attached, AttachRun, BearAttached, TakeReport
from tapeline.runs.run.reports import Gate
from tapeline.subjects import Principal, Ref


def add_verbs(verbs: Verbs, gate: Gate) -> None:
    """Register the verbs of scripts."""
    desk, dispatcher = gate.desk, gate.dispatcher

    @verbs.user("start")
    async def start(caller: Principal, request: StartRun) -> Accepted[StartedView]:
        device = f"{ATTACHED}{request.host or 'somewhere'}"
        script = Attached(holder=caller.actor, ttl_s=LEASE_TTL_S, pid=request.pid)
        if request.run is None:
            birth = births.of_script(request, device, caller.user)
            run_id, outcome = await desk.bear(caller, request, birth | {"attached": script}, kind=BearAttached)
            ref = Ref(caller.team, "run", run_id)
        else:
            ref = await desk.resolve(caller, request, request.run)
            from_step = request.from_step
            if from_step is None:
                await desk.measurements_in()
                from_step = await desk.reader.at(None, _last_step, ref)
            command = AttachRun(attached=script, device=device, from_step=from_step, attempt=request.attempt)
            origin = origin_of(caller.actor, request.command_id)
            outcome = await desk.deciders.handle(aggregate, ref, command, origin)
        gate.settle(ref, outcome)
        return accepted(outcome, _started(ref, outcome, request), desk.log_id)

    def _started(ref: Ref, outcome: Outcome[Run], request: StartRun) -> StartedView:
        run = outcome.state
        if run.lease is None:
            raise TapelineError(f"run r{run.number} has ended", code="conflict", hint="start another one")
        return StartedView(
            run_id=ref.id, number=run.number, attempt=run.attempt, epoch=run.lease.epoch, ttl_s=run.lease.ttl_s,
            from_step=run.last_step or 0 if request.run is not None else -1,
        )  # fmt: skip

    @verbs.user("renew")
    async def renew(caller: Principal, request: RenewRun) -> Answer[RenewedRunView]:
        ref, run = await gate.run(caller.team, request.run)
        position = desk.reader.projector.position
        try:
            check_epoch(run, caller.actor, request.epoch)
        except TapelineError as error:
            if error.code != "fenced":
                raise
            return answered(RenewedRunView(answer="fenced"), position, desk.log_id)
        if run.lease is not None:
            dispatcher.leases.hold(
                ref.team, ref.id, epoch=request.epoch, agent=run.lease.agent, device=run.lease.device,
                ttl_s=run.lease.ttl_s,
            )  # fmt: skip
        dispatcher.leases.renew(ref.team, ref.id, request.epoch)
        is_stopping = run.status in STOPPING
        view = RenewedRunView(answer="stop" if is_stopping else "ok", grace_s=None)
        return answered(view, position, desk.log_id)

    @verbs.user("finish")
    async def finish(caller: Principal, request: FinishRun) -> Accepted[StoredView]:
        ref, run = await gate.run(caller.team, request.run)
        check_epoch(run, caller.actor, request.epoch)
        if request.kind == "terminated" and run.status not in STOPPING:
            # Who interrupts a script asks it to stop, and is heard at once.
            stop = StopRun(run=ref.id, grace_s=1.0, command_id=born_of(request.command_id or "", "stop"), at=request.at)
            run = (await desk.ask(caller, ref, stop)).state
        command = TakeReport(
            agent=caller.actor, epoch=request.epoch, seq=run.reports + 1, kind=_kind(run, request),
            event=_end(run, request),
        )  # fmt: skip
        outcome = await desk.deciders.handle(aggregate, ref, command, origin_of(caller.actor, request.command_id))
        gate.settle(ref, outcome)
        return accepted(outcome, StoredView(batch=request.batches or 0, upto=0), desk.log_id)

    @verbs.user("append_metrics")
    async def append_metrics(caller: Principal, request: AppendBatch) -> Accepted[StoredView]:
        _, run = await gate.run(caller.team, request.run)
        if run.created is None or run.is_deleted or not run.is_attached or caller.actor not in run.holders:
            raise TapelineError("no such run", code="not_found", data={"kind": "run"})
        if request.attempt > run.attempt:
            raise TapelineError(
                f"run r{run.number} is at attempt {run.attempt}, not {request.attempt}",
                code="conflict",
                hint="start it again: tl.start(..., resume=...)",
            )
        columns = _columns(request)
        stored = await gate.intake.take(
            Incoming(
                team=caller.team, run=request.run, attempt=request.attempt, epoch=request.epoch, batch=request.batch,
                columns=columns, progress=request.progress,
                records=(request.first, request.last), is_last=request.is_last, may_be_late=True,
            )
        )  # fmt: skip
        view = StoredView(batch=stored.batch, upto=stored.upto)
        position = max(desk.reader.projector.position, 0)
        return Accepted(view=view, sequence=0, position=position, log_id=desk.log_id)


def _last_step(connection: Connection, ref: Ref) -> int:
    m = metric_attempts.c
    return connection.scalar(select(func.max(m.max_step)).where(m.team == ref.team, m.run_id == ref.id)) or 0


def _kind(run: Run, request: FinishRun) -> Any:
    # Who leaves in good order after being asked to stop has stopped, and has not come to its own end.
    return "terminated" if request.kind == "completed" and run.status in STOPPING else request.kind


def _end(run: Run, request: FinishRun) -> Any:
    measured: dict[str, Any] = {
        "batches": request.batches, "points": request.points, "metrics_rejected": request.rejected,
        "metrics_dropped": request.dropped,
    }  # fmt: skip
    match _kind(run, request):
        case "completed":
            return JobCompleted(global_step=request.global_step, training_epochs=0, **measured)
        case "terminated":
            return JobTerminated(forced=False, last_step=request.global_step, **measured)
        case _:
            return JobFailed(
                reason="exit_code", message=request.message, traceback=request.traceback,
                last_step=request.global_step, **measured,
            )  # fmt: skip


def _columns(request: AppendBatch) -> list[dict[str, Any]]:
    """The columns of a batch as bytes, its checksum checked."""
    crc, columns = 0, []
    try:
        for column in request.columns:
            body = base64.b64decode(column.body, validate=True)
            crc = zlib.crc32(body, crc)
            columns.append({"tag": column.tag, "body": body})
    except (binascii.Error, ValueError) as error:
        raise TapelineError(f"batch {request.batch} is no base64: {error}", code="invalid") from error
    if crc != request.crc:
        raise TapelineError(
            f"batch {request.batch} of run {request.run} has CRC-32 {crc:08x}, its sender said {request.crc:08x}",
            code="corrupt",
            hint="send it again",
        )
    return columns
