"""The decider loop on the in-memory log, driven with the smallest decider there is: claims of names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tapeline import names
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.names import NameClaimed, NameReleased
from tapeline.decider import REMEMBERED_COMMANDS, Deciders, Origin, Outcome, Step, origin_of
from tapeline.errors import TapelineError
from tapeline.ids import new_id
from tapeline.log import Appended, NewCommit
from tapeline.log.codec import Codec, digest
from tapeline.log.memory import InMemoryLog
from tapeline.names import Claim, ClaimName, ReleaseName, TakeNumber, name_ref
from tapeline.subjects import Ref

REF = name_ref("main", "run", "demo")


@pytest.fixture
def codec() -> Codec:
    return Codec(EVENTS, UPCASTERS)


@pytest.fixture
def log(codec: Codec) -> InMemoryLog:
    return InMemoryLog(codec)


@pytest.fixture
def deciders(log: InMemoryLog, codec: Codec) -> Deciders:
    return Deciders(log, codec, FakeClock())


def claim(holder: str = "a") -> ClaimName:
    return ClaimName(name="demo", holder=holder, what="run")


def mine(command_id: str | None = None):
    return origin_of("user:ann", command_id)


async def test_a_command_appends_its_events_and_gives_the_state_after(deciders: Deciders, log: InMemoryLog) -> None:
    outcome = await deciders.handle(names, REF, claim(), mine())

    assert outcome.state == Claim(holder="a")
    assert (outcome.sequence, outcome.position, outcome.replayed) == (1, 1, False)
    assert [commit.position for commit in await log.load(REF)] == [1]


async def test_a_wish_that_is_already_true_appends_nothing(deciders: Deciders, log: InMemoryLog) -> None:
    await deciders.handle(names, REF, claim(), mine())
    outcome = await deciders.handle(names, REF, claim(), mine())

    assert outcome.events == []
    assert (await log.head()).position == 1


async def test_the_same_command_id_has_one_effect_and_the_same_answer(deciders: Deciders, log: InMemoryLog) -> None:
    origin = mine(new_id())
    first = await deciders.handle(names, REF, claim(), origin)
    await deciders.handle(names, REF, ReleaseName(name="demo", holder="a"), mine())
    again = await deciders.handle(names, REF, claim(), origin)

    assert (again.position, again.sequence, again.replayed) == (first.position, first.sequence, True)
    assert (await log.head()).position == 2


async def test_a_command_id_is_known_to_a_copy_that_starts_later(log: InMemoryLog, codec: Codec) -> None:
    origin = mine(new_id())
    await Deciders(log, codec, FakeClock()).handle(names, REF, claim(), origin)
    again = await Deciders(log, codec, FakeClock()).handle(names, REF, claim(), origin)

    assert again.replayed
    assert (await log.head()).position == 1


async def test_a_command_id_used_by_another_command_is_refused(deciders: Deciders) -> None:
    origin = mine(new_id())
    await deciders.handle(names, REF, claim(), origin)

    with pytest.raises(TapelineError) as refused:
        await deciders.handle(names, REF, ReleaseName(name="demo", holder="a"), origin)
    assert refused.value.code == "conflict"


async def test_a_command_id_used_again_with_other_content_is_refused(log: InMemoryLog, codec: Codec) -> None:
    origin = Origin(actor="user:ann", command_id=new_id(), content="00aa")
    await Deciders(log, codec, FakeClock()).handle(names, REF, claim(), origin)

    later = Deciders(log, codec, FakeClock())
    assert (await later.handle(names, REF, claim(), origin)).replayed
    with pytest.raises(TapelineError, match="different content") as refused:
        await later.handle(names, REF, claim("b"), replace(origin, content="00bb"))
    assert refused.value.code == "conflict"


async def test_the_last_64_commands_are_remembered(deciders: Deciders) -> None:
    first = mine(new_id())
    await deciders.handle(names, REF, claim(), first)
    for turn in range(REMEMBERED_COMMANDS - 1):
        command = ReleaseName(name="demo", holder="a") if turn % 2 == 0 else claim()
        await deciders.handle(names, REF, command, mine())

    assert (await deciders.handle(names, REF, claim(), first)).replayed


async def test_two_copies_that_decide_at_once_leave_one_winner(log: InMemoryLog, codec: Codec) -> None:
    copies = [Deciders(log, codec, FakeClock()) for _ in range(4)]
    results = await asyncio.gather(
        *(copy.handle(names, REF, claim(f"h{i}"), mine()) for i, copy in enumerate(copies)), return_exceptions=True
    )

    won = [result for result in results if not isinstance(result, BaseException)]
    lost = [result for result in results if isinstance(result, TapelineError)]
    assert (len(won), len(lost)) == (1, 3)
    assert {error.code for error in lost} == {"already_exists"}
    assert (await log.head()).position == 1


async def test_several_aggregates_change_together_or_not_at_all(deciders: Deciders, log: InMemoryLog) -> None:
    other = name_ref("main", "run", "other")
    await deciders.handle(names, other, ClaimName(name="other", holder="z", what="run"), mine())

    with pytest.raises(TapelineError):
        await deciders.handle_together(
            [
                Step(decider=names, ref=REF, command=claim()),
                Step(decider=names, ref=other, command=ClaimName(name="other", holder="a", what="run")),
            ],
            mine(),
        )
    assert (await deciders.state(names, REF)).holder is None

    renamed = await deciders.handle_together(
        [
            Step(decider=names, ref=other, command=ReleaseName(name="other", holder="z")),
            Step(decider=names, ref=REF, command=claim("z")),
        ],
        mine(),
    )
    assert [outcome.state.holder for outcome in renamed] == [None, "z"]
    assert (await log.head()).position == 3


OTHER = name_ref("main", "run", "other")


async def both(deciders: Deciders, origin: Origin) -> list[Outcome[Claim]]:
    """Claim two names with one command."""
    other = Step(decider=names, ref=OTHER, command=ClaimName(name="other", holder="a", what="run"))
    return await deciders.handle_together([Step(decider=names, ref=REF, command=claim()), other], origin)


async def test_who_waits_for_the_answer_of_a_command_sees_all_that_it_changed(
    deciders: Deciders, log: InMemoryLog
) -> None:
    outcomes = await both(deciders, mine())

    assert (await log.head()).position == 2
    assert [outcome.position for outcome in outcomes] == [2, 2]


async def test_a_repeat_in_another_copy_names_the_end_of_the_command_as_well(log: InMemoryLog, codec: Codec) -> None:
    origin = mine(new_id())
    await Deciders(log, codec, FakeClock()).handle_together([birth("z")], mine())
    await Deciders(log, codec, FakeClock()).handle(names, REF, ReleaseName(name="demo", holder="z"), mine())
    here = Deciders(log, codec, FakeClock())
    first = await both(here, origin)
    # Another user's commands, also one of the same id, come after it and are none of its commits.
    stranger = Ref("other", "run", OTHER.id)
    await Deciders(log, codec, FakeClock()).handle(names, stranger, claim(), origin)
    await here.handle(names, OTHER, ReleaseName(name="other", holder="a"), mine())

    again = await both(here, origin)
    elsewhere = await both(Deciders(log, codec, FakeClock()), origin)
    assert [outcome.position for outcome in (*first, *again, *elsewhere)] == [4] * 6
    assert {outcome.replayed for outcome in (*again, *elsewhere)} == {True}
    # What is known elsewhere by now may leave a part of it out: the answer is the same.
    alone = await Deciders(log, codec, FakeClock()).handle(names, REF, claim(), origin)
    assert (alone.position, alone.sequence, alone.replayed) == (4, 3, True)


async def test_a_wish_that_is_true_of_several_aggregates_is_answered_with_the_last(deciders: Deciders) -> None:
    await both(deciders, mine())
    assert [(outcome.events, outcome.position) for outcome in await both(deciders, mine())] == [([], 2), ([], 2)]


class Counting(InMemoryLog):
    """A log that counts how often an aggregate is looked for."""

    loads = 0

    async def load(self, *args, **kwargs):
        self.loads += 1
        return await super().load(*args, **kwargs)


def birth(holder: str = "a") -> Step[Claim]:
    return Step(decider=names, ref=REF, command=claim(holder), is_birth=True)


async def test_a_birth_is_not_looked_for_before_it(codec: Codec) -> None:
    log = Counting(codec)
    deciders = Deciders(log, codec, FakeClock())
    (outcome,) = await deciders.handle_together([birth()], mine())
    again = await deciders.handle(names, REF, ReleaseName(name="demo", holder="a"), mine())

    assert (outcome.state, outcome.position, again.position, log.loads) == (Claim(holder="a"), 1, 2, 0)


async def test_a_birth_of_what_is_there_is_decided_on_what_is_there(log: InMemoryLog, codec: Codec) -> None:
    await Deciders(log, codec, FakeClock()).handle(names, REF, claim("a"), mine())
    later = Deciders(log, codec, FakeClock())
    with pytest.raises(TapelineError, match="exists already"):
        await later.handle_together([birth("b")], mine())

    assert (await later.handle(names, REF, claim("a"), mine())).events == []
    assert (await log.head()).position == 1


async def test_a_birth_that_is_repeated_in_another_copy_has_one_effect(log: InMemoryLog, codec: Codec) -> None:
    origin = mine(new_id())
    (first,) = await Deciders(log, codec, FakeClock()).handle_together([birth()], origin)
    (again,) = await Deciders(log, codec, FakeClock()).handle_together([birth()], origin)

    assert again.replayed
    assert (again.position, again.sequence, again.state) == (first.position, first.sequence, first.state)


async def test_a_birth_together_with_what_knows_the_command_is_looked_for(log: InMemoryLog, codec: Codec) -> None:
    other = Step(decider=names, ref=OTHER, command=ClaimName(name="other", holder="a", what="run"))
    origin = mine(new_id())
    first = await Deciders(log, codec, FakeClock()).handle_together([birth(), other], origin)
    again = await Deciders(log, codec, FakeClock()).handle_together([birth(), other], origin)

    assert [outcome.replayed for outcome in again] == [True, True]
    assert [(one.state, one.position) for one in again] == [(one.state, one.position) for one in first]


async def test_a_birth_that_is_refused_leaves_nothing_behind(deciders: Deciders) -> None:
    with pytest.raises(TapelineError, match="counter stands at 0"):
        await deciders.handle_together(
            [Step(decider=names, ref=REF, command=TakeNumber(number=7, holder="a"), is_birth=True)], mine()
        )

    assert not deciders.knows(REF)


async def test_each_commit_names_the_digest_of_the_one_before(deciders: Deciders, log: InMemoryLog) -> None:
    for _ in range(3):
        await deciders.handle(names, REF, claim(), mine())
        await deciders.handle(names, REF, ReleaseName(name="demo", holder="a"), mine())

    before = "0" * 64
    for commit in await log.load(REF):
        assert f'"prev":"{before}"'.encode() in commit.header
        before = digest(commit.subject, commit.header, commit.body)


async def test_listeners_hear_of_each_commit_once(log: InMemoryLog, codec: Codec) -> None:
    heard: list[tuple[Ref, Sequence[object]]] = []

    async def listen(ref: Ref, _place: Appended, commit: NewCommit) -> None:
        heard.append((ref, commit.events))

    deciders = Deciders(log, codec, FakeClock(), listen)
    origin = mine(new_id())
    await deciders.handle(names, REF, claim(), origin)
    await deciders.handle(names, REF, claim(), origin)
    await deciders.handle(names, REF, ReleaseName(name="demo", holder="a"), mine())

    assert [events for _, events in heard] == [
        (NameClaimed(name="demo", holder="a"),),
        (NameReleased(name="demo", holder="a"),),
    ]


def test_a_counter_moves_by_one() -> None:
    # given a counter at 1, when number 3 is taken, then it is refused
    with pytest.raises(TapelineError, match="stands at 1"):
        names.decide(Claim(number=1), TakeNumber(number=3, holder="x"))
