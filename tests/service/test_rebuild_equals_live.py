"""Rebuild equals live: whatever happened, the tables refilled from the log are the same row for row."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import Connection, Table, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from tapeline.assets.asset import users
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.runs import (
    CheckpointBegun,
    CheckpointCompleted,
    DeleteRun,
    JobCompleted,
    JobFailed,
    JobStarted,
    JobTerminated,
    PauseRun,
    RenameRun,
    RestartRun,
    ResumeRun,
    SetNotes,
    StopRun,
)
from tapeline.database import Engine, make_engine, physical, sqlite_url
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.ids import new_id
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.projections import LogSource, Projection, Projector, Rows, Tail
from tapeline.runs import projection as runs_projection
from tapeline.runs.run import aggregate
from tapeline.runs.run.commands import (
    BearRun,
    CreateJob,
    DropCheckpoints,
    ExpireLease,
    GiveUp,
    GrantLease,
    HoldBack,
    Pin,
    RegrantLease,
    TakeReport,
)
from tapeline.subjects import Ref
from tapeline.vault import sources

from .mortal import POINTS, Counting, Killed, Mortal

CODEC = Codec(EVENTS, UPCASTERS)
FOLDS: tuple[Projection, ...] = (runs_projection, sources, users, Counting())
TEXTS = ("plain", "Ä_%\\", "x" * 255, "日本 \u2028", "'\"; --", "")
FILE = Artifact(name="model.keras", size_bytes=3, sha256="0" * 64)
T = TypeVar("T")
Followers = list[tuple[Projector, asyncio.Task[None]]]


def command_for(run: aggregate.Run, chance: random.Random) -> Any:
    """A command that may or may not be accepted: what drives a run on comes most often."""
    if run.created is None:
        return BearRun(
            number=chance.randrange(1, 4), name=chance.choice(TEXTS[:4]), version="1", project_id="default",
            blueprint_id="b", task_type="t", resources={"cpu": "1"}, config={"max_restarts": 2, "a": [1.5, None, "☃"]},
            user="ann", device="any", priority=0, session_name=None, notes=chance.choice([None, *TEXTS]),
        )  # fmt: skip
    epoch, agent, step = run.epoch, "a1", chance.randrange(1, 2**40)
    reports: list[tuple[str, Any]] = [
        ("started", JobStarted(epoch=epoch, pid=7, resume=chance.choice(["none", "exact"]), global_step=step)),
        ("checkpoint_begun", CheckpointBegun(
            checkpoint_id=f"c{step % 3}", epoch=epoch, attempt=run.attempt, global_step=step,
        )),
        ("checkpoint", CheckpointCompleted(
            checkpoint_id=f"c{step % 3}", epoch=epoch, attempt=run.attempt, global_step=step, training_epoch=1,
            files=[FILE], monitored={"val/loss": 0.1 * (step % 7)},
        )),
        ("terminated", JobTerminated(forced=False, exit_code=0, last_step=step)),
        ("completed", JobCompleted(global_step=step, training_epochs=1)),
        ("failed", JobFailed(reason=chance.choice(["signal", "exit_code"]), message=chance.choice(TEXTS))),
    ]  # fmt: skip
    kind, event = chance.choice(reports)
    onward = [
        CreateJob(attempt=run.attempt, session_name="s", seed=1, spec={"canvas": {"n": 1}}, asset_id="x"),
        GrantLease(attempt=run.attempt, agent=agent, device="cpu0", ttl_s=30.0),
        TakeReport(agent=agent, epoch=epoch, seq=run.reports + 1, kind=kind, event=event),
    ]
    rare = [
        HoldBack(attempt=run.attempt, reason="no_device", nearest=chance.choice(TEXTS)),
        ExpireLease(epoch=epoch, cause="not_renewed"),
        RegrantLease(agent=agent, epoch=epoch, ttl_s=30.0),
        GiveUp(epoch=epoch),
        StopRun(run="r", grace_s=5),
        PauseRun(run="r"),
        ResumeRun(run="r"),
        RestartRun(run="r"),
        SetNotes(run="r", notes=chance.choice(TEXTS)),
        RenameRun(run="r", name=chance.choice(TEXTS[:4])),
        DropCheckpoints(ids=[f"c{step % 3}"]),
        Pin(checkpoint_id=f"c{step % 3}", pinned=chance.random() < 0.5),
        *([DeleteRun(run="r")] if chance.random() < 0.1 else []),
    ]
    return chance.choice(onward if chance.random() < 0.75 else rare)


class Stuttering:
    """A source that delivers what it has delivered before, again and again."""

    stream = "EVENTS"

    def __init__(self, source: LogSource, chance: random.Random) -> None:
        self._source = source
        self._chance = chance

    async def identity(self) -> str:
        return await self._source.identity()

    async def head(self) -> int:
        return await self._source.head()

    def aggregate(self, event: Any) -> str:
        return self._source.aggregate(event)

    async def load(self, aggregate: str, upto: int) -> list[Any]:
        return await self._source.load(aggregate, upto)

    async def missing(self) -> int:
        return await self._source.missing()

    async def read(self, after: int, upto: int | None = None) -> AsyncGenerator[tuple[int, list[Any]], None]:
        known: list[Any] = []
        async for position, events in self._source.read(after, upto):
            again = self._chance.random() < 0.4
            # Old events together with new ones, then all of them once more.
            yield position, (known + events if again else events)
            known = (known + events)[-20:]
            if again:
                yield position, known
                yield max(0, position - 1), [event for event in known if event.position < position]


@dataclass
class Failing:
    """A projection that breaks down in the middle of a stretch, as often as `falls` says."""

    inner: Projection
    falls: int = 0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name, self.version = self.inner.name, self.inner.version
        self.kinds, self.tables = self.inner.kinds, self.inner.tables

    def keys(self, event: Any, /) -> Iterable[tuple[Table, tuple[Any, ...]]]:
        return self.inner.keys(event)

    def apply(self, rows: Rows, event: Any, /) -> None:
        self.inner.apply(rows, event)
        if self.falls:
            self.falls -= 1
            raise OSError("the disk went away")


async def dumped(engine: Engine) -> dict[str, list[str]]:
    def all_rows(connection: Connection) -> dict[str, list[str]]:
        return {
            table.name: sorted(repr(sorted(dict(row).items())) for row in connection.execute(select(table)).mappings())
            for fold in FOLDS
            for table in fold.tables
        }

    return await engine.read(all_rows)


class History(RuleBasedStateMachine):
    """Runs that live at random while the projectors that follow them are killed, repeat and compete."""

    url = ""
    folder = Path()
    deaths: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.chance = random.Random(7)
        self.log = InMemoryLog(CODEC, clock=self.clock)
        self.deciders = Deciders(self.log, CODEC, self.clock)
        self.sent: list[tuple[Ref, Any]] = []
        self.position = 0
        for old in self.folder.glob("*.db*"):
            old.unlink()
        self.engine = make_engine(self.url)
        self.folds = [Failing(fold) for fold in FOLDS]
        self.live: Followers = []
        self.go(self.emptied())
        self.live = self.go(self.followers())

    def go(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    async def emptied(self) -> None:
        if self.engine.dialect.name == "postgresql":
            for statement in "DROP SCHEMA public CASCADE", "CREATE SCHEMA public":
                await self.engine.write(lambda connection, s=statement: connection.execute(text(s)))

    async def followers(self) -> Followers:
        """Projectors of one process: what kills one kills all."""
        self.mortal = Mortal(self.engine)
        tail = Tail(self.log)
        found = []
        for fold in self.folds:
            source = Stuttering(LogSource(tail, CODEC, fold.kinds), self.chance)
            projector = Projector(source, fold, self.mortal)
            await projector.open()
            found.append((projector, asyncio.create_task(projector.run())))
        return found

    async def current(self, followers: Followers) -> Followers:
        """Wait until followers are at the end of the log; those that were killed meanwhile are started again."""
        while True:
            waiting = asyncio.gather(*(projector.wait_for(self.position, 30) for projector, _ in followers))
            tasks = [task for _, task in followers]
            await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            dead = [task for task in tasks if task.done()]
            if not dead:
                await waiting
                return followers
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert {type(task.exception()) for task in dead} == {Killed}
            self.deaths[self.mortal.died_at] += 1
            await self.end(followers)
            followers = await self.followers()

    async def end(self, followers: Followers) -> None:
        for _, task in followers:
            task.cancel()
        await asyncio.gather(*(task for _, task in followers), return_exceptions=True)

    async def send(self, ref: Ref, command: Any) -> None:
        self.sent.append((ref, command))
        try:
            outcome = await self.deciders.handle(aggregate, ref, command, origin_of("user:ann", command.command_id))
        except TapelineError:
            return
        self.position = max(self.position, outcome.position)

    @rule(run=st.integers(1, 3), seed=st.integers(0, 2**32), count=st.integers(1, 12))
    def ask(self, run: int, seed: int, count: int) -> None:
        async def work() -> None:
            ref, chance = Ref("main", "run", f"r{run}"), random.Random(seed)
            for _ in range(count):
                self.clock.advance(chance.random())
                command = command_for(await self.deciders.state(aggregate, ref), chance)
                await self.send(ref, command.model_copy(update={"command_id": new_id()}))

        self.go(work())

    @rule(back=st.integers(1, 5))
    def repeat(self, back: int) -> None:
        if len(self.sent) >= back:
            self.go(self.send(*self.sent[-back]))

    @rule()
    def catch_up(self) -> None:
        self.live = self.go(self.current(self.live))

    @rule(point=st.sampled_from(POINTS), passages=st.integers(1, 3), seed=st.integers(0, 2**32))
    def kill(self, point: str, passages: int, seed: int) -> None:
        self.mortal.point, self.mortal.passages = point, passages
        for run in range(1, 4):
            self.ask(run, seed + run, 2)
        self.live = self.go(self.current(self.live))

    @rule(fold=st.integers(0, 3), falls=st.integers(1, 2))
    def fail(self, fold: int, falls: int) -> None:
        self.folds[fold].falls = falls

    @rule(after_s=st.floats(0, 0.01))
    def crash(self, after_s: float) -> None:
        async def work() -> None:
            await asyncio.sleep(after_s)
            await self.end(self.live)
            self.live = await self.followers()

        self.go(work())

    @rule()
    def compete(self) -> None:
        async def work() -> None:
            rivals = await self.current(await self.followers())
            self.live = await self.current(self.live)
            await self.end(rivals)

        self.go(work())

    def teardown(self) -> None:
        async def work() -> None:
            self.live = await self.current(self.live)
            live = await dumped(self.engine)
            await self.end(self.live)
            await self.engine.dispose()
            # Rebuilt from nothing, with no failure, on the plainest database: the rows are the same.
            engine = make_engine(sqlite_url(self.folder / "rebuilt.db"))
            self.engine, self.folds = engine, [Failing(fold) for fold in FOLDS]
            rebuilt = await self.current(await self.followers())
            await self.end(rebuilt)
            again = await dumped(engine)
            await engine.dispose()
            assert live == again

        self.go(work())
        self.loop.close()


def machine(database_url: str, tmp_path: Path) -> type[History]:
    return type("History", (History,), {"url": database_url, "folder": tmp_path, "deaths": Counter()})


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


def test_rebuilt_tables_are_the_live_ones_whatever_was_killed(database_url: str, tmp_path: Path) -> None:
    # Five hundred steps in all.
    examples = 9 if database_url.startswith("sqlite") else 3
    kinds = settings(max_examples=examples, stateful_step_count=42, phases=[Phase.generate], **QUIET)
    run_state_machine_as_test(machine(database_url, tmp_path), settings=kinds)


def test_a_kill_at_each_point_of_the_projector_changes_nothing(database_url: str, tmp_path: Path) -> None:
    history = machine(database_url, tmp_path)()
    for point in POINTS:
        for seed in range(20):
            history.kill(point, 1 + seed % 2, 1000 * seed)
            if history.deaths[point] == 2:
                break
    history.compete()
    assert history.deaths == dict.fromkeys(POINTS, 2)
    history.teardown()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_rebuilt_tables_are_the_live_ones_after_ten_thousand_steps(database_url: str, tmp_path: Path) -> None:
    kinds = settings(max_examples=100, stateful_step_count=100, **QUIET)
    run_state_machine_as_test(machine(database_url, tmp_path), settings=kinds)


def test_text_is_not_cut_and_sorts_by_bytes_on_postgresql() -> None:
    for fold in FOLDS:
        for table in fold.tables:
            made = str(CreateTable(physical(table)).compile(dialect=postgresql.dialect()))
            assert "VARCHAR" not in made
            assert "INTEGER" not in made
            assert made.count(" TEXT") == made.count('TEXT COLLATE "C"')


def test_a_table_that_is_made_has_the_columns_and_keys_of_its_plan() -> None:
    for fold in FOLDS:
        for table in fold.tables:
            made = physical(table, "__g2")
            assert [column.name for column in made.columns] == [column.name for column in table.columns]
            assert [key.name for key in made.primary_key] == [key.name for key in table.primary_key]
            assert {index.name for index in made.indexes} == {f"{index.name}__g2" for index in table.indexes}
