"""The behaviours that every log shows; a subclass gives the fixture `log`."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import aclosing
from typing import Any

import pytest

from tapeline.errors import TapelineError
from tapeline.log import GENESIS, Appended, Conflict, EventLog, StoredCommit
from tapeline.log.codec import digest, read_brief
from tapeline.subjects import Ref
from tapeline.testing.commits import Counted, Opened, codec, commit, till


async def everything(log: EventLog, *, after: int = 0, upto: int | None = None) -> list[StoredCommit]:
    """All commits of a stretch, in one list."""
    return [one async for many in log.read(after=after, upto=upto) for one in many]


async def appended(log: EventLog, n: int, ref: Ref | None = None, prefix: str = "c") -> list[Appended]:
    """`n` commits of one event each on one aggregate, one after another."""
    ref = ref or till()
    made: list[Appended] = []
    for i in range(n):
        last = made[-1] if made else None
        made.append(
            await log.append(commit(f"{prefix}{i}", ref=ref, after=last), expected=last.position if last else 0)
        )
    return made


async def tail(log: EventLog, ref: Ref) -> Appended | None:
    """Where an aggregate ends, read from the log."""
    commits = await log.load(ref, leader=True)
    if not commits:
        return None
    last = commits[-1]
    brief = read_brief(last.header, last.position)
    return Appended(
        position=last.position,
        sequence=brief.seq + brief.n - 1,
        digest=digest(last.subject, last.header, last.body),
    )


async def retried(log: EventLog, command_id: str, ref: Ref) -> Appended:
    """One command as a caller sends it: decided again on each conflict, under one command id.

    It reads on from what it knew, as a decider does; so a long aggregate costs it no more than a short one.
    """
    last: Appended | None = None
    while True:
        for one in await log.load(ref, after=last.position if last else 0, leader=last is not None):
            brief = read_brief(one.header, one.position)
            last = Appended(
                position=one.position,
                sequence=brief.seq + brief.n - 1,
                digest=digest(one.subject, one.header, one.body),
            )
        try:
            return await log.append(commit(command_id, ref=ref, after=last), expected=last.position if last else 0)
        except Conflict:
            continue


class EventLogContract:
    """What `EventLog` promises, as tests."""

    async def test_an_empty_log_has_position_zero_and_an_id(self, log: EventLog) -> None:
        head = await log.head()
        assert head.position == 0
        assert len(head.log_id) == 36
        assert head.max_bytes > 0
        assert await everything(log) == []
        assert await log.load(till(), leader=True) == []

    async def test_positions_and_sequences_are_gapless(self, log: EventLog) -> None:
        first = await log.append(commit("a", Opened(name="x"), Counted(amount=2.0)), expected=0)
        second = await log.append(commit("b", after=first), expected=first.position)
        other = await log.append(commit("c", Opened(name="y"), ref=till("t2")), expected=0)
        assert [one.position for one in (first, second, other)] == [1, 2, 3]
        assert [one.sequence for one in (first, second, other)] == [2, 3, 1]
        assert [one.position for one in await everything(log)] == [1, 2, 3]
        assert [one.position for one in await log.load(till(), leader=True)] == [1, 2]
        assert (await log.head()).position == 3

    async def test_what_is_read_is_what_was_appended(self, log: EventLog) -> None:
        events = (Opened(name="Käse", labels={"a": [1, None, {"b": "☃"}]}), Counted(amount=0.1))
        new = commit("a", *events, cause="00000000-0000-0000-0000-000000000000@7")
        await log.append(new, expected=0)
        for stored in (await everything(log))[0], (await log.load(till(), leader=True))[0]:
            assert (stored.header, stored.body) == codec().encode(new)
            assert stored.stored_at.tzinfo is not None
            decoded = codec().decode(stored)
            assert tuple(one.data for one in decoded) == events
            assert [one.sequence for one in decoded] == [1, 2]
            assert {one.position for one in decoded} == {1}
            assert {one.command_id for one in decoded} == {"a"}
            assert {one.created_at for one in decoded} == {new.created_at}

    async def test_a_stale_expectation_is_a_conflict(self, log: EventLog) -> None:
        first = await log.append(commit("a"), expected=0)
        with pytest.raises(Conflict):
            await log.append(commit("b"), expected=0)
        await log.append(commit("b", after=first), expected=first.position)
        with pytest.raises(Conflict):
            await log.append(commit("c", after=first), expected=first.position)
        assert (await log.head()).position == 2

    async def test_an_expectation_beyond_the_log_is_a_conflict(self, log: EventLog) -> None:
        first = await log.append(commit("a"), expected=0)
        with pytest.raises(Conflict):
            await log.append(commit("b", after=first), expected=first.position + 5)

    async def test_a_repeated_command_with_a_stale_expectation_is_found(self, log: EventLog) -> None:
        made = await appended(log, 3)
        again = await log.append(commit("c1", after=made[0]), expected=made[0].position)
        assert again == Appended(position=made[1].position, sequence=2, digest=made[1].digest, replayed=True)
        first = await log.append(commit("c0"), expected=0)
        assert (first.position, first.replayed) == (1, True)
        assert (await log.head()).position == 3

    async def test_a_repeated_command_with_the_right_expectation_is_found(self, log: EventLog) -> None:
        made = await appended(log, 2)
        again = await log.append(commit("c1", after=made[1]), expected=made[1].position)
        assert (again.position, again.sequence, again.replayed) == (made[1].position, 2, True)
        assert again.digest == made[1].digest
        assert (await log.head()).position == 2

    async def test_two_teams_may_use_one_command_id(self, log: EventLog) -> None:
        one = await log.append(commit("a", ref=till(team="contoso")), expected=0)
        two = await log.append(commit("a", ref=till(team="fabrikam")), expected=0)
        assert (one.replayed, two.replayed) == (False, False)
        assert (await log.head()).position == 2

    @pytest.mark.parametrize("each", [8, pytest.param(200, marks=pytest.mark.long)])
    async def test_sixteen_writers_of_one_aggregate_lose_and_double_nothing(self, log: EventLog, each: int) -> None:
        async def writer(w: int) -> list[Appended]:
            return [await retried(log, f"w{w}-{i}", till()) for i in range(each)]

        await asyncio.gather(*(writer(w) for w in range(16)))
        stored = await log.load(till(), leader=True)
        briefs = [read_brief(one.header, one.position) for one in stored]
        assert [one.seq for one in briefs] == list(range(1, 16 * each + 1))
        assert {one.cmd for one in briefs} == {f"w{w}-{i}" for w in range(16) for i in range(each)}
        assert len(await everything(log)) == 16 * each
        self.check_chain(stored)

    @pytest.mark.parametrize("rounds", [25, pytest.param(200, marks=pytest.mark.long)])
    async def test_of_four_claims_one_wins(self, log: EventLog, rounds: int) -> None:
        async def claim(ref: Ref, who: int) -> bool:
            try:
                await log.append(commit(f"claim-{who}", ref=ref), expected=0)
            except Conflict:
                return False
            return True

        for round in range(rounds):
            won = await asyncio.gather(*(claim(till(f"r{round}"), who) for who in range(4)))
            assert sum(won) == 1
        assert len(await everything(log)) == rounds

    async def test_digests_chain(self, log: EventLog) -> None:
        await appended(log, 20)
        self.check_chain(await log.load(till(), leader=True))

    def check_chain(self, stored: list[StoredCommit]) -> None:
        prev = GENESIS
        for one in stored:
            assert json.loads(one.header)["prev"] == prev
            prev = hashlib.sha256(b"tl1\n" + one.subject.encode() + b"\n" + one.header + b"\n" + one.body).hexdigest()

    async def test_an_aggregate_is_loaded_from_and_up_to_a_position(self, log: EventLog) -> None:
        made = await appended(log, 5)
        await appended(log, 2, till("t2"))
        positions = [one.position for one in made]
        for leader in (False, True):
            found = await log.load(till(), after=positions[1], upto=positions[3], leader=leader)
            assert [one.position for one in found] == positions[2:4]
        assert await log.load(till(), after=positions[-1]) == []

    async def test_a_long_aggregate_is_loaded_whole(self, log: EventLog) -> None:
        last: Appended | None = None
        for start in range(0, 2300, 575):
            batch = []
            for i in range(start, start + 575):
                new = commit(f"c{i}", ref=till(), after=last)
                encoded = codec().encode(new)
                batch.append((new, last.position if last else 0))
                last = Appended(position=i + 1, sequence=i + 1, digest=digest(new.ref.subject, *encoded))
            await log.append_all(batch)
        stored = await log.load(till(), leader=True)
        assert [one.position for one in stored] == list(range(1, 2301))
        self.check_chain(stored)
        assert [one.position for one in await everything(log)] == list(range(1, 2301))

    async def test_reading_goes_from_a_position_to_a_position(self, log: EventLog) -> None:
        await appended(log, 9)
        assert [one.position for one in await everything(log, after=4)] == [5, 6, 7, 8, 9]
        assert [one.position for one in await everything(log, after=4, upto=6)] == [5, 6]
        assert await everything(log, after=9) == []
        assert [one.position for one in await everything(log, after=7, upto=99)] == [8, 9]

    async def test_a_page_holds_a_few_commits_of_one_team_or_of_all(self, log: EventLog) -> None:
        for i in range(6):
            await appended(log, 1, ref=till(f"t{i}", team="fabrikam" if i % 2 else "contoso"))

        async def positions(**asked: Any) -> list[int]:
            return [one.position for one in await log.page(**asked)]

        assert await positions(after=0, limit=4) == [1, 2, 3, 4]
        assert await positions(after=4, limit=10) == [5, 6]
        assert await positions(after=1, limit=2, team="contoso") == [3, 5]
        assert await positions(after=0, limit=9, team="fabrikam") == [2, 4, 6]
        assert await positions(after=6, limit=1) == []
        assert await positions(after=0, limit=1, team="elsewhere") == []

    async def test_an_aggregate_is_found_by_its_place_in_every_team_that_has_it(self, log: EventLog) -> None:
        for ref in (till("t1"), till("t1", team="fabrikam"), till("t2"), till("t10")):
            await appended(log, 2, ref=ref)
        assert await log.refs("run/t1") == [till("t1"), till("t1", team="fabrikam")]
        assert await log.refs("run/t2") == [till("t2")]
        assert await log.refs("run/t9") == []
        with pytest.raises(TapelineError, match="does not name an aggregate"):
            await log.refs("run/*")

    async def test_following_hears_what_comes_later(self, log: EventLog) -> None:
        made = await appended(log, 3)
        heard: list[int] = []

        async def follow() -> None:
            async with aclosing(log.read(after=1, follow=True)) as lists:
                async for many in lists:
                    heard.extend(one.position for one in many)
                    if heard[-1] == 5:
                        return

        follower = asyncio.create_task(follow())
        await asyncio.sleep(0.05)
        next_one = await log.append(commit("d0", after=made[-1]), expected=made[-1].position)
        await asyncio.sleep(0.05)
        await log.append(commit("d1", after=next_one), expected=next_one.position)
        await asyncio.wait_for(follower, 10)
        assert heard == [2, 3, 4, 5]

    async def test_a_batch_is_stored_whole(self, log: EventLog) -> None:
        first = commit("x", Opened(name="x"), ref=till("t1"))
        second = commit("x", Opened(name="y"), ref=till("t2"))
        made = await log.append_all([(first, 0), (second, 0)])
        assert [(one.position, one.sequence, one.replayed) for one in made] == [(1, 1, False), (2, 1, False)]
        for one, stored in zip(made, await everything(log), strict=True):
            assert one.digest == digest(stored.subject, stored.header, stored.body)
        last = await log.append(commit("z", ref=till("t2"), after=made[1]), expected=made[1].position)
        assert last.position == 3

    async def test_a_batch_with_one_stale_expectation_stores_nothing(self, log: EventLog) -> None:
        await appended(log, 1, till("t2"))
        with pytest.raises(Conflict):
            await log.append_all([(commit("x", ref=till("t1")), 0), (commit("x", ref=till("t2")), 0)])
        assert (await log.head()).position == 1
        assert await log.load(till("t1"), leader=True) == []

    async def test_a_repeated_batch_is_found(self, log: EventLog) -> None:
        batch = [(commit("x", ref=till("t1")), 0), (commit("x", ref=till("t2")), 0)]
        first = await log.append_all(batch)
        again = await log.append_all(batch)
        assert [one.replayed for one in again] == [True, True]
        assert [(one.position, one.digest) for one in again] == [(one.position, one.digest) for one in first]
        assert (await log.head()).position == 2

    async def test_a_batch_chains_commits_of_one_aggregate(self, log: EventLog) -> None:
        one = commit("x1")
        encoded = codec().encode(one)
        middle = Appended(position=1, sequence=1, digest=digest(one.ref.subject, *encoded))
        made = await log.append_all([(one, 0), (commit("x2", after=middle), 1)])
        assert [(each.position, each.sequence) for each in made] == [(1, 1), (2, 2)]
        self.check_chain(await log.load(till(), leader=True))

    async def test_a_batch_whose_commits_do_not_chain_is_not_sent(self, log: EventLog) -> None:
        wrong = Appended(position=1, sequence=1, digest="f" * 64)
        with pytest.raises(TapelineError) as refused:
            await log.append_all([(commit("x1"), 0), (commit("x2", after=wrong), 1)])
        assert refused.value.code == "internal"
        assert (await log.head()).position == 0

    async def test_a_batch_of_more_than_a_thousand_is_refused(self, log: EventLog) -> None:
        batch = [(commit("x", ref=till(f"t{i}")), 0) for i in range(1001)]
        with pytest.raises(TapelineError) as refused:
            await log.append_all(batch)
        assert refused.value.code == "too_large"
        assert (await log.head()).position == 0

    async def test_a_large_commit_is_refused_before_it_is_sent(self, log: EventLog) -> None:
        with pytest.raises(TapelineError, match="a commit of 601 KiB; the limit is 512 KiB") as refused:
            await log.append(commit("a", Opened(name="x" * 600 * 1024)), expected=0)
        assert refused.value.code == "too_large"
        await log.append(commit("a", Opened(name="x" * 500 * 1024)), expected=0)
        assert [len(one.body) > 500 * 1024 for one in await log.load(till(), leader=True)] == [True]

    async def test_a_number_that_is_not_finite_is_refused(self, log: EventLog) -> None:
        for events in [Counted(amount=float("nan"))], [Opened(name="x", labels={"a": [float("inf")]})]:
            with pytest.raises(TapelineError, match="finite") as refused:
                await log.append(commit("a", *events), expected=0)
            assert refused.value.code == "invalid"
        assert (await log.head()).position == 0

    async def test_an_expectation_that_does_not_fit_the_commit_is_a_fault_of_ours(self, log: EventLog) -> None:
        first = await log.append(commit("a"), expected=0)
        for new, expected in (commit("b"), first.position), (commit("b", after=first), 0):
            with pytest.raises(TapelineError) as refused:
                await log.append(new, expected=expected)
            assert refused.value.code == "internal"
