"""A team's whole past: the read models as of any position, answered by the services' own queries."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tapeline import replay
from tapeline import sdk as tl
from tapeline.assets.canvas import aggregate as canvas
from tapeline.cli.app import run as cli
from tapeline.errors import ReadOnly, TapelineError
from tapeline.home import Home
from tapeline.replay import worlds
from tapeline.replay.reading import codec
from tapeline.runs.run import aggregate as run
from tapeline.store import LocalStore
from tapeline.subjects import Ref, ref_of


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made


@asynccontextmanager
async def world_of(recorded: Any, home: Home, when: Any, team: str = "main") -> AsyncIterator[replay.World]:
    async with replay.worlds_of(home).at(recorded, None, when) as place:
        made = replay.World(place, team)
        try:
            yield made
        finally:
            await asyncio.to_thread(made.close)


def folded(recorded: Any, position: int) -> tuple[dict[str, str], list[str]]:
    """What a plain fold of the events says: the status of each run, and the names of canvases."""
    states: dict[Ref, Any] = {}
    for commit in recorded.commits[:position]:
        ref = ref_of(commit.subject)
        rules: Any = {"run": run, "canvas": canvas}.get(ref.kind)
        for event in codec().decode(commit):
            if rules is not None and not event.type.startswith(("Name", "Number")):
                states[ref] = rules.evolve(states.get(ref, rules.initial()), event.data)
    runs = {ref.id: str(state.status) for ref, state in states.items() if ref.kind == "run"}
    return runs, sorted(state.name for ref, state in states.items() if ref.kind == "canvas")


async def test_a_world_at_many_positions_is_what_the_events_imply(recorded: Any, home: Home) -> None:
    for position in (0, 12, 26, 33, 52):
        async with world_of(recorded, home, position) as world:
            runs, canvases = folded(recorded, position)
            found = await asyncio.to_thread(lambda client=world.sdk: client.get_runs(limit=100))
            assert {each.id: each.status for each in found} == runs
            names = await asyncio.to_thread(
                lambda client=world.sdk: [each.name for each in client.get_canvases("main")]
            )
            assert sorted(names) == canvases
            assert world.sdk.position == position


async def test_the_sdk_asks_the_past_and_changes_nothing(recorded: Any, home: Home) -> None:
    async with world_of(recorded, home, 40) as world:

        def work() -> None:
            with world.sdk:
                second, first = tl.get_runs()
                assert (first.status, second.status) == ("job_completed", "job_running")
                assert first.get_events(limit=1)[0].sequence == 18
                assert len(tl.get_checkpoints(run_ids=[str(second.id)], statuses=["complete"])) == 3
                assert [each.name for each in tl.get_assets("main")] == ["demo_asset"]
                assert tl.get_vault_items("main") == []
                with pytest.raises(ReadOnly) as refused:
                    second.stop()
                assert (refused.value.code, refused.value.status) == ("conflict", 409)

        await asyncio.to_thread(work)
        hosted = world.hosted()
        await hosted.open()
        reply = await hosted.answer("main", "operator", "runs.stop", {"run": "1"})
        assert b"does not change" in reply, "the services refuse it too"
        assert b"not_found" in await hosted.answer("main", "operator", "runs.fly", {})
        await hosted.close()


async def test_another_team_has_another_past(recorded: Any, home: Home) -> None:
    async with world_of(recorded, home, 52, team="contoso") as world:
        assert await asyncio.to_thread(lambda: list(world.things())) == []


async def test_a_later_moment_continues_from_an_earlier_one(
    recorded: Any, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = worlds.StillLog.read

    def counted(self: Any, *, after: int = 0, **more: Any) -> Any:
        read.append(after)
        return plain(self, after=after, **more)

    monkeypatch.setattr(worlds.StillLog, "read", counted)
    async with world_of(recorded, home, 30):
        assert min(read) == 0
    read.clear()
    async with world_of(recorded, home, 52) as world:
        assert min(read) == 30, "every projection goes on from what it had"
        assert len(await asyncio.to_thread(lambda: world.sdk.get_vault_items("main"))) == 1
    read.clear()
    async with world_of(recorded, home, 30) as world:
        assert read == [], "a world that is kept is only opened"
        runs = await asyncio.to_thread(lambda: world.sdk.get_runs())
        assert [each.status for each in runs] == ["run_created", "job_completed"]


async def test_the_latest_four_are_kept(recorded: Any, home: Home) -> None:
    for position in (10, 20, 25, 28, 10, 30):
        async with world_of(recorded, home, position):
            pass
    (shelf,) = (home.run / "worlds").iterdir()
    kept = sorted(int(each.name) for each in shelf.iterdir() if each.is_dir())
    assert kept == [10, 25, 28, 30]
    async with replay.Worlds(home.run / "worlds", LocalStore(home.store), kept_bytes=1).at(recorded, None, 35):
        kept = sorted(int(each.name) for each in shelf.iterdir() if each.is_dir())
        assert kept == [35], "too large together: only the one in use stays"


async def test_one_world_can_be_open_twice(recorded: Any, home: Home) -> None:
    async with world_of(recorded, home, 52) as one, world_of(recorded, home, 52) as two:
        assert one.place.folder != two.place.folder
        ours, theirs = [await asyncio.to_thread(lambda w=w: list(w.things())) for w in (one, two)]
        assert ours == theirs
        assert [kind for kind, _ in ours] == ["tape", "asset", "canvas", "canvas", "run", "run", "vault"]
    assert not two.place.folder.exists()


async def test_a_time_is_a_position_and_beyond_the_end_is_invalid(recorded: Any, home: Home) -> None:
    async with world_of(recorded, home, recorded.commits[29].stored_at + timedelta(microseconds=1)) as world:
        assert world.position == 30
    with pytest.raises(TapelineError) as refused:
        async with world_of(recorded, home, 53):
            pass
    assert refused.value.code == "invalid"


def test_the_command_line_shows_a_team_and_opens_a_prompt(
    recorded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def make() -> None:
        await replay.export(recorded, tmp_path / "export")
        await replay.restore(Home(tmp_path / "home"), tmp_path / "export")

    asyncio.run(make())
    monkeypatch.setenv("TAPELINE_HOME", str(tmp_path / "home"))
    assert cli(["at", "31", "--team", "main"]) == 0
    assert "run\tdemo_wide\tjob_submitted" in capsys.readouterr().out
    assert cli(["at", "2026-11-21T03:05:23.8Z", "--team", "main", "--format", "json"]) == 0
    assert [line.count('"position": 10') for line in capsys.readouterr().out.splitlines()] == [1, 1, 1, 1]
    asked = "print([run.status for run in tl.get_runs()])\npast.command('runs', 'stop', run='1')\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(asked))
    assert cli(["at", "33", "--team", "main", "--open"]) == 0
    told = capsys.readouterr()
    assert "['job_running', 'job_completed']" in told.out
    assert "ReadOnly" in told.err
    for wrong in (["at", "3"], ["at", "3", "run/x", "--team", "main"], ["at", "3", "run/x", "--open"]):
        assert cli(wrong) == 2
    assert cli(["at", "99", "--team", "main"]) == 7
