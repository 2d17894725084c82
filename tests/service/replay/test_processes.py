"""A process manager on recorded events: what it asked for then, it asks for now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tapeline import replay
from tapeline.cli.app import run as cli
from tapeline.errors import TapelineError
from tapeline.projections import Projector
from tapeline.runs import app, jobs
from tapeline.service import Platform


async def test_the_dispatcher_asks_for_what_is_recorded(recorded: Any) -> None:
    found = await replay.dry_run_process(recorded, "dispatcher")
    assert (found.same, found.dissents, found.lossy) == (2, [], 0), "the jobs of both runs, every byte of their specs"
    none = await replay.dry_run_process(recorded, "dispatcher", after=31)
    assert (none.same, none.dissents) == (0, [])


async def test_a_change_is_reported_at_the_positions_where_it_bites(
    recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "session_name", lambda name, number, attempt=1: f"{name}.{number}.{attempt}")
    texts = []
    for _ in range(2):
        found = await replay.dry_run_process(recorded, "dispatcher")
        texts.append([str(each) for each in replay.lines_of(found)])
        assert [(one.position, one.command) for one in found.dissents] == [(11, "CreateJob"), (31, "CreateJob")]
    assert texts[0] == texts[1]
    one = found.dissents[0]
    assert one.decided is not None
    names = [events[0]["data"]["session_name"] for events in (one.recorded, one.decided)]
    assert names == ["demo-1", "demo.1.1"]


class Idle:
    """A process manager that has forgotten what it is for."""

    actor = "service:runs"
    unseen: dict[str, str] = {}
    projectors: Sequence[Projector] = ()

    def __init__(self, platform: Platform) -> None:
        pass

    async def look(self) -> None:
        """Nothing is to be done."""


async def test_what_is_not_asked_for_any_more_is_reported(recorded: Any) -> None:
    found = await replay.dry_run_process(recorded, "dispatcher", make=Idle)
    assert [(one.position, one.why) for one in found.dissents] == [
        (11, "it is not asked for"), (31, "it is not asked for"),
    ]  # fmt: skip
    assert not found.ok


class Busy(Idle):
    """One that asks for jobs as the dispatcher does, and for more."""

    def __init__(self, platform: Platform) -> None:
        self._real = app.dispatcher(platform)
        self._deciders = platform.deciders
        self.projectors = self._real.projectors
        self.unseen = dict(self._real.unseen)

    async def look(self) -> None:
        from tapeline.decider import Origin
        from tapeline.runs.run import aggregate
        from tapeline.runs.run.commands import Overdue
        from tapeline.subjects import Ref

        await self._real.look()
        for ref, events in list(self._deciders._events.items()):  # type: ignore[attr-defined]
            if ref.kind == "run" and type(events[-1]).__name__ == "JobSubmitted":
                origin = Origin(actor=self.actor, command_id=f"late-{ref.id}")
                await self._deciders.handle(
                    aggregate, Ref(ref.team, "run", ref.id), Overdue(attempt=1, message="late"), origin
                )


async def test_what_is_asked_for_and_is_nowhere_on_the_log_is_reported(recorded: Any) -> None:
    found = await replay.dry_run_process(recorded, "dispatcher", make=Busy)
    assert found.same == 2
    assert [(one.position, one.command, one.recorded) for one in found.dissents] == [
        (12, "Overdue", []), (32, "Overdue", []),
    ]  # fmt: skip
    cut = await replay.dry_run_process(recorded, "dispatcher", make=Busy, upto=12)
    assert cut.dissents == [], "what was asked for at the very end may be on its way"


async def test_what_follows_from_no_event_is_lossy(every_type: Any) -> None:
    found = await replay.dry_run_process(every_type, "dispatcher")
    assert dict(found.reasons) == {
        "ExpireLease: renewals of leases are no events": 1,
        "HoldBack: which agents were heard is no event": 1,
    }


async def test_an_unknown_process_or_position_is_refused(recorded: Any) -> None:
    for asked, code in (
        (replay.dry_run_process(recorded, "ghost"), "not_found"),
        (replay.dry_run_process(recorded, "dispatcher", upto=99), "invalid"),
    ):
        with pytest.raises(TapelineError) as refused:
            await asked
        assert refused.value.code == code


def test_the_command_line_takes_one_of_the_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPELINE_HOME", str(tmp_path))
    both = ["--decider", "runs", "--process", "dispatcher"]
    for wrong in ([], both, ["--process", "dispatcher", "--branch"]):
        assert cli(["dry-run", *wrong]) == 2
