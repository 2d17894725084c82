"""The state at every position is what the aggregate's own events imply; watching misses and repeats nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tapeline import replay
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.errors import TapelineError
from tapeline.log.codec import Codec
from tapeline.runs.run import aggregate as run
from tapeline.subjects import Ref, ref_of

CODEC = Codec(EVENTS, UPCASTERS)


def refs(recorded: Any) -> list[Ref]:
    return sorted({ref_of(one.subject) for one in recorded.commits})


async def test_a_run_at_every_position_is_the_plain_fold_of_its_events(recorded: Any) -> None:
    runs = [ref for ref in refs(recorded) if (await recorded.load(ref))[0].body.find(b"RunCreated") > 0]
    assert len(runs) == 2
    seen = set()
    for ref in runs:
        state, sequence = run.initial(), 0
        for commit in recorded.commits:
            if commit.subject == ref.subject:
                for event in CODEC.decode(commit):
                    state, sequence = run.evolve(state, event.data), event.sequence
            if sequence == 0:
                with pytest.raises(TapelineError, match="had no event by position"):
                    await replay.at(recorded, commit.position, ref)
                continue
            found = await replay.at(recorded, commit.position, ref)
            assert (found.state, found.sequence) == (state, sequence), commit.position
            seen.add(str(state.status))
    assert {"job_submitted", "job_running", "job_completed"} <= seen


async def test_every_kind_of_aggregate_has_a_past(recorded: Any) -> None:
    found = [(await replay.at(recorded, len(recorded.commits), ref)).to_json() for ref in refs(recorded)]
    assert {each["aggregate"].split("/")[1] for each in found} == {"run", "tape", "canvas", "asset", "vault", "device"}
    json.dumps(found)


async def test_a_time_is_the_last_commit_not_later(recorded: Any) -> None:
    for commit in recorded.commits[::5]:
        assert await replay.position_at(recorded, commit.stored_at) >= commit.position
        before = await replay.position_at(recorded, commit.stored_at - timedelta(microseconds=1))
        assert before < commit.position
    assert await replay.position_at(recorded, datetime(2020, 1, 1, tzinfo=UTC)) == 0
    assert await replay.position_at(recorded, datetime(2100, 1, 1, tzinfo=UTC)) == len(recorded.commits)


async def test_a_position_past_the_end_is_invalid(recorded: Any) -> None:
    with pytest.raises(TapelineError, match=r"position 53 is past the end of the log \(52\)") as refused:
        await replay.at(recorded, 53, refs(recorded)[0])
    assert refused.value.code == "invalid"


def test_a_moment_is_a_position_a_time_or_how_long_ago() -> None:
    clock = FakeClock()
    assert replay.parse_when("1040") == 1040
    assert replay.parse_when("2026-11-20T10:00:00Z") == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert replay.parse_when("3d", clock) == clock.now() - timedelta(days=3)
    for wrong in ("yesterday", "2026-11-20T10:00:00", "3y"):
        with pytest.raises(TapelineError) as refused:
            replay.parse_when(wrong)
        assert refused.value.code == "invalid"


async def test_watching_from_any_position_gives_each_event_once_in_order(recorded: Any) -> None:
    whole = [each async for each in replay.watch(recorded, follow=False)]
    places = [(each.position, each.event.index) for each in whole]
    assert places == sorted(set(places))
    assert len(places) == sum(len(CODEC.decode(one)) for one in recorded.commits)
    for since in range(len(recorded.commits) + 1):
        rest = [each async for each in replay.watch(recorded, since=since, follow=False)]
        assert rest == [each for each in whole if each.position > since]
    ends = [each.position for each in whole if each.last_of_commit]
    assert ends == [one.position for one in recorded.commits]


async def test_a_filter_keeps_the_end_of_each_commit(recorded: Any) -> None:
    found = [each async for each in replay.watch(recorded, types=["JobCreated"], kinds=["run"], follow=False)]
    assert [each.event.type for each in found] == ["JobCreated", "JobCreated"]
    assert all(each.last_of_commit for each in found), "another event of the commit is not waited for"


async def test_watching_from_past_the_end_is_invalid(recorded: Any) -> None:
    with pytest.raises(TapelineError, match="past the end") as refused:
        await anext(replay.watch(recorded, since=99))
    assert refused.value.code == "invalid"


async def test_the_tail_can_be_that_of_one_aggregate_or_type(recorded: Any) -> None:
    ref = refs(recorded)[-1]
    lines = [line async for line in replay.tail(recorded, n=100, aggregate=str(ref))]
    assert [line.event.ref for line in lines] == [ref] * len(lines)
    assert lines
    typed = [line async for line in replay.tail(recorded, n=3, type="CheckpointCompleted")]
    assert [line.event.type for line in typed] == ["CheckpointCompleted"] * 3


async def test_a_raw_commit_comes_with_its_digest_and_the_check_of_its_chain(recorded: Any) -> None:
    lengths = [(len(await recorded.load(ref)), ref) for ref in refs(recorded)]
    ref = max(lengths)[1]
    commits = await recorded.load(ref)
    shown = await replay.show_raw(recorded, f"{ref.team}/{ref}")
    assert [each.commit for each in shown] == commits
    assert all(each.is_chained for each in shown)
    last = commits[-1].position
    assert await replay.show_raw(recorded, str(last)) == shown[-1:]
    changed = recorded.commits[commits[0].position - 1]
    recorded.commits[commits[0].position - 1] = msgspec.structs.replace(changed, body=changed.body + b" ")
    second = str(commits[1].position)
    assert not (await replay.show_raw(recorded, second))[0].is_chained
    with pytest.raises(TapelineError, match="no position 99 in the log"):
        await replay.show_raw(recorded, "99")
