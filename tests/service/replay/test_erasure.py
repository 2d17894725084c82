"""What the law has removed is gone, and everything else is proved as before."""

from __future__ import annotations

import asyncio
import json
import typing
from pathlib import Path
from typing import Any

import pytest

from tapeline import names, replay
from tapeline.cli.app import run
from tapeline.clock import FakeClock
from tapeline.contracts import ALL_EVENTS, EVENTS, TOMBSTONES, UPCASTERS
from tapeline.contracts.runs import RunCreated, RunDeleted, RunRenamed
from tapeline.decider import Deciders, Origin
from tapeline.errors import TapelineError
from tapeline.home import Home
from tapeline.log import StoredCommit
from tapeline.log.codec import Codec, link
from tapeline.log.erased import blanks, fixed
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, name_ref
from tapeline.replay.chain import Walk
from tapeline.replay.erasure import Eraser
from tapeline.replay.past import fold_of
from tapeline.subjects import Ref, ref_of

CODEC = Codec(EVENTS, UPCASTERS, TOMBSTONES)
LAW = "request of 2026-11-20, article 17"


def run_of(recorded: Any) -> Ref:
    return next(ref_of(one.subject) for one in recorded.commits if b'"RunCreated"' in one.header)


async def erased(recorded: Any, folder: Path, field: str | None = None) -> tuple[replay.Manifest, Ref]:
    ref = run_of(recorded)
    found = await replay.export_erased(recorded, folder, [replay.Erasure(f"{ref.team}/{ref}", LAW, field)])
    return found, ref


async def commits_of(folder: Path) -> list[StoredCommit]:
    return [one async for many in replay.ExportedLog(folder).read() for one in many]


async def test_an_erased_aggregate_keeps_its_place_and_the_log_verifies(recorded: Any, tmp_path: Path) -> None:
    found, ref = await erased(recorded, tmp_path / "x")
    assert found.source == "recorded" != found.log_id
    (erasure,) = found.erasures
    before = [one for one in recorded.commits if one.subject == ref.subject]
    assert (erasure.reason, erasure.commits) == (LAW, len(before))
    after = await commits_of(tmp_path / "x")
    assert [(one.position, one.subject) for one in after] == [(one.position, one.subject) for one in recorded.commits]
    assert [one for one in after if one.subject != ref.subject] == [
        one for one in recorded.commits if one.subject != ref.subject
    ]
    for one, whole in zip([one for one in after if one.subject == ref.subject], before, strict=True):
        assert link(one) == link(whole), "what the successor names"
        now, then = json.loads(one.body), json.loads(whole.body)
        assert {line.pop("data")["erased"] for line in now} == {True}
        assert now == [{name: line[name] for name in line if name != "data"} for line in then]
        header = json.loads(one.header)
        assert header.pop("erased") == link(whole)
        kept = json.loads(whole.header)
        kept.pop("content", None)
        assert header == kept
    replay.verify_only(tmp_path / "x")
    report = await replay.verify(replay.ExportedLog(tmp_path / "x"))
    assert report.ok
    assert report.erased == {f"{ref.team}/{ref}": len(before)}
    assert str(report).endswith(f"erased: in {len(before)} commits of {ref.team}/{ref}")


async def test_the_chain_over_an_erased_commit_is_checked_as_any_other(recorded: Any, tmp_path: Path) -> None:
    _, ref = await erased(recorded, tmp_path / "x")
    commits = await commits_of(tmp_path / "x")
    at = next(i for i, one in enumerate(commits) if one.subject == ref.subject)
    whole = commits[at]
    forged = whole.header.replace(link(whole).encode(), b"f" * 64)
    commits[at] = StoredCommit(
        position=whole.position, subject=whole.subject, header=forged, body=whole.body, stored_at=whole.stored_at
    )
    walk = Walk(CODEC)
    faults = [fault for one in commits for fault in walk.add(one)]
    assert [fault.kind for fault in faults] == ["chain"]


async def test_an_erased_run_folds_to_one_that_is_gone(recorded: Any, tmp_path: Path) -> None:
    _, ref = await erased(recorded, tmp_path / "x")
    decider: Any = fold_of(ref.kind)
    state = decider.initial()
    for one in await commits_of(tmp_path / "x"):
        if one.subject == ref.subject:
            for event in CODEC.decode(one):
                assert event.is_erased
                assert event.data == RunDeleted()
                state = decider.evolve(state, event.data)
    assert state.is_deleted


async def test_one_field_is_erased_and_the_rest_is_read_as_before(recorded: Any, tmp_path: Path) -> None:
    found, ref = await erased(recorded, tmp_path / "x", "name")
    assert found.erasures[0].commits >= 1
    after = [one for one in await commits_of(tmp_path / "x") if one.subject == ref.subject]
    before = [one for one in recorded.commits if one.subject == ref.subject]
    for one, whole in zip(after, before, strict=True):
        for now, then in zip(CODEC.decode(one), CODEC.decode(whole), strict=True):
            if isinstance(then.data, RunCreated | RunRenamed):
                assert now.data.name == "erased"
                assert "name" not in json.loads(one.body)[now.index]["data"]
            else:
                assert now.data == then.data
    replay.verify_only(tmp_path / "x")


@pytest.mark.parametrize(
    ("field", "code", "sentence"),
    [
        ("no_such_field", "not_found", "no event of .* has the field 'no_such_field'"),
        ("number", "invalid", "cannot do without number"),
        ("config.nothing.here", "not_found", "has the field"),
    ],
)
async def test_what_cannot_be_erased_is_said(
    recorded: Any, tmp_path: Path, field: str, code: str, sentence: str
) -> None:
    with pytest.raises(TapelineError, match=sentence) as refused:
        await erased(recorded, tmp_path / "x", field)
    assert refused.value.code == code
    assert not (tmp_path / "x" / "manifest.json").exists()


async def test_an_erasure_says_why(recorded: Any, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match="nothing says why"):
        await replay.export_erased(recorded, tmp_path, [replay.Erasure("contoso/run/x", " ")])


async def test_a_counter_of_numbers_is_not_erased(recorded: Any, tmp_path: Path) -> None:
    ref = next(ref_of(one.subject) for one in recorded.commits if b'"NumberTaken"' in one.header)
    with pytest.raises(TapelineError, match=r"NumberTaken at position .* cannot be erased") as refused:
        await replay.export_erased(recorded, tmp_path, [replay.Erasure(f"{ref.team}/{ref}", LAW)])
    assert refused.value.code == "invalid"


async def test_erasing_again_keeps_the_digest_of_the_first_original(recorded: Any, tmp_path: Path) -> None:
    _, ref = await erased(recorded, tmp_path / "one", "name")
    again: Any = replay.ExportedLog(tmp_path / "one")
    await replay.export_erased(
        again,
        tmp_path / "two",
        [replay.Erasure(f"{ref.team}/{ref}", LAW)],
    )
    links = [link(one) for one in await commits_of(tmp_path / "two")]
    assert links == [link(one) for one in recorded.commits]
    replay.verify_only(tmp_path / "two")


async def test_an_aggregate_goes_on_after_its_last_commit_was_erased() -> None:
    """The next commit names the digest that the erased one had, and verify agrees."""
    log = InMemoryLog(CODEC)
    ref = name_ref("contoso", "vault", "ann")
    deciders = Deciders(log, CODEC, FakeClock())
    await deciders.handle(names, ref, ClaimName(name="ann", holder="h1", what="item"), _origin("a"))
    eraser = Eraser([replay.Erasure(f"contoso/{ref}", LAW)], CODEC)
    log._commits[0] = log._of[ref.subject][0] = eraser.apply(log._commits[0])  # as an import would have it
    again = Deciders(log, CODEC, FakeClock())
    state = await again.state(names, ref)
    assert state.holder is None, "the name is free"
    await again.handle(names, ref, ClaimName(name="ann", holder="h2", what="item"), _origin("b"))
    report = await replay.verify(log)
    assert report.ok, report
    assert report.erased == {f"contoso/{ref}": 1}


def _origin(command_id: str) -> Origin:
    return Origin(actor="user:ann", command_id=command_id)


@pytest.mark.parametrize("event", ALL_EVENTS, ids=lambda event: event.__name__)
def test_every_event_can_lose_each_text_that_it_holds(event: type) -> None:
    """No field of text is so tied to its event that the law could not have it removed."""
    hints = typing.get_type_hints(event)
    texts = {name for name in event.__dataclass_fields__ if hints[name] is str}  # type: ignore[attr-defined]
    assert fixed(event).isdisjoint(texts), "one of a few words is no text of anybody"
    assert fixed(event).isdisjoint(blanks(event))
    assert event.__name__ in TOMBSTONES or event.__name__ == "NumberTaken"


async def test_the_command_line_erases_from_a_stopped_home_only(
    recorded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await replay.export(recorded, tmp_path / "whole")
    await replay.restore(Home(tmp_path / "home"), tmp_path / "whole")
    monkeypatch.setenv("TAPELINE_HOME", str(tmp_path / "home"))
    place = f"{run_of(recorded).kind}/{run_of(recorded).id}"
    erase = ["log", "export", str(tmp_path / "less"), "--erase", place]
    assert await asyncio.to_thread(run, erase) == 2, "no reason"
    assert await asyncio.to_thread(run, [*erase, "--reason", LAW, "--upto", "3"]) == 2
    capsys.readouterr()
    assert await asyncio.to_thread(run, [*erase, "--reason", LAW]) == 0
    assert f"commits: {LAW}" in capsys.readouterr().out
    home = Home(tmp_path / "new")
    done = await replay.restore(home, tmp_path / "less")
    assert done.log_id == replay.read_manifest(tmp_path / "less").log_id != "recorded"
    monkeypatch.setenv("TAPELINE_HOME", str(home.root))
    assert await asyncio.to_thread(run, ["log", "verify", "--json"]) == 0
