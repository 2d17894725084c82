"""Seals: a lost tail is noticed, a changed commit is found, and an admitted loss stays on record."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tapeline import replay
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.errors import TapelineError
from tapeline.log import Head, StoredCommit
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.security.keys import Credentials, create_key
from tapeline.store import LocalStore
from tapeline.testing.log import everything

MakeLog = Callable[..., Awaitable[InMemoryLog]]
KEY = Credentials(create_key(), "seal")


@pytest.fixture
def shelf(tmp_path: Path) -> replay.Shelf:
    return replay.Shelf(tmp_path / "seals", frozenset({KEY.key.public}))


def archivist(
    log: InMemoryLog, shelf: replay.Shelf, *, every: int = 1000, after_s: float = 600, key: Credentials = KEY
) -> replay.Archivist:
    store = LocalStore(shelf.folder.parent / "store")
    return replay.Archivist(
        log=log, store=store, shelf=shelf, credentials=key, clock=FakeClock(), every=every, after_s=after_s
    )


class Recorded:
    """Commits as a log, for those that a test has changed."""

    def __init__(self, log_id: str, commits: list[StoredCommit], position: int | None = None) -> None:
        self._log_id = log_id
        self._commits = commits
        self._position = position if position is not None else commits[-1].position

    async def head(self) -> Head:
        return Head(log_id=self._log_id, position=self._position, size_bytes=0, max_bytes=1)

    async def read(self, *, after: int = 0, upto: int | None = None) -> AsyncGenerator[list[StoredCommit], None]:
        yield [one for one in self._commits if after < one.position and (upto is None or one.position <= upto)]


async def sealed_log(make_log: MakeLog, shelf: replay.Shelf, n: int, **more: int) -> tuple[InMemoryLog, str]:
    log = await make_log(n, **more)
    await archivist(log, shelf).seal_now()
    return log, (await log.head()).log_id


async def run_until(made: replay.Archivist, done: Callable[[], bool]) -> None:
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_archivist_seals_every_so_many_positions(make_log: MakeLog, shelf: replay.Shelf) -> None:
    log = await make_log(25)
    log_id = (await log.head()).log_id
    await run_until(archivist(log, shelf, every=10), lambda: len(shelf.every(log_id)) == 2)
    assert [seal.position for seal in shelf.every(log_id)] == [10, 20]
    report = await replay.verify(log, seals=shelf.every(log_id))
    assert str(report) == "complete: 25 events in 25 commits, sealed to 20"
    names = sorted(path.name for path in (shelf.folder.parent / "store" / "seals" / log_id).iterdir())
    assert names == [f"{10:020d}.json", f"{20:020d}.json"]


async def test_the_archivist_goes_on_where_the_last_seal_is(make_log: MakeLog, shelf: replay.Shelf) -> None:
    log, log_id = await sealed_log(make_log, shelf, 7)
    await _grow(log, 20)
    await run_until(archivist(log, shelf, every=10), lambda: len(shelf.every(log_id)) == 3)
    assert [seal.position for seal in shelf.every(log_id)] == [7, 17, 27]
    assert (await replay.verify(log, seals=shelf.every(log_id))).ok


async def test_a_commit_is_not_left_unsealed_for_long(make_log: MakeLog, shelf: replay.Shelf) -> None:
    log = await make_log(3)
    log_id = (await log.head()).log_id
    await run_until(archivist(log, shelf, after_s=0.05), lambda: bool(shelf.every(log_id)))
    assert shelf.every(log_id)[0].position == 3


async def test_sealing_twice_makes_one_seal(make_log: MakeLog, shelf: replay.Shelf) -> None:
    log, log_id = await sealed_log(make_log, shelf, 5)
    assert await archivist(log, shelf).seal_now() == shelf.last(log_id)
    assert len(shelf.every(log_id)) == 1
    assert await archivist(InMemoryLog(Codec(EVENTS, UPCASTERS)), shelf).seal_now() is None


async def test_a_log_that_ends_before_its_last_seal_is_refused(make_log: MakeLog, shelf: replay.Shelf) -> None:
    log, log_id = await sealed_log(make_log, shelf, 90)
    shorter = await make_log(88, log=InMemoryLog(Codec(EVENTS, UPCASTERS), log_id=log_id))
    with pytest.raises(TapelineError, match="the log ends at 88, but 90 was sealed on 2026") as refused:
        await replay.check_seals(shorter, shelf)
    assert refused.value.code == "log_behind_seal"
    assert "tapeline log seal --forget-after 88 --yes" in str(refused.value.hint)
    report = await replay.verify(shorter, seals=shelf.every(log_id))
    assert [(fault.kind, fault.position) for fault in report.faults] == [("seal", 90)]
    await replay.check_seals(log, shelf)


async def test_another_commit_at_the_sealed_position_is_damage(make_log: MakeLog, shelf: replay.Shelf) -> None:
    _, log_id = await sealed_log(make_log, shelf, 5)
    other = await make_log(6, events=2, log=InMemoryLog(Codec(EVENTS, UPCASTERS), log_id=log_id))
    with pytest.raises(TapelineError, match="position 5 is not the one that was sealed") as refused:
        await replay.check_seals(other, shelf)
    assert refused.value.code == "log_damaged"


async def test_an_admitted_loss_lets_the_log_go_on_and_is_shown_for_ever(
    make_log: MakeLog, shelf: replay.Shelf
) -> None:
    _, log_id = await sealed_log(make_log, shelf, 9)
    log = await make_log(6, log=InMemoryLog(Codec(EVENTS, UPCASTERS), log_id=log_id))
    for wrong, sentence in ((5, "the log ends at 6, not at 5"), (9, "the log ends at 6, not at 9")):
        with pytest.raises(TapelineError, match=sentence):
            await archivist(log, shelf).forget_after(wrong)
    seal = await archivist(log, shelf).forget_after(6)
    assert (seal.kind, seal.position, seal.lost_upto) == ("forgotten", 6, 9)
    await replay.check_seals(log, shelf)
    await _grow(log, 3)
    again = await archivist(log, shelf).seal_now()
    assert again is not None
    assert again.position == 9, "a position that was sealed before the loss is sealed anew"
    report = await replay.verify(log, seals=shelf.every(log_id))
    assert str(report).splitlines() == [
        "complete: 9 events in 9 commits, sealed to 9",
        f"forgotten: 7 to 9, admitted on {seal.time}",
    ]
    with pytest.raises(TapelineError, match="nothing is lost"):
        await archivist(log, shelf).forget_after(9)


async def test_a_seal_of_an_unknown_key_is_damage(make_log: MakeLog, shelf: replay.Shelf) -> None:
    log, other = await make_log(5), Credentials(create_key(), "seal")
    await archivist(log, replay.Shelf(shelf.folder, frozenset({other.key.public})), key=other).seal_now()
    with pytest.raises(TapelineError, match="seal 5 is not signed by a known key") as refused:
        await replay.check_seals(log, shelf)
    assert refused.value.code == "log_damaged"


async def test_every_changed_character_of_a_seal_is_found(make_log: MakeLog, shelf: replay.Shelf) -> None:
    _, log_id = await sealed_log(make_log, shelf, 5)
    path = shelf.file(log_id)
    whole = path.read_bytes()
    (good,) = shelf.every(log_id)
    for i in range(len(whole) - 1):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        found: list[replay.Seal] = []
        with contextlib.suppress(TapelineError):
            found = shelf.every(log_id)
        assert found in ([], [good]), f"character {i} of the seal changed unnoticed"


async def test_a_torn_last_line_was_never_a_seal(make_log: MakeLog, shelf: replay.Shelf) -> None:
    log, log_id = await sealed_log(make_log, shelf, 5)
    whole = shelf.file(log_id).read_bytes()
    shelf.file(log_id).write_bytes(whole + whole[:40])
    assert len(shelf.every(log_id)) == 1
    await _grow(log, 2)
    await archivist(log, shelf).seal_now()
    assert [seal.position for seal in shelf.every(log_id)] == [5, 7]


async def test_a_quick_check_begins_at_the_last_seal(make_log: MakeLog, shelf: replay.Shelf) -> None:
    log, log_id = await sealed_log(make_log, shelf, 50)
    await _grow(log, 4)
    report = await replay.verify(log, seals=shelf.every(log_id), quick=True)
    assert str(report) == "complete: 4 events in 4 commits after position 50, sealed to 50"


async def test_a_log_is_compared_with_its_export(make_log: MakeLog, tmp_path: Path) -> None:
    log = await make_log(2500)
    await replay.export(log, tmp_path / "x", upto=2400)
    assert (await replay.verify(log, against=replay.ExportedLog(tmp_path / "x"))).ok
    commits = await everything(log)
    commits[2345 - 1] = msgspec.structs.replace(commits[2345 - 1], subject=commits[0].subject.replace("name", "game"))
    other = Recorded("x", commits)
    assert [fault.position for fault in (await replay.verify(log, against=other)).faults] == [2345]


async def test_every_single_byte_change_in_a_log_of_a_thousand_events_is_found(
    make_log: MakeLog, shelf: replay.Shelf
) -> None:
    log, log_id = await sealed_log(make_log, shelf, 100, events=10, names=20)
    seals = shelf.every(log_id)
    commits = await everything(log)
    whole = await replay.verify(log, seals=seals)
    assert str(whole) == "complete: 1000 events in 100 commits, sealed to 100"
    chosen = random.Random(5)
    for trial in range(600):
        k = trial % len(commits)
        field = ("body", "body", "header", "subject")[trial // len(commits) % 4]
        text = getattr(commits[k], field)
        data = text if isinstance(text, bytes) else text.encode()
        i = chosen.randrange(len(data))
        data = data[:i] + bytes([data[i] ^ (1 << chosen.randrange(7))]) + data[i + 1 :]
        change: dict[str, Any] = {field: data if isinstance(text, bytes) else data.decode("latin-1")}
        changed = msgspec.structs.replace(commits[k], **change)
        report = await replay.verify(Recorded(log_id, [*commits[:k], changed, *commits[k + 1 :]]), seals=seals)
        assert not report.ok, f"byte {i} of the {field} of commit {k + 1} changed unnoticed"
        assert min(fault.position for fault in report.faults) >= k + 1


async def _grow(log: InMemoryLog, n: int) -> None:
    """More commits, of an aggregate of its own."""
    from tapeline.contracts.names import NumberTaken
    from tapeline.log import GENESIS, Appended, NewCommit
    from tapeline.subjects import Ref

    last: Appended | None = None
    for i in range(n):
        new = NewCommit(
            ref=Ref("contoso", "run", "counter"), events=(NumberTaken(number=i, holder="x"),),
            sequence=i + 1, prev=last.digest if last else GENESIS, created_at=FakeClock().now(),
            actor="user:ann", command="Take", command_id=f"m{i}",
        )  # fmt: skip
        last = await log.append(new, expected=last.position if last else 0)


def test_a_seal_reads_back_as_it_was_written() -> None:
    seal = replay.Seal("seal", "x", 1, "d", "r", "t", "k")
    assert msgspec.json.decode(msgspec.json.encode(seal), type=replay.Seal) == seal
