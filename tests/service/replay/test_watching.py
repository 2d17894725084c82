"""A watch that is killed at any moment goes on without a gap and without a repeat."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tapeline import replay
from tapeline.cli import history
from tapeline.embedded.alone import server_alone
from tapeline.errors import TapelineError
from tapeline.home import Home
from tapeline.log.memory import InMemoryLog
from tapeline.replay.delivery import Mark

MakeLog = Callable[..., Awaitable[InMemoryLog]]

CHILD = """
import asyncio, sys
from pathlib import Path
from tapeline import replay
from tapeline.home import Home

async def origin():
    return 0

async def main(home, url, state):
    async with replay.opened(Home(Path(home)), url) as log:
        head = await log.head()
        bookmark, sheet = replay.Bookmark(Path(state)), replay.Sheet(sys.stdout.fileno())
        start = await replay.begun(bookmark, sheet, log_id=head.log_id, start=origin)
        events = replay.watch(log, since=start, follow=False)
        await replay.deliver(events, sheet.give, log_id=head.log_id, bookmark=bookmark, sheet=sheet)

asyncio.run(main(*sys.argv[1:]))
"""


def grown(out: Path, size: int) -> None:
    """Wait until a file is longer than it was, for ten seconds at most: the watch may have ended already."""
    end = time.monotonic() + 10
    while out.stat().st_size <= size and time.monotonic() < end:
        time.sleep(0.001)


async def killed(kills: int, commits: int, make_log: MakeLog, folder: Path) -> None:
    await replay.export(await make_log(commits, events=3), folder / "export")
    home = Home(folder / "home")
    await replay.restore(home, folder / "export")
    out, state, dice = folder / "out.jsonl", folder / "state.json", random.Random(kills)
    out.touch()
    async with server_alone(home) as url:

        async def child() -> asyncio.subprocess.Process:
            with out.open("ab") as sheet:
                return await asyncio.create_subprocess_exec(
                    sys.executable, "-c", CHILD, str(home.root), url, str(state), stdout=sheet
                )

        cut = 0
        for _ in range(kills):
            before = out.stat().st_size
            process = await child()
            # Not before it has begun, and then at any moment: between two lines, within one, before the mark.
            await asyncio.to_thread(grown, out, before)
            await asyncio.sleep(dice.uniform(0, 0.02))
            if process.returncode is None:
                process.kill()
            await process.wait()
            kept = json.loads(state.read_text())["size"] if state.exists() else 0
            cut += out.stat().st_size > kept
        last = await child()
        assert await last.wait() == 0
        async with replay.opened(home, url) as log:
            wanted = [(one.position, one.event.index) async for one in replay.watch(log, follow=False)]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["position"], line["index"]) for line in lines] == wanted
    assert len(wanted) == 3 * commits
    assert cut > 0 or kills < 50, "no kill came between a line and its mark"


async def test_a_watch_that_is_killed_gives_each_event_once(make_log: MakeLog, tmp_path: Path) -> None:
    await killed(3, 200, make_log, tmp_path)


@pytest.mark.long
async def test_a_watch_that_is_killed_50_times_gives_each_event_once(make_log: MakeLog, tmp_path: Path) -> None:
    await killed(50, 5000, make_log, tmp_path)


async def test_an_aggregate_is_found_without_a_pass_over_the_log(
    recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(line.event.ref for line in await replay.show(recorded, "30"))
    whole = [line.event async for line in replay.tail(recorded, n=3, aggregate=str(run))]
    reads = 0

    async def read(**_: Any) -> AsyncIterator[Any]:
        nonlocal reads
        reads += 1
        return
        yield

    monkeypatch.setattr(recorded, "read", read)
    for text in (f"main/{run}", str(run)):
        assert await replay.find_ref(recorded, text) == run
        assert await replay.since_of(recorded, text) == 29
        assert len(await replay.show(recorded, text)) > 3
        last = [line.event async for line in replay.tail(recorded, n=3, aggregate=text)]
        assert last == whole
        assert [event.ref for event in last] == [run] * 3
    with pytest.raises(TapelineError, match="no event of run/none") as refused:
        await anext(replay.tail(recorded, aggregate="run/none"))
    assert refused.value.code == "not_found"
    assert reads == 2, "a tail looks for what comes after the last position, and finds nothing"


async def test_a_watch_begins_at_a_position_a_time_or_a_birth(recorded: Any) -> None:
    assert await replay.since_of(recorded, "17") == 17
    assert await replay.since_of(recorded, "2020-01-01T00:00:00Z") == 0
    run = next(line.event.ref for line in await replay.show(recorded, "30"))
    for text in (f"main/{run}", str(run)):
        assert await replay.since_of(recorded, text) == 29
    first = await anext(replay.watch(recorded, since=29))
    assert first.event.type == "RunCreated"
    for text, code in (("main/run/0193", "not_found"), ("run/0193", "not_found"), ("soon", "invalid")):
        with pytest.raises(TapelineError) as refused:
            await replay.since_of(recorded, text)
        assert refused.value.code == code


def test_a_mark_belongs_to_one_log(tmp_path: Path) -> None:
    book = replay.Bookmark(tmp_path / "mark.json")
    assert book.read("a") is None
    book.write("a", Mark(41))
    assert book.read("a") == Mark(41)
    book.write("a", Mark(42, 1, 2, 3))
    assert book.read("a") == Mark(42, 1, 2, 3)
    with pytest.raises(TapelineError) as refused:
        book.read("b")
    assert refused.value.code == "log_mismatch"
    for wrong in ("{", "[1]", '{"log_id": "a"}'):
        book.path.write_text(wrong)
        with pytest.raises(TapelineError, match="holds no position"):
            book.read("a")


async def test_only_what_the_watch_itself_wrote_is_cut_off(recorded: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    events = [event async for event in replay.watch(recorded, follow=False)][:3]
    with out.open("ab") as file:
        sheet = replay.Sheet(file.fileno())
        await sheet.give(events[0])
        mark = sheet.mark(events[0].position)
        await sheet.give(events[1])
        await sheet.give(events[2])
    out.write_bytes(out.read_bytes()[:-5])
    with out.open("ab") as file:
        replay.Sheet(file.fileno()).rewind(mark)
    assert [json.loads(line)["position"] for line in out.read_text().splitlines()] == [events[0].position]
    with out.open("a") as file:
        file.write("a note of somebody else\n")
        file.flush()
        with pytest.raises(TapelineError, match="holds other lines") as refused:
            replay.Sheet(file.fileno()).rewind(mark)
    assert refused.value.code == "conflict"
    other = tmp_path / "other.jsonl"
    other.write_text("longer than the mark says, and another file" * 20)
    with other.open("ab") as file:
        replay.Sheet(file.fileno()).rewind(mark)
    assert other.read_text().endswith("another file")


async def test_a_pipe_has_a_position_and_no_length(recorded: Any) -> None:
    reader, writer = os.pipe()
    sheet = replay.Sheet(writer)
    await sheet.give(await anext(replay.watch(recorded, since=29)))
    assert sheet.mark(30) == Mark(30)
    sheet.rewind(Mark(30))
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert [json.loads(line)["type"] for line in lines] == ["RunCreated"]


def test_a_program_that_fails_stops_the_watch(tmp_path: Path) -> None:
    out = tmp_path / "out"
    copy = f"import sys; open({str(out)!r}, 'a').write(sys.stdin.read())"
    history._run([sys.executable, "-c", copy], '{"position": 3}')
    assert out.read_text() == '{"position": 3}\n'
    for command in ([sys.executable, "-c", "raise SystemExit(3)"], ["/no/such/program"]):
        with pytest.raises(TapelineError):
            history._run(command, "{}")


async def test_the_position_of_a_commit_is_kept_when_all_of_it_was_given(recorded: Any, tmp_path: Path) -> None:
    book, seen = replay.Bookmark(tmp_path / "mark.json"), []

    async def give(event: replay.Watched) -> None:
        seen.append((event.position, book.read("recorded")))
        if event.event.type == "JobSubmitted":
            raise TapelineError("the program ended with exit code 3", code="conflict")

    events = replay.watch(recorded, since=9, follow=False)
    with pytest.raises(TapelineError):
        await replay.deliver(events, give, log_id="recorded", bookmark=book, sheet=None)
    assert seen == [(10, None), (11, Mark(10)), (11, Mark(10))]
    assert book.read("recorded") == Mark(10), "the commit in hand is given again, both of its events"
