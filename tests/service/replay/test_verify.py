"""What `log verify` says: of a whole log, from a position, against a copy, of the measurements, of each fault."""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, Table, Text, insert

from tapeline import replay, topology
from tapeline.database import make_engine, sqlite_url
from tapeline.errors import TapelineError
from tapeline.log import StoredCommit
from tapeline.log.metrics import MetricsStream
from tapeline.replay.chain import NO_ROOT, Walk
from tapeline.replay.seals import Seal
from tapeline.replay.still import StillLog
from tapeline.testing.server import NatsServer, connector
from tapeline.testing.stored import CODEC, stored_commits

LOG_ID = "0193-verified"


class Kept(StillLog):
    """Commits as a log that may be damaged at will."""

    def __init__(self, commits: Sequence[StoredCommit]) -> None:
        super().__init__(LOG_ID, max(one.position for one in commits))
        self._commits = list(commits)

    async def read(self, *, after: int = 0, upto: int | None = None, follow: bool = False) -> Any:
        yield [one for one in self._commits if one.position > after and (upto is None or one.position <= upto)]


def sealed(commits: Sequence[StoredCommit], *positions: int) -> list[Seal]:
    """Seals over these positions; whether they are signed is checked where they are read."""
    walk, found = Walk(CODEC, root=NO_ROOT), []
    for one in commits:
        walk.add(one)
        if one.position in positions:
            found.append(
                Seal(
                    kind="seal", log_id=LOG_ID, position=one.position, digest=walk.digest, root=walk.root.hex(),
                    time="2026-01-01T00:00:00Z", key="k",
                )
            )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def commits() -> list[StoredCommit]:
    return stored_commits(1000, events=1, aggregates=40)


@pytest.fixture(scope="module")
def seals(commits: list[StoredCommit]) -> list[Seal]:
    return sealed(commits, 500, 1000)


def with_change(commits: list[StoredCommit], at: int, **changes: Any) -> list[StoredCommit]:
    return [msgspec.structs.replace(one, **changes) if one.position == at else one for one in commits]


async def test_a_whole_log_is_complete(commits: list[StoredCommit], seals: list[Seal]) -> None:
    report = await replay.verify(Kept(commits), seals=seals)
    assert str(report) == "complete: 1000 events in 1000 commits, sealed to 1000"


def flipped(one: StoredCommit, field: str, place: int, bit: int) -> StoredCommit:
    text = getattr(one, field)
    data = bytearray(text if isinstance(text, bytes) else text.encode())
    data[place] ^= 1 << bit
    return msgspec.structs.replace(one, **{field: bytes(data) if isinstance(text, bytes) else data.decode("latin-1")})


async def found_at(commits: list[StoredCommit], seals: list[Seal], at: int, changed: StoredCommit) -> bool:
    """Whether a changed commit is found, and nothing before it is blamed."""
    report = await replay.verify(Kept([*commits[: at - 1], changed, *commits[at:]]), seals=seals)
    return not report.ok and min(fault.position for fault in report.faults) >= at


PLACES = ("header", "body", "subject")


@pytest.mark.parametrize("field", PLACES)
async def test_a_changed_byte_is_found_wherever_it_is(
    commits: list[StoredCommit], seals: list[Seal], field: str
) -> None:
    """First, last, in the middle, at a seal and behind the chain's end: one byte of each field at a time."""
    dice = random.Random(field)
    for at in (1, 2, 499, 500, 501, 700, 961, 999, 1000):
        one = commits[at - 1]
        place = dice.randrange(len(getattr(one, field)))
        assert await found_at(commits, seals, at, flipped(one, field, place, dice.randrange(7))), (at, field, place)


@pytest.mark.parametrize("field", PLACES)
async def test_every_byte_of_a_commit_counts(commits: list[StoredCommit], field: str) -> None:
    """Of the commit in the middle of a short log, each byte in turn."""
    few = commits[:90]
    seals = sealed(few, 90)
    one = few[44]
    for place in range(len(getattr(one, field))):
        assert await found_at(few, seals, 45, flipped(one, field, place, place % 7)), f"byte {place} of the {field}"


@pytest.mark.long
@pytest.mark.parametrize("field", PLACES)
def test_every_byte_of_a_thousand_commits_counts(commits: list[StoredCommit], field: str) -> None:
    """Each byte of each commit, in turn, on a walk from the origin as far as the next commit of the same aggregate."""
    origin = Walk(CODEC)

    def walked(part: list[StoredCommit]) -> tuple[bool, str]:
        walk = copy.deepcopy(origin, {id(CODEC): CODEC})
        return bool(walk.add_all(part)), walk.root.hex()

    for at in range(1, 1001):
        part = commits[at - 1 : at + 40]
        is_faulty, root = walked(part)
        assert not is_faulty
        for place in range(len(getattr(part[0], field))):
            is_faulty, other = walked([flipped(part[0], field, place, place % 7), *part[1:]])
            assert is_faulty or (at > 960 and other != root), (at, field, place)
        origin.add(part[0])


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("hole", lambda many: [one for one in many if one.position != 700]),
        ("chain", lambda many: with_change(many, 700, body=many[699].body.replace(b"hhh", b"hhi", 1))),
        ("sequence", lambda many: with_change(many, 700, header=many[699].header.replace(b'"seq":', b'"seq":9'))),
        ("sequence", lambda many: with_change(many, 700, body=many[699].body.replace(b'"sequence":', b'"sequence":9'))),
        ("decode", lambda many: with_change(many, 700, body=many[699].body[:-2])),
        ("decode", lambda many: with_change(many, 700, header=many[699].header.replace(b"NumberT", b"NumberG"))),
        ("decode", lambda many: with_change(many, 700, header=many[699].header.replace(b'"v":1', b'"v":2'))),
        ("duplicate", lambda many: [*many, msgspec.structs.replace(many[-1], position=1001)]),
        ("seal", lambda many: with_change(many, 1000, body=many[999].body.replace(b"hhh", b"hhi", 1))),
    ],
)  # fmt: skip
async def test_each_fault_is_named_with_its_position_and_kind(
    commits: list[StoredCommit], seals: list[Seal], kind: str, damage: Any
) -> None:
    report = await replay.verify(Kept(damage(commits)), seals=seals)
    kinds = {(fault.kind, fault.position) for fault in report.faults}
    where = {"chain": 740, "hole": 701, "duplicate": 1001, "seal": 1000}.get(kind, 700)
    assert (kind, where) in kinds, "a changed commit breaks the chain where its successor names it"
    assert f"{where}: {kind}: " in str(report)


async def test_a_check_may_begin_anywhere(commits: list[StoredCommit], seals: list[Seal]) -> None:
    since = await replay.verify(Kept(commits), seals=seals, after=700)
    assert str(since) == "complete: 300 events in 300 commits after position 700, sealed to 1000"
    assert since.root == "", "without what came before there is no root"
    at_seal = await replay.verify(Kept(commits), seals=seals, after=500)
    assert at_seal.root == seals[-1].root
    whole = await replay.verify(Kept(commits))
    quick = await replay.verify(Kept(commits), seals=seals[:1], quick=True)
    assert (quick.since, quick.commits, quick.root) == (500, 500, whole.root)
    damaged = with_change(commits, 850, body=commits[849].body.replace(b"hhh", b"hhi", 1))
    assert [fault.kind for fault in (await replay.verify(Kept(damaged), after=700)).faults] == ["chain"]
    assert (await replay.verify(Kept(damaged), after=900)).ok
    with pytest.raises(TapelineError, match=r"position 1001 is past the end of the log \(1000\)"):
        await replay.verify(Kept(commits), after=1001)


async def test_a_log_is_compared_with_its_copy_in_a_database(commits: list[StoredCommit], tmp_path: Path) -> None:
    engine = make_engine(sqlite_url(tmp_path / "runs.db"))
    with pytest.raises(TapelineError, match="no database of this instance has a table commits"):
        await replay.copy_in({"runs": engine})
    table = Table(
        "commits", MetaData(), Column("position", Integer, primary_key=True), Column("subject", Text),
        Column("header", Text), Column("body", LargeBinary),
    )  # fmt: skip

    def fill(connection: Connection) -> None:
        table.create(connection)
        rows = [
            {"position": one.position, "subject": one.subject, "header": one.header.decode(), "body": one.body}
            for one in commits
        ]
        connection.execute(insert(table), rows)

    await engine.write(fill)
    copied = await replay.copy_in({"runs": engine})
    assert (await replay.verify(Kept(commits), against=copied)).ok

    await engine.write(lambda connection: connection.execute(table.delete().where(table.c.position == 333)))
    [fault] = (await replay.verify(Kept(commits), against=copied)).faults
    assert (fault.position, fault.kind) == (333, "hole")
    change = table.update().where(table.c.position == 222).values(body=b"[]")
    await engine.write(lambda connection: connection.execute(change))
    [fault] = (await replay.verify(Kept(commits), against=copied)).faults
    assert (fault.position, fault.kind) == (222, "chain")
    await engine.dispose()


@pytest.fixture
async def metrics(server: NatsServer) -> AsyncIterator[MetricsStream]:
    client = await server.connect()
    await topology.apply(client, topology.topology())
    yield MetricsStream(client, connect=connector(server.url), role="test")
    await client.close()


async def test_measurements_are_whole_when_each_attempt_counts_its_batches(metrics: MetricsStream) -> None:
    for run in ("r1", "r2"):
        for attempt in (1, 2):
            for batch in (1, 2, 3):
                await metrics.append("contoso", run, attempt, batch, b"x")
    report = await replay.verify_metrics(metrics)
    assert str(report) == "complete: 12 batches of 2 runs"
    await metrics.append("contoso", "r1", 2, 6, b"x")
    await metrics.append("contoso", "r2", 3, 4, b"x")
    report = await replay.verify_metrics(metrics)
    assert [str(fault) for fault in report.faults] == [
        "13: hole: contoso/run/r1, attempt 2: batches 4 to 5 are missing"
    ]
    assert report.begins_late == {"contoso/run/r2, attempt 3": 4}
