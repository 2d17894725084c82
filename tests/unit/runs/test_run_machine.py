"""Laws of a run under any history: driven deep by a state machine, through the decider loop on a log."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.runs import (
    FINISHED,
    STOPPING,
    CheckpointBegun,
    CheckpointCompleted,
    DeleteRun,
    JobCompleted,
    JobFailed,
    JobStarted,
    JobTerminated,
    JobTerminateRequested,
    JobTerminating,
    LeaseExpired,
    LeaseGranted,
    RestartRun,
    ResumeRun,
    RunCreated,
    RunStopRequested,
    Status,
    StopRun,
)
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.ids import new_id
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.runs.run import aggregate
from tapeline.runs.run.aggregate import LEGAL, MAX_RESTARTS_EVER, NEEDS_LEASE, Run, evolve, initial
from tapeline.runs.run.commands import (
    BearRun,
    CreateJob,
    DropCheckpoints,
    ExpireLease,
    GiveUp,
    GrantLease,
    HoldBack,
    Pin,
    RefuseJob,
    RegrantLease,
    TakeReport,
)
from tapeline.subjects import Ref

REF = Ref("main", "run", "r1")
CODEC = Codec(EVENTS, UPCASTERS)
REASONS = st.sampled_from(["signal", "exit_code", "stalled", "agent_shutdown", "oom_host", "start_timeout"])


class Life(RuleBasedStateMachine):
    """One run; every rule sends a command that may or may not be accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.log = InMemoryLog(CODEC, clock=self.clock)
        self.deciders = Deciders(self.log, CODEC, self.clock)
        self.sent: list[tuple[Any, str, Any]] = []
        self.run = initial()
        self.codes: set[str] = set()
        self.send(
            BearRun(
                number=1, name="demo", version="1", project_id="default", blueprint_id="b", task_type="t",
                resources={}, config={"max_restarts": 2}, user="ann", device="any", priority=0, session_name=None,
                notes=None,
            )
        )  # fmt: skip

    def teardown(self) -> None:
        self.loop.close()

    def now(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def send(self, command: Any) -> str | None:
        """Send a command; the code of its refusal, or None."""
        command_id = new_id()
        try:
            outcome = self.now(self.deciders.handle(aggregate, REF, command, origin_of("user:ann", command_id)))
        except TapelineError as error:
            self.codes.add(str(error.code))
            return str(error.code)
        if outcome.events:
            self.sent.append((command, command_id, (outcome.position, outcome.sequence)))
        self.run = outcome.state
        return None

    def tell(self, kind: str, event: Any, ahead: int = 1) -> str | None:
        agent = self.run.holder or "a1"
        return self.send(
            TakeReport(agent=agent, epoch=self.run.epoch, seq=self.run.reports + ahead, kind=kind, event=event)
        )

    # --- the service ------------------------------------------------------------------------------

    @rule()
    def create_job(self) -> None:
        self.send(CreateJob(attempt=self.run.attempt, session_name="s", seed=0, spec={}))

    @rule()
    def refuse_job(self) -> None:
        self.send(RefuseJob(attempt=self.run.attempt, code="not_found", message="m"))

    @rule()
    def hold_back(self) -> None:
        self.send(HoldBack(attempt=self.run.attempt, reason="no_device"))

    @rule(agent=st.sampled_from(["a1", "a2"]))
    def grant(self, agent: str) -> None:
        before = self.run
        code = self.send(GrantLease(attempt=before.attempt, agent=agent, device="cpu0", ttl_s=30))
        if before.lease is not None:
            assert code in ("conflict", "not_found")

    @rule()
    def regrant(self) -> None:
        self.send(RegrantLease(agent=self.run.holder or "a1", epoch=self.run.epoch, ttl_s=30))

    @rule()
    def expire(self) -> None:
        self.send(ExpireLease(epoch=self.run.epoch, cause="not_renewed"))

    @rule()
    def give_up(self) -> None:
        self.send(GiveUp(epoch=self.run.epoch))

    # --- the agent --------------------------------------------------------------------------------

    @precondition(lambda self: self.run.lease is not None)
    @rule(
        kind=st.sampled_from(["started", "terminate_requested", "terminating", "terminated", "completed", "lease_lost"])
    )
    def report(self, kind: str) -> None:
        epoch = self.run.epoch
        events = {
            "started": JobStarted(epoch=epoch, pid=1, resume="none"),
            "terminate_requested": JobTerminateRequested(epoch=epoch),
            "terminating": JobTerminating(epoch=epoch),
            "terminated": JobTerminated(forced=False, exit_code=0),
            "completed": JobCompleted(global_step=9, training_epochs=1),
            "lease_lost": LeaseExpired(epoch=epoch, cause="lease_lost"),
        }
        before = self.run
        if self.tell(kind, events[kind]) is None:
            assert self.run.reports in (before.reports + 1, 0) or self.run.lease is None

    @precondition(lambda self: self.run.lease is not None)
    @rule(reason=REASONS)
    def fail(self, reason: Any) -> None:
        self.tell("failed", JobFailed(reason=reason))

    @precondition(lambda self: self.run.lease is not None)
    @rule(step=st.integers(1, 4), is_whole=st.booleans())
    def checkpoint(self, step: int, is_whole: bool) -> None:
        name, run = f"c{self.run.attempt}-{step}", self.run
        begun = CheckpointBegun(checkpoint_id=name, epoch=run.epoch, attempt=run.attempt, global_step=step)
        assert self.tell("checkpoint_begun", begun) is None
        if is_whole:
            file = Artifact(name="state.npz", size_bytes=3, sha256="0" * 64)
            done = CheckpointCompleted(
                checkpoint_id=name, epoch=run.epoch, attempt=run.attempt, global_step=step, training_epoch=0,
                files=[file],
            )  # fmt: skip
            assert self.tell("checkpoint", done) is None
            assert self.run.checkpoints[name].is_complete

    @precondition(lambda self: self.run.epoch > 0)
    @rule(ahead=st.integers(2, 4))
    def report_too_early(self, ahead: int) -> None:
        code = self.tell("completed", JobCompleted(global_step=9, training_epochs=1), ahead)
        assert code in (("gap",) if self.run.lease is not None else ("fenced", "not_found"))

    @precondition(lambda self: self.run.epoch > 1)
    @rule()
    def report_of_an_older_epoch(self) -> None:
        agent = self.run.holder or "a1"
        event = JobCompleted(global_step=9, training_epochs=1)
        command = TakeReport(agent=agent, epoch=self.run.epoch - 1, seq=1, kind="completed", event=event)
        assert self.send(command) in ("fenced", "not_found")

    # --- the user ---------------------------------------------------------------------------------

    @rule(grace_s=st.sampled_from([1.0, 60.0, 600.0]))
    def stop(self, grace_s: float) -> None:
        before = self.run
        if self.send(StopRun(run="r", grace_s=grace_s)) is None:
            assert self.run.status in STOPPING | {Status.JOB_TERMINATED}
            if before.deadline is not None and self.run.deadline is not None and before.status in STOPPING:
                assert self.run.deadline <= before.deadline

    @rule()
    def resume(self) -> None:
        self.send(ResumeRun(run="r"))

    @rule()
    def restart(self) -> None:
        self.send(RestartRun(run="r"))

    @rule(pinned=st.booleans())
    def pin(self, pinned: bool) -> None:
        for one in list(self.run.checkpoints)[:1]:
            self.send(Pin(checkpoint_id=one, pinned=pinned))

    @rule()
    def drop(self) -> None:
        before = self.run
        ids = list(before.checkpoints)
        if self.send(DropCheckpoints(ids=ids)) is None:
            assert not any(one.pinned for one in before.checkpoints.values())

    @rule(chance=st.integers(0, 9))
    def delete(self, chance: int) -> None:
        if chance == 0 and self.run.status in FINISHED:
            self.send(DeleteRun(run="r"))

    @rule(seconds=st.integers(0, 1000))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    # --- laws -------------------------------------------------------------------------------------

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 60))
    def repeat(self, which: int) -> None:
        command, command_id, place = self.sent[max(len(self.sent) - 60, which % len(self.sent))]
        origin = origin_of("user:ann", command_id)
        outcome = self.now(self.deciders.handle(aggregate, REF, command, origin))
        assert (outcome.replayed, outcome.position, outcome.sequence) == (True, *place)
        assert outcome.state == self.run

    @rule()
    def another_copy_starts(self) -> None:
        self.deciders = Deciders(self.log, CODEC, self.clock)

    @invariant()
    def the_log_folds_to_the_state_and_is_legal(self) -> None:
        events = [
            event.data for commit in self.now(self.log.load(REF)) for event in CODEC.decode(commit)
        ]  # fmt: skip
        run: Run = initial()
        for event in events:
            if not isinstance(event, RunCreated):
                assert run.status in LEGAL[type(event)], (run.status, event)
                assert run.lease is not None or type(event) not in NEEDS_LEASE
            run = evolve(run, event)
        assert run == self.run
        assert self.codes <= {"conflict", "not_found", "fenced", "gap"}
        granted = [event.epoch for event in events if isinstance(event, LeaseGranted)]
        assert granted == list(range(1, len(granted) + 1))
        assert run.restarts_ever <= MAX_RESTARTS_EVER
        if run.status in FINISHED:
            assert run.lease is None
        for event in events:
            if isinstance(event, RunStopRequested):
                assert event.grace_s >= 1
                assert event.deadline - timedelta(seconds=event.grace_s) <= self.clock.now()


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
