"""Today's rules on recorded commands: what has not changed is the same, and a change is found where it bites."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapeline import names, replay
from tapeline.assets.asset import aggregate as asset
from tapeline.assets.canvas import aggregate as canvas
from tapeline.assets.tape import aggregate as tape
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.agents import Announce
from tapeline.contracts.archives import MetricsArchived, PurgeMetrics
from tapeline.contracts.artifacts import Artifact, ArtifactView
from tapeline.contracts.assets import (
    CancelBuild,
    FailBuild,
    FailRebuild,
    FinishBuild,
    FinishRebuild,
    MarkStale,
    RebuildAsset,
    RemoveAsset,
    RemoveFeature,
    RequestBuild,
    StoreFeature,
)
from tapeline.contracts.blueprints import RegisterBlueprint, RemoveBlueprint
from tapeline.contracts.canvases import RemoveCanvas, RenameCanvas, StoreCanvas
from tapeline.contracts.message import Command
from tapeline.contracts.records import (
    AddRunInput,
    AddRunOutput,
    MetricsTableView,
    RemoveMetricsTables,
    RunCopied,
    RunForked,
    SetRunParameters,
)
from tapeline.contracts.runs import (
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
    PauseRun,
    RenameRun,
    RestartRun,
    ResumeRun,
    RunCreated,
    SetNotes,
    StopRun,
)
from tapeline.contracts.tapes import FailImport, ImportUploads, RemoveTape
from tapeline.contracts.vault import PromoteModel, RemoveVaultItem, RenameVaultItem
from tapeline.decider import Deciders, Origin
from tapeline.errors import TapelineError
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, ReleaseName, TakeNumber, TakeNumbers, name_ref
from tapeline.replay.rehearsal import commands_of, kind_of
from tapeline.runs.blueprint import aggregate as blueprint
from tapeline.runs.device import aggregate as device
from tapeline.runs.device.aggregate import Admit, Forget
from tapeline.runs.run import aggregate as run
from tapeline.runs.run import commands as own
from tapeline.subjects import Kind, Ref
from tapeline.vault import aggregate as vault

CODEC = Codec(EVENTS, UPCASTERS)
DECIDERS: dict[str, Any] = {
    "runs": run, "assets": asset, "tapes": tape, "canvases": canvas, "vault": vault, "devices": device,
    "names": names, "blueprints": blueprint,
}  # fmt: skip
FILE = {"name": "a.h5", "size_bytes": 1, "sha256": "ab" * 32}


class Story:
    """A log written by commands, through the real decider loop."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = InMemoryLog(CODEC, clock=self.clock)
        self.deciders = Deciders(self.log, CODEC, self.clock)
        self.used: set[type] = set()

    async def tell(self, rules: Any, ref: Ref, *commands: Any, actor: str = "user:ann") -> None:
        """Run commands on an aggregate, a second apart."""
        for command in commands:
            self.clock.advance(1)
            at = await self.log.head()
            await self.deciders.handle(rules, ref, command, Origin(actor=actor, command_id=f"c{at.position}"))
            assert (await self.log.head()).position == at.position + 1, "each command is to leave a commit"
            self.used.add(type(command))


def born(number: int, **more: Any) -> own.BearRun:
    return own.BearRun(
        number=number, name="r", version="1", project_id="p", blueprint_id="b", task_type="t", resources={},
        config=more, user="ann", device="any", priority=0, session_name=None, notes=None,
    )  # fmt: skip


def job(attempt: int = 1) -> own.CreateJob:
    return own.CreateJob(attempt=attempt, session_name=f"s{attempt}", seed=0, spec={"a": [1]})


def grant(attempt: int = 1) -> own.GrantLease:
    return own.GrantLease(attempt=attempt, agent="a1", device="cpu0", ttl_s=30)


def report(seq: int, kind: str, event: Any, epoch: int = 1) -> own.TakeReport:
    return own.TakeReport(agent="a1", epoch=epoch, seq=seq, kind=kind, event=event)


def done(checkpoint_id: str, epoch: int = 1, attempt: int = 1) -> CheckpointCompleted:
    return CheckpointCompleted(
        checkpoint_id=checkpoint_id, epoch=epoch, attempt=attempt, global_step=3, training_epoch=1,
        files=[Artifact(**FILE)],
    )  # fmt: skip


def started(epoch: int = 1) -> JobStarted:
    return JobStarted(epoch=epoch, pid=1, resume="none")


async def runs_of(story: Story) -> None:
    """Every command of runs, on lives that reach every branch of their rules."""

    async def life(id: str, *commands: Any) -> None:
        for command in (born(len(id)), *commands):
            await story.tell(run, Ref("contoso", "run", id.replace(" ", "-")), command, actor="agent:a1")

    begun = CheckpointBegun(checkpoint_id="k1", epoch=1, attempt=1, global_step=3)
    life_of = (job(), grant(), report(1, "started", started()))
    await life(
        "stopped", *life_of, report(2, "checkpoint_begun", begun), report(3, "checkpoint", done("k1")),
        own.Pin(checkpoint_id="k1", pinned=True), StopRun(run="r", grace_s=60), StopRun(run="r", grace_s=5),
        report(4, "terminate_requested", JobTerminateRequested(epoch=1)),
        report(5, "terminating", JobTerminating(epoch=1)),
        report(6, "terminated", JobTerminated(forced=False, checkpoint_id="k1")),
        ResumeRun(run="r", epochs=3), job(2), StopRun(run="r"),
        RestartRun(run="r", from_checkpoint="k1", device="cpu0", session_name="again"), StopRun(run="r"),
        own.Pin(checkpoint_id="k1", pinned=False), own.DropCheckpoints(ids=["k1", "unknown"]),
        SetNotes(run="r", notes="x"), SetNotes(run="r", notes=None), RenameRun(run="r", name="other"),
        DeleteRun(run="r"),
    )  # fmt: skip
    await life("paused", *life_of, PauseRun(run="r", grace_s=10), report(2, "terminated", JobTerminated(forced=True)))
    await life("completed", *life_of, report(2, "completed", JobCompleted(global_step=3, training_epochs=1)))
    archived = MetricsArchived(through=9, points=5, manifest=Artifact(**FILE), objects=[Artifact(**FILE)])
    await life(
        "archived", *life_of, report(2, "completed", JobCompleted(global_step=3, training_epochs=1)),
        own.KeepArchive(archived=archived), PurgeMetrics(before=10, messages=9, points=5, manifest=FILE["sha256"]),
    )  # fmt: skip
    await life("failed", *life_of, report(2, "failed", JobFailed(reason="signal")), job(2))
    await life("given up by its agent", *life_of, report(2, "lease_lost", LeaseExpired(epoch=1, cause="lease_lost")))
    lost = own.ExpireLease(epoch=1, cause="not_renewed")
    await life("lost", *life_of, lost, own.GiveUp(epoch=1))
    await life("lost with a new boot", *life_of, lost, own.GiveUp(epoch=1, reason="agent_restarted"))
    regrant = own.RegrantLease(agent="a1", epoch=1, ttl_s=30)
    await life("reclaimed", *life_of, lost, regrant, own.ExpireLease(epoch=2, cause="not_renewed"))
    await life("held back", job(), own.HoldBack(attempt=1, reason="busy"), own.Overdue(attempt=1, message="no device"))
    await life("refused", own.RefuseJob(attempt=1, code="not_found", message="gone"))
    await life("deleted at once", DeleteRun(run="r", stop=True))
    await life("deleted while it runs", *life_of, DeleteRun(run="r", stop=True))
    table = MetricsTableView(
        id="t1", run_id="r", name="metrics", rows=2, columns={"loss": {"kind": "float"}}, file=ArtifactView(**FILE)
    )
    await life(
        "with records", AddRunInput(run="r", value={"a": 1}), AddRunOutput(run="r", value={"b": 1}),
        AddRunOutput(run="r", value={"b": 1}), SetRunParameters(run="r", parameters={"lr": 1, "n": 2}),
        SetRunParameters(run="r", parameters={"lr": 2, "n": 2}), own.KeepTables(tables=[table]),
        RemoveMetricsTables(run="r", tables=["t1", "unknown"]),
    )  # fmt: skip
    birth = born(90).model_dump()
    copied = RunCopied(source="r", source_sequence=3, status="job_completed", attempt=2, starts=[-1, 4])
    copy = own.BearCopy(**birth, copied=copied, tables=[table])
    await story.tell(run, Ref("contoso", "run", "a-copy"), copy, RestartRun(run="r"))
    script = own.Attached(holder="user:ann", ttl_s=30, pid=7)
    attached = own.BearAttached(**birth | {"device": "attached:h"}, attached=script)
    ended = own.TakeReport(
        agent="user:ann", epoch=4, seq=2, kind="completed", event=JobCompleted(global_step=3, training_epochs=0)
    )
    await story.tell(
        run, Ref("contoso", "run", "by-hand"), attached, own.ExpireLease(epoch=1, cause="not_renewed"),
        own.AttachRun(attached=script, device="attached:h", from_step=-1, attempt=1),
        own.AttachRun(attached=script, device="attached:h", from_step=5), StopRun(run="r"),
        own.AttachRun(attached=script, device="attached:h", from_step=7), ended,
        own.AttachRun(attached=script, device="attached:h", from_step=-1),
        own.ExpireLease(epoch=5, cause="not_renewed"), own.GiveUp(epoch=5),
    )  # fmt: skip
    forked = RunForked(source="r", checkpoint_id="k1", global_step=3, files=[Artifact(**FILE)])
    await story.tell(run, Ref("contoso", "run", "a-fork"), own.BearFork(**birth, forked=forked), job())


async def others_of(story: Story) -> None:
    async def life(rules: Any, kind: Kind, id: str, *commands: Any) -> None:
        await story.tell(rules, Ref("contoso", kind, id), *commands)

    asked = RequestBuild(name="a", spec={"b": 1}, spec_digest="d", tapes=["t"], user="ann")
    built = FinishBuild(
        spec_digest="d", certificate={"c": 1}, verdict="passed", files=[FILE], rows={"a.h5": 1}, datasets=["x"],
        features={"x": [1]}, labels={}, data_digest="e",
    )  # fmt: skip
    failed = FailBuild(spec_digest="d", code="leak_found", message="it leaks")
    again = RebuildAsset(name="a")
    await life(
        asset, "asset", "a1", asked, built, MarkStale(tape="t"), again, FinishRebuild(data_digest="e"), again,
        FinishRebuild(data_digest="f"), again, FailRebuild(code="unknown_tape", message="gone"), RemoveAsset(name="a"),
    )  # fmt: skip
    await life(asset, "asset", "a2", asked, failed, asked, failed.model_copy(update={"certificate": {"c": 1}}))
    await life(asset, "asset", "a3", asked, CancelBuild(name="a"), asked, RemoveAsset(name="a"))
    saved = StoreFeature(
        name="f", kind="feature", component="rsi", component_version=1, params={"n": 14}, user="ann"
    )  # fmt: skip
    await life(asset, "asset", "f1", saved, RemoveFeature(name="f"))
    tape_of = ImportUploads(
        name="t", content_sha256="ab" * 32, manifest=FILE, files=[FILE], symbols=["S"], days=["d"], rows=1, calendar="X"
    )
    await life(tape, "tape", "t1", tape_of, RemoveTape(name="t"))
    await life(tape, "tape", "t2", FailImport(name="t", code="corrupt", message="torn"))
    first = StoreCanvas(name="c", content={"n": 1}, digest="d1", user="ann", copied_from="c0")
    second = StoreCanvas(name="c", content={"n": 2}, digest="d2", expected_revision=1)
    await life(canvas, "canvas", "c1", first, second, RenameCanvas(name="c", new_name="d"), RemoveCanvas(name="d"))
    model = PromoteModel(name="m", model=FILE, model_file="a.h5", run_id="r", features=[["x"]])
    renamed = RenameVaultItem(name="m", new_name="n")
    await life(vault, "vault", "v1", model, renamed, RemoveVaultItem(name="n"))
    said = Announce(
        boot="b", version="1", host="h", devices=[{"name": "cpu0", "kind": "cpu", "cores": 2}],  # type: ignore[list-item]
        blueprints=[{"name": "canvas", "version": "1"}],  # type: ignore[list-item]
    )  # fmt: skip
    admitted = Admit(agent="a1", teams=["y", "x"], said=said)
    await story.tell(device, Ref("platform", "device", "a1"), admitted, Forget(agent="a1", cause="left"))
    mine = RegisterBlueprint(name="b", version="1.0.0", config_schema={"type": "object"}, entrypoint="m:f", user="ann")
    await life(blueprint, "blueprint", "b1", mine, RemoveBlueprint(blueprint_id="b1"), mine)
    claim = ClaimName(name="m", holder="v1", what="vault item")
    ref = name_ref("contoso", "vault", "m")
    await story.tell(names, ref, claim, ReleaseName(name="m", holder="v1"), claim)
    await story.tell(names, Ref("contoso", "run", "counter"), TakeNumber(number=1, holder="r"))
    await story.tell(names, Ref("contoso", "run", "counter"), TakeNumbers(first=2, holders=["r2", "r3"]))


# The demo registers no blueprint.
@pytest.mark.parametrize("decider", [name for name in DECIDERS if name != "blueprints"])
async def test_the_rules_that_wrote_a_log_decide_it_again(recorded: Any, decider: str) -> None:
    found = await replay.dry_run(recorded, decider)
    assert found.ok
    assert found.same > 0
    assert (found.different, found.refused, found.lossy) == (0, 0, 0)
    branched = await replay.dry_run(recorded, decider, branch=True)
    assert branched.to_json() == found.to_json()


async def test_every_command_is_made_again_from_its_events() -> None:
    story = Story()
    await runs_of(story)
    await others_of(story)
    total = 0
    for decider, rules in DECIDERS.items():
        found = await replay.dry_run(story.log, decider)
        assert found.dissents == [], decider
        assert found.lossy == 0, found.reasons
        assert set(commands_of(rules).values()) <= story.used, decider
        total += found.same
    assert total == (await story.log.head()).position


def test_every_command_of_every_decider_is_made_again_or_says_why_not() -> None:
    for found in entry_points(group="tapeline.deciders"):
        for command in commands_of(found.load()).values():
            own_way = command.from_events.__func__ is not Command.from_events.__func__  # type: ignore[attr-defined]
            assert own_way or command.LOSSY, f"{found.name}: {command.__name__}"


async def test_a_log_of_every_event_type_is_decided_again(every_type: Any) -> None:
    for decider in DECIDERS:
        found = await replay.dry_run(every_type, decider)
        assert found.dissents == [], decider
        assert found.same > 0


async def test_a_report_that_was_only_noted_is_lossy_and_counted_apart() -> None:
    story, ref = Story(), Ref("contoso", "run", "r1")
    reports = (
        report(1, "started", started()),
        report(2, "checkpoint", done("k1")),
        report(3, "checkpoint", done("k1")),
    )
    for command in (born(1), job(), grant(), *reports):
        await story.tell(run, ref, command, actor="agent:a1")
    found = await replay.dry_run(story.log, "runs")
    assert (found.same, found.lossy, found.ok) == (5, 1, True)
    assert list(found.reasons) == ["a report that changed nothing is noted without what it said"]


async def test_what_was_erased_is_lossy_and_keeps_its_place_in_a_chain(recorded: Any, tmp_path: Path) -> None:
    tape, drawn = (recorded.commits[position - 1].subject.split(".") for position in (2, 27))
    gone = replay.Erasure(aggregate=f"main/tape/{tape[3]}", reason="law")
    part = replay.Erasure(aggregate=f"main/canvas/{drawn[3]}", field="user", reason="law")
    await replay.export_erased(recorded, tmp_path / "export", [gone, part])
    rest: Any = replay.ExportedLog(tmp_path / "export")
    for decider, same in (("tapes", 0), ("canvases", 1)):
        found = await replay.dry_run(rest, decider)
        assert (found.same, found.lossy, found.ok) == (same, 1, True)
        assert list(found.reasons) == ["something of the commit was erased"]
    before, after = [await replay.why(log, "vault:demo_model") for log in (recorded, rest)]
    assert [link.fact.id for link in after.links] == [link.fact.id for link in before.links]


async def test_a_command_that_declares_itself_lossy_is_not_tried(recorded: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(own.GrantLease, "LOSSY", "nobody kept it")
    found = await replay.dry_run(recorded, "run")
    assert (found.same, found.lossy, dict(found.reasons)) == (36, 2, {"nobody kept it": 2})


def changed(decide: Callable[[Any, Command], list[Any]], rules: Any = run) -> Any:
    return SimpleNamespace(initial=rules.initial, evolve=rules.evolve, decide=decide)


def longer_leases(state: Any, command: Any) -> list[Any]:
    events = run.decide(state, command)
    return [replace(each, ttl_s=60.0) if hasattr(each, "ttl_s") else each for each in events]


def second_run_is_refused(state: Any, command: Any) -> list[Any]:
    if isinstance(command, own.CreateJob) and state.number == 2:
        raise TapelineError("one run is enough", code="conflict")
    return run.decide(state, command)


def breaks(state: Any, command: Any) -> list[Any]:
    return [] if isinstance(command, own.BearRun) else [command.no_such_field]


async def test_a_changed_rule_is_reported_at_its_positions(recorded: Any) -> None:
    found = await replay.dry_run(recorded, "runs", rules=changed(longer_leases))
    assert [(one.position, one.command) for one in found.dissents] == [(12, "GrantLease"), (32, "GrantLease")]
    assert (found.same, found.different, found.refused, found.ok) == (36, 2, 0, False)
    one = found.dissents[0]
    assert (one.recorded[0]["data"]["ttl_s"], one.decided[0]["data"]["ttl_s"]) == (30.0, 60.0)  # type: ignore[index]
    assert [each["type"] for each in one.recorded] == ["LeaseGranted"]
    assert "12\tmain/run/" in str(one)
    assert str(one).count("LeaseGranted") == 2
    later = await replay.dry_run(recorded, "runs", rules=changed(longer_leases), after=12)
    assert [one.position for one in later.dissents] == [32]
    earlier = await replay.dry_run(recorded, "runs", rules=changed(longer_leases), upto=31)
    assert [one.position for one in earlier.dissents] == [12]


async def test_a_command_that_would_be_refused_is_reported_with_the_reason(recorded: Any) -> None:
    found = await replay.dry_run(recorded, "runs", rules=changed(second_run_is_refused))
    (one,) = found.dissents
    assert (one.position, one.decided, one.why) == (31, None, "conflict: one run is enough")
    assert one.to_json()["result"] == "refused"


async def test_rules_that_break_would_refuse(recorded: Any) -> None:
    found = await replay.dry_run(recorded, "runs", rules=changed(breaks))
    births = [one for one in found.dissents if one.decided == []]
    assert [one.position for one in births] == [10, 30]
    assert "decided\tnothing" in str(births[0])
    assert found.refused == 36
    assert all((one.why or "").startswith("internal: AttributeError") for one in found.dissents if one.decided is None)


async def test_a_branch_goes_on_with_the_new_events_and_says_what_ends_otherwise(recorded: Any) -> None:
    found = await replay.dry_run(recorded, "runs", rules=changed(second_run_is_refused), branch=True)
    assert found.dissents[0].position == 31
    assert [one.position for one in found.dissents[1:]] == [*range(32, 51)], "what came after it has no ground now"
    (parted,) = found.parted
    assert any(path.startswith("status: ") and "job_completed" in path for path in parted.paths)
    assert found.to_json()["parted"] == 1
    small = await replay.dry_run(recorded, "runs", rules=changed(longer_leases), branch=True)
    assert [one.position for one in small.dissents] == [12, 32]
    assert small.parted == [], "both runs have ended, and with them their leases"


async def test_chance_is_the_same_chance_each_time(recorded: Any) -> None:
    def at_random(state: Any, command: Any) -> list[Any]:
        events = run.decide(state, command)
        return [replace(each, ttl_s=random.random()) if hasattr(each, "ttl_s") else each for each in events]

    before = random.getstate()
    first = await replay.dry_run(recorded, "runs", rules=changed(at_random))
    assert random.getstate() == before
    random.seed(1)
    second = await replay.dry_run(recorded, "runs", rules=changed(at_random))
    assert [str(each) for each in replay.lines_of(first)] == [str(each) for each in replay.lines_of(second)]
    drawn = {one.decided[0]["data"]["ttl_s"] for one in first.dissents if one.decided}
    assert len(drawn) == 2, "each commit draws its own"


SCRIPT = """
import asyncio, sys, types
from dataclasses import replace
from pathlib import Path
from tapeline import replay
from tapeline.runs.run import aggregate as run

def evolve(state, event):
    state = run.evolve(state, event)
    return replace(state, holders=state.holders | {"a", "b", "c"})

def decide(state, command):
    return [replace(each, ttl_s=60.0) if hasattr(each, "ttl_s") else each for each in run.decide(state, command)]

rules = types.SimpleNamespace(initial=run.initial, decide=decide, evolve=evolve)
found = asyncio.run(replay.dry_run(replay.ExportedLog(Path(sys.argv[1])), "runs", rules=rules, branch=True))
for each in replay.lines_of(found):
    print(each)
    print(each.to_json())
"""


async def test_two_processes_print_the_same_bytes(recorded: Any, tmp_path: Path) -> None:
    await replay.export(recorded, tmp_path / "export")
    printed = []
    for seed in ("1", "2"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, str(tmp_path / "export"), stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        printed.append((await process.communicate())[0])
        assert process.returncode == 0
    assert printed[0] == printed[1]
    assert printed[0].count(b"LeaseGranted") >= 4


@pytest.mark.parametrize(
    ("name", "kind"), [("runs", "run"), ("canvases", "canvas"), ("vault", "vault"), ("names", None)]
)
def test_a_decider_is_named_as_people_do(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


async def test_an_unknown_decider_or_position_is_refused(recorded: Any) -> None:
    wrong: dict[str, Awaitable[Any]] = {
        "not_found": replay.dry_run(recorded, "ghosts"),
        "invalid": replay.dry_run(recorded, "runs", upto=53),
    }
    for code, asked in wrong.items():
        with pytest.raises(TapelineError) as refused:
            await asked
        assert refused.value.code == code


def test_the_time_of_a_stop_is_that_of_its_request() -> None:
    state = run.evolve(run.initial(), RunCreated(**born(1).model_dump(exclude={"command_id", "at", "min_position"})))
    asked_at = FakeClock().now() + timedelta(seconds=3)
    events = run.decide(state, StopRun(run="1", grace_s=90, at=asked_at))
    told: Any = SimpleNamespace(data=events[0], ref=Ref("contoso", "run", "r"))
    again = StopRun.from_events([told], state)
    assert (again.at, again.grace_s) == (asked_at, 90)
