"""A team reads its own log and its own past, through the SDK and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from tapeline import sdk as tl
from tapeline import subjects
from tapeline.bus import Verbs, answer
from tapeline.clock import SystemClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.history import ReadLog
from tapeline.errors import ReadOnly, TapelineError
from tapeline.home import Home
from tapeline.log import StoredCommit
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.replay.segments import Line
from tapeline.replay.worlds import Worlds
from tapeline.runs import history
from tapeline.sdk import past as past_module
from tapeline.sdk import watching
from tapeline.sdk.client import Client, use
from tapeline.sdk.settings import Settings
from tapeline.store import LocalStore

LOG = Path(__file__).parents[2] / "assets" / "logs" / "demo" / "0.1.0.jsonl"
CODEC = Codec(EVENTS, UPCASTERS)


def recorded() -> InMemoryLog:
    """The recorded log of a demo, in memory."""
    log = InMemoryLog(CODEC, log_id="recorded")
    for raw in LOG.read_bytes().splitlines():
        line = msgspec.json.decode(raw, type=Line)
        at = datetime.fromisoformat(line.t)
        commit = StoredCommit(
            position=line.p, subject=line.s, header=line.h.encode(), body=line.b.encode(), stored_at=at
        )
        log._commits.append(commit)
        log._of.setdefault(commit.subject, []).append(commit)
    return log


class Handlers:
    """The wire to the verbs of the log, without a broker; each client asks on a loop of its own."""

    def __init__(self, verbs: Verbs, team: str) -> None:
        self._verbs = {f"{verb.service}.{verb.name}": verb for verb in verbs}
        self._team = team
        self.heard: list[Callable[[bytes], None]] = []
        self.asked: list[str] = []

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        user, service, name = subjects.asked(subject)
        if (service, name) == ("runs", "hello"):
            view = {"contracts": "1.0", "log_id": "recorded"}
            return json.dumps({"view": view, "position": 0, "log_id": "recorded"}).encode()
        self.asked.append(f"{service}.{name}")
        verb = self._verbs[f"{service}.{name}"]
        forwarded = subjects.forwarded(subjects.Principal(self._team, user), service, name)
        return await answer(verb, forwarded, body, {}, SystemClock())

    async def subscribe(self, subject: str, heard: Callable[[bytes], None]) -> Any:
        self.heard.append(heard)

        async def end() -> None:
            self.heard.remove(heard)

        return end

    async def close(self) -> None:
        pass


class Wired:
    """A client of a team, and what it is wired to."""

    def __init__(self, folder: Path, team: str = "main") -> None:
        self.log = recorded()
        self.verbs = Verbs("runs")
        self.pasts = history.Pasts(Worlds(folder / "worlds", LocalStore(folder / "store")), self.log, cast(Any, None))
        history.add_verbs(self.verbs, log=self.log, codec=CODEC, pasts=self.pasts, log_id="recorded")
        self.wire = Handlers(self.verbs, team)
        settings = Settings("test", team, "me", cast(Any, None), Home(folder), {})
        self.client = Client(settings, transport=lambda *_: self.wire)


@pytest.fixture
def wired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wired]:
    made = Wired(tmp_path)
    monkeypatch.setattr(past_module, "BusTransport", lambda *_: made.wire)
    use(made.client)
    yield made
    use(None)
    made.client.close()


def test_a_client_watches_every_event_of_its_team_once(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAGE", 7)
    found = list(wired.client.watch(follow=False))
    assert [(one.position, one.type) for one in found][:3] == [
        (2, "TapeImported"), (3, "NameClaimed"), (4, "AssetBuildRequested"),
    ]  # fmt: skip
    ours = [one for commit in wired.log._commits[1:] for one in CODEC.decode(commit)]
    assert [one.id for one in found] == [one.id for one in ours], "the platform's own first commit is not the team's"
    for since in (0, 11, 29, 52):
        rest = list(wired.client.watch(since, follow=False))
        assert rest == [one for one in found if one.position > since]
    assert [one.last_of_commit for one in found if one.position == 11] == [False, True]
    born = list(wired.client.watch(kinds=["run"], types=["RunCreated"], follow=False))
    assert [(one.position, one.last_of_commit, one.actor) for one in born] == [
        (10, True, "user:me"),
        (30, True, "user:me"),
    ]
    with pytest.raises(tl.ValidationError, match="past the end"):
        next(wired.client.watch(53))


def test_a_watch_goes_on_at_a_hint(wired: Wired) -> None:
    late = wired.log._commits.pop()
    events = wired.client.watch(50)
    assert next(events).position == 51
    wired.log._commits.append(late)
    (hear,) = wired.wire.heard
    hear(b'{"position": 52}')
    assert next(events).position == 52
    events.close()  # type: ignore[attr-defined]
    assert wired.wire.heard == []


async def test_a_page_is_bounded_and_goes_on_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    log = recorded()
    after, positions, pages = 0, [], 0
    monkeypatch.setattr(history, "MOST_BYTES", 9000)
    while after < 52:
        page = await history.page_of(log, CODEC, "main", ReadLog(after=after, limit=10))
        positions += [one.position for one in page.commits]
        assert page.next > after, "it always moves on"
        after, pages = page.next, pages + 1
    assert positions == list(range(2, 53))
    assert pages > 6, "some pages end early"
    quiet = await history.page_of(log, CODEC, "contoso", ReadLog(limit=10))
    assert (quiet.commits, quiet.next, quiet.head) == ([], 52, 52)
    tapes = await history.page_of(log, CODEC, "main", ReadLog(limit=10, kinds=["vault"]))
    assert (tapes.commits, tapes.next) == ([], 11)
    aggregate = (await log.page(after=50, limit=1))[0].subject.split(".")[3]
    one = await history.page_of(log, CODEC, "main", ReadLog(aggregate=f"vault/{aggregate}"))
    assert [commit.position for commit in one.commits] == [51]
    with pytest.raises(TapelineError) as refused:
        await history.page_of(log, CODEC, "contoso", ReadLog(aggregate=f"main/vault/{aggregate}"))
    assert refused.value.code == "denied"


def test_the_sdk_answers_as_of_a_position_and_a_time(wired: Wired) -> None:
    with tl.at(30) as past:
        assert [run.status for run in tl.get_runs()] == ["run_created", "job_completed"]
        assert tl.get_vault_items("main") == []
        assert past.position == 30
        with pytest.raises(ReadOnly):
            tl.get_runs()[0].stop()
        with pytest.raises(tl.RunDoesNotExistError):
            tl.Run.from_id("3")
    assert tl.current_client() is wired.client
    when = wired.log._commits[51].stored_at + timedelta(seconds=1)
    past = tl.at(when)
    assert [item.name for item in past.get_vault_items("main")] == ["demo_model"]
    assert past.position == 52
    past.close()
    assert set(wired.wire.asked) == {"log.at"}
    with pytest.raises(tl.ValidationError, match="past the end"):
        tl.at(53).get_runs()
    for wrong in (-1, "soon", True):
        with pytest.raises(ValueError, match="position from 0 on"):
            tl.at(wrong)  # type: ignore[arg-type]


async def test_one_past_of_a_team_is_made_at_a_time_and_few_stay_open(tmp_path: Path) -> None:
    wired = Wired(tmp_path)
    caller = subjects.Principal("main", "me")

    def asked(when: int) -> Any:
        return history.AskPast(when=when, service="runs", verb="list", fields={})

    first, second = await asyncio.gather(
        wired.pasts.answer(caller, asked(20)), wired.pasts.answer(caller, asked(21)), return_exceptions=True
    )
    assert isinstance(first, dict)
    assert isinstance(second, TapelineError)
    assert second.code == "rate_limited"
    for when in (20, 30, 31, 32, 33):
        assert (await wired.pasts.answer(caller, asked(when)))["position"] == when
    assert list(wired.pasts._open) == [30, 31, 32, 33]
    command = history.AskPast(when=33, service="runs", verb="stop", fields={"run": "1"})
    with pytest.raises(TapelineError) as refused:
        await wired.pasts.answer(caller, command)
    assert refused.value.code == "conflict"
    other = await wired.pasts.answer(subjects.Principal("contoso", "ann"), asked(33))
    assert other["view"]["items"] == [], "another team sees its own past only"
    for one in wired.pasts._open.values():
        await one.stack.aclose()


async def test_a_job_names_the_birth_that_led_to_it(runs: Any, host: Any) -> None:
    made = await runs.create()
    log = host.platform.log
    async with asyncio.timeout(20), aclosing(log.read(follow=True)) as lists:
        async for commits in lists:
            if any(b"JobCreated" in commit.header for commit in commits):
                break
    found = await log.load(subjects.Ref("main", "run", made["id"]))
    born, job = [CODEC.decode(commit)[0] for commit in found[:2]]
    assert (born.type, job.type) == ("RunCreated", "JobCreated")
    assert job.cause == f"{born.id}@{born.position}"
    assert job.correlation_id == born.command_id
    page = await runs.view("read", after=born.position - 1, kinds=["run"])
    assert page["commits"][0]["events"][0]["id"] == born.id
