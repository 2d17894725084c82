"""Checkpoints of processes that train by themselves: begun, uploaded, and complete once every byte is in the store."""

from __future__ import annotations

from tapeline.bus import Verbs, accepted
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.checkpoints import BeginCheckpoint, KeepCheckpoint, KeptView
from tapeline.contracts.message import Accepted
from tapeline.contracts.runs import CheckpointBegun, CheckpointCompleted
from tapeline.decider import Outcome, origin_of
from tapeline.errors import TapelineError
from tapeline.runs.run import aggregate
from tapeline.runs.run.aggregate import Run, check_epoch
from tapeline.runs.run.commands import TakeReport
from tapeline.runs.run.reports import Gate, checkpoint_id
from tapeline.subjects import Principal, Ref
from tapeline.uploads import Uploads

TRIES = 5


def add_verbs(verbs: Verbs, gate: Gate, uploads: Uploads) -> None:
    """Register the verbs."""
    desk = gate.desk

    @verbs.user("begin_checkpoint")
    async def begin_checkpoint(caller: Principal, request: BeginCheckpoint) -> Accepted[KeptView]:
        ref, run = await _held(caller, request)
        id = checkpoint_id(ref.id, request.checkpoint)
        begun = CheckpointBegun(
            checkpoint_id=id, epoch=request.epoch, attempt=run.attempt, global_step=request.global_step
        )  # fmt: skip
        outcome = await _told(caller, ref, request, "checkpoint_begun", begun)
        return accepted(outcome, _view(id, outcome.state), desk.log_id)

    @verbs.user("keep_checkpoint")
    async def keep_checkpoint(caller: Principal, request: KeepCheckpoint) -> Accepted[KeptView]:
        ref, run = await _held(caller, request)
        id = checkpoint_id(ref.id, request.checkpoint)
        known = run.checkpoints.get(id)
        if known is None or not known.is_complete:
            for file in request.files:
                await _promote(caller, file.sha256, file.size_bytes)
        kept = CheckpointCompleted(
            checkpoint_id=id, epoch=request.epoch, attempt=run.attempt, global_step=request.global_step,
            training_epoch=request.training_epoch, monitored=dict(request.monitored),
            files=[Artifact(name=each.name, size_bytes=each.size_bytes, sha256=each.sha256) for each in request.files],
            weights_digest=request.weights_digest, state_digest=request.state_digest,
        )  # fmt: skip
        outcome = await _told(caller, ref, request, "checkpoint", kept)
        uploads.forget(caller.team, *(each.sha256 for each in request.files))
        return accepted(outcome, _view(id, outcome.state), desk.log_id)

    async def _held(caller: Principal, request: BeginCheckpoint | KeepCheckpoint) -> tuple[Ref, Run]:
        ref, run = await gate.run(caller.team, request.run)
        check_epoch(run, caller.actor, request.epoch)
        return ref, run

    async def _promote(caller: Principal, sha256: str, size_bytes: int) -> None:
        # Only what this team has uploaded itself: a digest alone gives nobody the bytes of others.
        found, size = await desk.store.put(uploads.path(caller.team, sha256))
        if (found, size) != (sha256, size_bytes):
            raise TapelineError(
                f"the upload {sha256[:12]} has {size} bytes, {size_bytes} were declared", code="invalid",
                hint="upload the file again",
            )  # fmt: skip

    async def _told(
        caller: Principal,
        ref: Ref,
        request: BeginCheckpoint | KeepCheckpoint,
        kind: str,
        event: CheckpointBegun | CheckpointCompleted,
    ) -> Outcome[Run]:
        origin = origin_of(caller.actor, request.command_id)
        for _ in range(TRIES):
            run = await desk.deciders.state(aggregate, ref)
            command = TakeReport(
                agent=caller.actor, epoch=request.epoch, seq=run.reports + 1, kind=kind, event=event
            )  # fmt: skip
            outcome = await desk.deciders.handle(aggregate, ref, command, origin)
            # Another word of the same script may have taken the number in between.
            if outcome.events or outcome.replayed:
                gate.settle(ref, outcome)
                return outcome
        raise TapelineError(
            f"run r{run.number} is told too much at once", code="unavailable", hint="send the same again"
        )


def _view(id: str, run: Run) -> KeptView:
    known = run.checkpoints.get(id)
    return KeptView(id=id, status="complete" if known is not None and known.is_complete else "incomplete")
