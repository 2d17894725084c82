"""Records the log of a release: what a whole demo wrote, and then whatever else can happen.

    python tests/assets/logs/record.py 0.2.0

reads `demo/0.2.0.jsonl`, the log of a `tapeline demo` of that version (the lines of its segment:
`tapeline log export`, `zstd -d`), lets today's deciders go on with one fixed scenario, and writes `0.2.0.jsonl`
and the tables that it fills, `0.2.0.expected.json`. What is there already is not written over: a released log is
read for ever. Times, ids and commands are fixed, so that the same code records the same bytes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tapeline import names
from tapeline.assets.asset import aggregate as assets
from tapeline.assets.asset import projection as asset_rows
from tapeline.assets.asset import users as asset_users
from tapeline.assets.canvas import aggregate as canvases
from tapeline.assets.canvas import projection as canvas_rows
from tapeline.assets.tape import aggregate as tapes
from tapeline.assets.tape import projection as tape_rows
from tapeline.clock import FakeClock
from tapeline.contracts import ALL_EVENTS, EVENTS, TOMBSTONES, UPCASTERS
from tapeline.contracts.agents import Announce, DeviceInfo
from tapeline.contracts.archives import MetricsArchived, PurgeMetrics
from tapeline.contracts.artifacts import Artifact, ArtifactView
from tapeline.contracts.assets import (
    AssetBuilt,
    AssetMarkedStale,
    CancelBuild,
    FailBuild,
    FinishBuild,
    FinishRebuild,
    RebuildAsset,
    RemoveAsset,
    RemoveFeature,
    RequestBuild,
    StoreFeature,
)
from tapeline.contracts.blueprints import RegisterBlueprint, RemoveBlueprint
from tapeline.contracts.canvases import CanvasCreated, RemoveCanvas, RenameCanvas, StoreCanvas
from tapeline.contracts.models import (
    ClearModelParts,
    RemoveModelPart,
    SetModelStep,
)
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
    JobCreated,
    JobFailed,
    JobStarted,
    JobTerminated,
    JobTerminateRequested,
    JobTerminating,
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
from tapeline.log import NewCommit, StoredCommit
from tapeline.log.codec import Codec, link
from tapeline.names import ClaimName, ReleaseName, TakeNumber, counter_ref, name_ref
from tapeline.replay.chain import Walk
from tapeline.runs import projection as run_rows
from tapeline.runs.blueprint import aggregate as blueprints
from tapeline.runs.device import aggregate as devices
from tapeline.runs.model import aggregate as models
from tapeline.runs.model import projection as model_rows
from tapeline.runs.model.commands import (
    AddIteration,
    AddMetric,
    AddModule,
    DescribeModel,
    EndModel,
    EndNamespace,
    MakeModel,
    MakeNamespace,
    NameNamespace,
)
from tapeline.runs.run import aggregate as runs
from tapeline.runs.run.commands import (
    BearCopy,
    BearFork,
    BearRun,
    CreateJob,
    DropCheckpoints,
    ExpireLease,
    GrantLease,
    HoldBack,
    KeepArchive,
    KeepTables,
    Pin,
    RefuseJob,
    RegrantLease,
    TakeReport,
)
from tapeline.subjects import Kind, Ref
from tapeline.testing.recorded import folded, log_of, read_log, write_log
from tapeline.vault import aggregate as vault
from tapeline.vault import projection as item_rows
from tapeline.vault import sources

HERE = Path(__file__).parent
TEAM, USER, AGENT = "main", "user:me", "agent:local"
PROJECTIONS = (run_rows, model_rows, asset_rows, asset_users, canvas_rows, tape_rows, item_rows, sources)


class Scenario:
    """What goes on after the demo, one command after another, a second apart."""

    def __init__(self, commits: list[StoredCommit], app: str) -> None:
        self._codec = Codec(EVENTS, UPCASTERS, TOMBSTONES, app=app)
        self._clock = FakeClock(max(one.stored_at for one in commits))
        self.log = log_of(commits, self._codec, self._clock)
        self._deciders = Deciders(self.log, self._codec, self._clock)
        self._said = 0
        self._born = 0
        self.demo = [event for commit in commits for event in self._codec.decode(commit)]

    def of(self, event: type) -> Any:
        """The last event of a type that the demo wrote."""
        return next(each for each in reversed(self.demo) if isinstance(each.data, event))

    def ref(self, kind: Kind) -> Ref:
        """A new aggregate."""
        self._born += 1
        return Ref(TEAM, kind, f"00000000-0000-7000-8000-{self._born:012d}")

    async def say(self, decider: Any, ref: Ref, command: Any, *, actor: str = USER, id: str | None = None) -> Any:
        """Run one command a second later; the state after it."""
        self._said += 1
        self._clock.advance(1.0)
        origin = Origin(actor=actor, command_id=id or f"recorded-{self._said:03d}")
        outcome = await self._deciders.handle(decider, ref, command, origin)
        assert outcome.events, f"{type(command).__name__} changed nothing"
        return outcome.state

    async def append(self, ref: Ref, event: Any, command: str) -> None:
        """Append an event that no command leads to any more, or not yet: readers bear it all the same."""
        self._said += 1
        self._clock.advance(1.0)
        *_, last = await self.log.load(ref)
        before = self._codec.decode(last)[-1]
        new = NewCommit(
            ref=ref, events=(event,), sequence=before.sequence + 1, prev=link(last), created_at=self._clock.now(),
            actor=USER, command=command, command_id=f"recorded-{self._said:03d}",
        )  # fmt: skip
        await self.log.append(new, expected=last.position)

    async def claim(self, kind: Kind, name: str, ref: Ref) -> None:
        await self.say(names, name_ref(TEAM, kind, name), ClaimName(name=name, holder=ref.id, what=kind))

    async def release(self, kind: Kind, name: str, ref: Ref) -> None:
        await self.say(names, name_ref(TEAM, kind, name), ReleaseName(name=name, holder=ref.id))


def _artifact(name: str, fill: str) -> Artifact:
    return Artifact(name=name, size_bytes=100, sha256=fill * 64)


async def _tapes(play: Scenario) -> None:
    await play.say(tapes, play.ref("tape"), FailImport(name="torn", code="invalid", message="line 3 has no price"))
    second = play.ref("tape")
    imported = ImportUploads(
        name="second", content_sha256="a1" * 32, manifest=asdict(_artifact("manifest.json", "b")),
        files=[asdict(_artifact("SPY/2014-01-02.parquet", "c"))], symbols=["SPY"], days=["2014-01-02"], rows=4,
        calendar="24/7",
    )  # fmt: skip
    await play.say(tapes, second, imported)
    await play.claim("tape", "second", second)
    await play.say(tapes, second, RemoveTape(name="second"))
    await play.release("tape", "second", second)


async def _canvases(play: Scenario) -> None:
    made = play.of(CanvasCreated)
    content = dict(made.data.content) | {"notes": "saved again"}
    await play.say(canvases, made.ref, StoreCanvas(name=made.data.name, content=content, digest="d" * 64, user="me"))
    new_name = f"{made.data.name}_renamed"
    await play.say(canvases, made.ref, RenameCanvas(name=made.data.name, new_name=new_name))
    gone = play.ref("canvas")
    await play.say(canvases, gone, StoreCanvas(name="gone", content={"nodes": []}, digest="e" * 64, user="me"))
    await play.claim("canvas", "gone", gone)
    await play.say(canvases, gone, RemoveCanvas(name="gone"))
    await play.release("canvas", "gone", gone)


async def _assets(play: Scenario) -> None:
    ready = play.of(AssetBuilt)
    (tape,) = {each.ref.id for each in play.demo if each.type == "TapeImported"}
    await play.append(ready.ref, AssetMarkedStale(tape=tape), "MarkStale")
    request: Any = {
        "name": "second",
        "spec": {"tape": "second"},
        "spec_digest": "f" * 64,
        "tapes": [tape],
        "user": "me",
    }
    second = play.ref("asset")
    await play.say(assets, second, RequestBuild(**request))
    await play.claim("asset", "second", second)
    failed = FailBuild(
        spec_digest="f" * 64, code="lookahead_refused", message="a feature knows the future", hint="lag it",
        shard="SIM1 on 2024-01-03",
        certificate={"verdict": "failed"},
    )  # fmt: skip
    await play.say(assets, second, failed, actor="service:assets")
    await play.say(assets, second, RequestBuild(**request))
    await play.say(assets, second, CancelBuild(name="second"))
    await play.say(assets, second, RequestBuild(**request))
    finished = FinishBuild(
        spec_digest="f" * 64, certificate={"verdict": "passed"}, verdict="passed",
        files=[asdict(_artifact("test.h5", "1"))], rows={"test.h5": 10}, datasets=["x", "y"], features={"x": [4]},
        labels={"y": ["binary"]}, data_digest="2" * 64,
    )  # fmt: skip
    await play.say(assets, second, finished, actor="service:assets")
    for digest in ("2" * 64, "3" * 64):
        await play.say(assets, second, RebuildAsset(name="second"))
        await play.say(assets, second, FinishRebuild(data_digest=digest), actor="service:assets")
    await play.say(assets, second, RemoveAsset(name="second"))
    await play.release("asset", "second", second)


async def _items(play: Scenario) -> None:
    added = next(each for each in play.demo if each.type == "VaultItemAdded")
    await play.say(vault, added.ref, RenameVaultItem(name=added.data.name, new_name="better_model"))
    await play.claim("vault", "better_model", added.ref)
    await play.release("vault", added.data.name, added.ref)
    second = play.ref("vault")
    model = asdict(_artifact("model.keras", "3"))
    await play.say(vault, second, PromoteModel(name="imported", model=model, model_file="model.keras", user="me"))
    await play.claim("vault", "imported", second)
    await play.say(vault, second, RemoveVaultItem(name="imported"))
    await play.release("vault", "imported", second)


class _Agent:
    """An agent that reports on one run, counting within an epoch."""

    def __init__(self, play: Scenario, run: Ref) -> None:
        self._play, self._run = play, run
        self._epoch = self._seq = 0

    async def claims(self, attempt: int) -> None:
        await self._held(GrantLease(attempt=attempt, agent="local", device="cpu0", ttl_s=30.0))

    async def reclaims(self) -> None:
        await self._held(RegrantLease(agent="local", epoch=self._epoch, ttl_s=30.0))

    async def _held(self, command: Any) -> None:
        self._epoch, self._seq = self._epoch + 1, 0
        await self._play.say(runs, self._run, command, actor=AGENT)

    async def reports(self, kind: str, event: Any) -> None:
        self._seq += 1
        report = TakeReport(agent="local", epoch=self._epoch, seq=self._seq, kind=kind, event=event)
        id = f"{self._run.id}-e{self._epoch}-s{self._seq}"
        await self._play.say(runs, self._run, report, actor=AGENT, id=id)

    async def starts(self, step: int = 0) -> None:
        resume: Any = "exact" if step else "none"
        await self.reports("started", JobStarted(epoch=self._epoch, pid=4711, resume=resume, global_step=step))

    async def saves(self, id: str, attempt: int, step: int) -> None:
        begun = CheckpointBegun(checkpoint_id=id, epoch=self._epoch, attempt=attempt, global_step=step)
        await self.reports("checkpoint_begun", begun)
        done = CheckpointCompleted(
            checkpoint_id=id, epoch=self._epoch, attempt=attempt, global_step=step, training_epoch=1,
            files=[_artifact(f"{id}.h5", "4")], monitored={"loss": 0.5},
        )  # fmt: skip
        await self.reports("checkpoint", done)

    async def stops(self, step: int) -> None:
        await self.reports("terminate_requested", JobTerminateRequested(epoch=self._epoch))
        await self.reports("terminating", JobTerminating(epoch=self._epoch))
        await self.reports("terminated", JobTerminated(forced=False, exit_code=0, last_step=step))


async def _runs(play: Scenario) -> None:
    born: RunCreated = play.of(RunCreated).data
    job: JobCreated = play.of(JobCreated).data
    run, number = play.ref("run"), born.number + 1
    agent = _Agent(play, run)

    async def create_job(attempt: int, source: str | None = None) -> None:
        fields = asdict(job) | {"attempt": attempt, "from_checkpoint": source, "session_name": f"session-{attempt}"}
        await play.say(runs, run, CreateJob(**fields), actor="service:runs")

    await play.say(names, counter_ref(TEAM, "run"), TakeNumber(number=number, holder=run.id))
    await play.say(runs, run, BearRun(**asdict(born) | {"number": number, "name": "third", "notes": None}))
    refused = RefuseJob(attempt=1, code="not_found", message="there is no asset 'x'", hint="tapeline asset ls")
    await play.say(runs, run, refused, actor="service:runs")
    await play.say(runs, run, RestartRun(run=run.id))
    await create_job(2)
    held = HoldBack(attempt=2, reason="no_device", nearest="local has no gpu")
    await play.say(runs, run, held, actor="service:runs")
    await agent.claims(2)
    await agent.starts()
    await play.say(runs, run, SetNotes(run=run.id, notes="looks good"))
    await play.say(runs, run, RenameRun(run=run.id, name="third, renamed"))
    await agent.saves("ck-1", 2, 10)
    await play.say(runs, run, Pin(checkpoint_id="ck-1", pinned=True))
    await play.say(runs, run, PauseRun(run=run.id, grace_s=60.0))
    await agent.starts(10)  # too late to matter: it is noted
    await agent.stops(10)
    await play.say(runs, run, ResumeRun(run=run.id))
    await create_job(3, "ck-1")
    await agent.claims(3)
    await agent.starts(10)
    await agent.saves("ck-2", 3, 20)
    lost = ExpireLease(epoch=2, cause="not_renewed")
    await play.say(runs, run, lost, actor="service:runs")
    await agent.reclaims()
    await agent.reports("failed", JobFailed(reason="nan_loss", message="the loss is NaN", exit_code=1, last_step=20))
    await play.say(runs, run, DropCheckpoints(ids=["ck-2"]))
    await play.say(runs, run, RestartRun(run=run.id, from_checkpoint="ck-1"))
    await play.say(runs, run, StopRun(run=run.id, grace_s=5.0))
    await _kept(play, run)
    points = MetricsArchived(
        through=90, points=40, manifest=_artifact("metrics.manifest", "6"), objects=[_artifact("metrics-000", "7")]
    )
    await play.say(runs, run, KeepArchive(archived=points), actor="service:runs")
    purge = PurgeMetrics(before=91, messages=12, points=40, manifest=points.manifest.sha256)
    await play.say(runs, run, purge, actor="operator:admin")
    await play.say(runs, run, DeleteRun(run=run.id))


async def _kept(play: Scenario, run: Ref) -> None:
    """What a run keeps, a copy of it, and a fork."""
    await play.say(runs, run, AddRunInput(run=run.id, value={"input_table_url": "tapeline://main/assets/a/test.h5"}))
    await play.say(runs, run, AddRunOutput(run=run.id, value={"score": 0.5}))
    await play.say(runs, run, SetRunParameters(run=run.id, parameters={"lr": 0.1}))
    await play.say(runs, run, SetRunParameters(run=run.id, parameters={"lr": 0.2, "layers": 2}))
    table = MetricsTableView(
        id="00000000-0000-7000-9000-000000000001", run_id=run.id, name="metrics", rows=2,
        columns={"loss": {"kind": "float"}}, file=ArtifactView(name="t.h5", size_bytes=100, sha256="5" * 64),
    )  # fmt: skip
    await play.say(runs, run, KeepTables(tables=[table]))
    born = asdict(play.of(RunCreated).data)
    copied = RunCopied(
        source=run.id, source_sequence=40, status="job_terminated", attempt=4, starts=[-2, -1, 10, -2],
        parameters={"lr": 0.2, "layers": 2},
    )  # fmt: skip
    copy, fork = play.ref("run"), play.ref("run")
    named = {"number": born["number"] + 2, "name": "third_copy"}
    await play.say(runs, copy, BearCopy(**born | named, copied=copied, tables=[table]))
    await play.say(runs, copy, RemoveMetricsTables(run=copy.id, tables=[table.id]))
    forked = RunForked(source=run.id, checkpoint_id="ck-1", global_step=10, files=[_artifact("ck-1.h5", "4")])
    named = {"number": born["number"] + 3, "name": "third_fork"}
    await play.say(runs, fork, BearFork(**born | named, forked=forked))
    blueprint = play.ref("blueprint")
    schema = {"type": "object", "properties": {"steps": {"type": "integer"}}}
    registered = RegisterBlueprint(name="mine", version="1.0.0", config_schema=schema, entrypoint="mine:go", user="me")
    await play.say(blueprints, blueprint, registered)
    await play.say(blueprints, blueprint, RemoveBlueprint(blueprint_id=blueprint.id))


async def _agents(play: Scenario) -> None:
    far = Ref("platform", "device", "far")
    said = Announce(boot="b1", version="0.1.0", host="far", devices=[DeviceInfo(name="gpu0", kind="gpu", memory=8)])
    await play.say(devices, far, devices.Admit(agent="far", teams=[TEAM], said=said), actor="agent:far")
    await play.say(devices, far, devices.Forget(agent="far", cause="leaving"), actor="agent:far")


async def _models(play: Scenario) -> None:
    space, model = play.ref("model"), play.ref("model")
    await play.say(models, space, MakeNamespace(name="digits", user="me"))
    await play.claim("model", "namespace digits", space)
    await play.say(models, model, MakeModel(namespace_id=space.id, hash="a1", user="me", name="mlp"))
    await play.say(models, model, DescribeModel(name="mlp", description="two layers"))
    await play.say(models, model, SetModelStep(id=model.id, step=5))
    for command in (
        AddIteration(iteration_id="i", step=5),
        AddMetric(metric_id="m", name="loss", value={"$float": "NaN"}, step=5, phase="train"),
        AddModule(module_id="o", name="dense", attributes={"units": 8}),
        AddMetric(metric_id="n", name="loss", value=0.5, step=6),
    ):
        await play.say(models, model, command)
    await play.say(models, model, RemoveModelPart(id=model.id, part="modules", part_id="o"))
    await play.say(models, model, ClearModelParts(id=model.id, part="iterations"))
    gone = play.ref("model")
    await play.say(models, gone, MakeModel(namespace_id=space.id, hash="b2", user="me"))
    await play.say(models, gone, EndModel())
    await play.say(models, space, NameNamespace(name="numbers"))
    empty = play.ref("model")
    await play.say(models, empty, MakeNamespace(name="empty", user="me"))
    await play.say(models, empty, EndNamespace())


async def _features(play: Scenario) -> None:
    named, gone = play.ref("asset"), play.ref("asset")
    meant: Any = {"kind": "feature", "component": "roc", "component_version": 1, "user": "me"}
    await play.say(assets, named, StoreFeature(name="90_1daybar_lp%", params={"k": 90}, **meant))
    await play.say(assets, named, StoreFeature(name="90_1daybar_lp%", params={"k": 80}, **meant))
    await play.say(assets, gone, StoreFeature(name="gone", params={"k": 1}, **meant))
    await play.say(assets, gone, RemoveFeature(name="gone"))


async def record(version: str, folder: Path = HERE) -> list[StoredCommit]:
    """The commits of the demo of a version and of the scenario."""
    play = Scenario(read_log(folder / "demo" / f"{version}.jsonl"), version)
    for part in (_agents, _tapes, _canvases, _assets, _items, _runs, _models, _features):
        await part(play)
    return [one async for many in play.log.read() for one in many]


def expected(commits: list[StoredCommit]) -> dict[str, Any]:
    """Root and tables of a recorded log."""
    codec = Codec(EVENTS, UPCASTERS, TOMBSTONES)
    walk = Walk(codec)
    faults = [fault for commit in commits for fault in walk.add(commit)]
    assert not faults, faults
    seen = {event.type for commit in commits for event in codec.decode(commit)}
    assert not (left := {event.__name__ for event in ALL_EVENTS} - seen), f"the scenario has no {', '.join(left)}"
    return {"root": walk.root.hex(), "tables": folded(commits, PROJECTIONS, codec)}


def main(version: str) -> None:
    log, tables = HERE / f"{version}.jsonl", HERE / f"{version}.expected.json"
    for path in (log, tables):
        if path.exists():
            raise SystemExit(f"{path} is there already: what was released is never recorded anew")
    commits = asyncio.run(record(version))
    found = expected(commits)
    write_log(log, commits)
    tables.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{log.name}: {len(commits)} commits, {sum(map(len, found['tables'].values()))} rows")


if __name__ == "__main__":
    main(sys.argv[1])
