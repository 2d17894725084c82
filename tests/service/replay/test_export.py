"""The log as files and back: nothing lost, nothing changed, and every damage named with its place."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tapeline import replay, topology
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.errors import TapelineError
from tapeline.log.bulk import BulkAppender, BulkClient
from tapeline.log.codec import Codec
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.memory import InMemoryLog
from tapeline.replay import segments as export_module
from tapeline.testing.log import everything
from tapeline.testing.server import NatsServer, connect, connector

MakeLog = Callable[..., Awaitable[InMemoryLog]]
CODEC = Codec(EVENTS, UPCASTERS)


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[BulkClient]:
    made = BulkClient()
    await connect(server.url, made)
    await topology.apply(made, topology.topology())
    yield made
    await made.close()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "SEGMENT_COMMITS", 40)


@pytest.fixture
async def exported(make_log: MakeLog, tmp_path: Path, small_segments: None) -> Path:
    """An export of 100 commits in three segments."""
    folder = tmp_path / "export"
    await replay.export(await make_log(100), folder)
    return folder


def log_on(server: NatsServer, client: BulkClient) -> JetStreamLog:
    return JetStreamLog(client, CODEC, connect=connector(server.url), role="test")


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.zst"))


async def test_an_export_holds_the_log_to_the_byte(make_log: MakeLog, exported: Path) -> None:
    found = replay.ExportedLog(exported)
    assert (await found.head()).position == 100
    assert [path.name[:41] for path in segments(exported)] == [
        f"{1:020d}-{40:020d}", f"{41:020d}-{80:020d}", f"{81:020d}-{100:020d}",
    ]  # fmt: skip
    commits = await everything(found)  # type: ignore[arg-type]
    assert [one.position for one in commits] == list(range(1, 101))
    report = await replay.verify(found)
    assert str(report) == "complete: 100 events in 100 commits, not sealed"


async def test_a_repeated_export_adds_only_what_is_new(make_log: MakeLog, tmp_path: Path, small_segments: None) -> None:
    log, folder = await make_log(100), tmp_path / "export"
    await replay.export(log, folder)
    before = hashes(folder)
    await replay.export(log, folder)
    assert hashes(folder) == before
    await _more(log, 30)
    again = await replay.export(log, folder)
    after = hashes(folder)
    full = [segment.name for segment in again.segments if segment.full][:2]
    assert {name: before[name] for name in full} == {name: after[name] for name in full}
    assert [(segment.first, segment.last) for segment in again.segments] == [(1, 40), (41, 80), (81, 120), (121, 130)]
    assert len(segments(folder)) == 4, "the shorter form of the last segment is gone"
    fresh = await replay.export(log, tmp_path / "other")
    assert fresh == again


async def _more(log: InMemoryLog, n: int) -> None:
    from tapeline.contracts.names import NumberTaken
    from tapeline.log import GENESIS, Appended, NewCommit
    from tapeline.subjects import Ref

    last: Appended | None = None
    for i in range(n):
        new = NewCommit(
            ref=Ref("contoso", "run", "counter"), events=(NumberTaken(number=i, holder="x"),),
            sequence=i + 1, prev=last.digest if last else GENESIS,
            created_at=(await everything(log))[0].stored_at, actor="user:ann", command="Take", command_id=f"m{i}",
        )  # fmt: skip
        last = await log.append(new, expected=last.position if last else 0)


async def test_an_export_that_was_cut_off_goes_on(make_log: MakeLog, tmp_path: Path, small_segments: None) -> None:
    log = await make_log(100)
    whole = await replay.export(log, tmp_path / "whole")

    class Torn(Exception):
        pass

    def tear(segment: replay.Segment) -> None:
        if segment.first == 41:
            raise Torn

    with pytest.raises(Torn):
        await replay.export(log, tmp_path / "torn", on_segment=tear)
    assert replay.read_manifest(tmp_path / "torn").position == 80
    assert await replay.export(log, tmp_path / "torn") == whole
    assert hashes(tmp_path / "torn") == hashes(tmp_path / "whole")


async def test_a_folder_of_another_log_is_refused(make_log: MakeLog, exported: Path) -> None:
    before = hashes(exported)
    with pytest.raises(TapelineError, match="holds an export of log") as refused:
        await replay.export(await make_log(120), exported)
    assert refused.value.code == "log_mismatch"
    assert hashes(exported) == before


async def test_a_log_that_lost_its_tail_is_not_exported_over_the_backup(make_log: MakeLog, tmp_path: Path) -> None:
    log = await make_log(20)
    await replay.export(log, tmp_path / "x")
    shorter = InMemoryLog(CODEC, log_id=(await log.head()).log_id)
    await make_log(10, log=shorter)
    with pytest.raises(TapelineError, match="the log ends at 10, the export reaches 20") as refused:
        await replay.export(shorter, tmp_path / "x")
    assert refused.value.code == "log_damaged"


async def test_a_position_past_the_end_is_invalid(make_log: MakeLog, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match=r"position 11 is past the end of the log \(10\)"):
        await replay.export(await make_log(10), tmp_path / "x", upto=11)
    assert not (tmp_path / "x").exists()


async def test_an_import_reproduces_every_position(
    server: NatsServer, client: BulkClient, make_log: MakeLog, tmp_path: Path, small_segments: None
) -> None:
    source = await make_log(1300, events=2)
    manifest = await replay.export(source, tmp_path / "a")
    done = await replay.import_log(client, tmp_path / "a")
    assert str(done) == f"complete: 2600 events in 1300 commits; 1300 written, log {manifest.log_id} ends at 1300"
    log = log_on(server, client)
    assert await everything(log) == await everything(source)
    head = await log.head()
    assert (head.log_id, head.position) == (manifest.log_id, 1300)
    assert await topology.check(client) == manifest.log_id
    again = await replay.export(log, tmp_path / "b")
    assert again == manifest
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


async def test_an_import_that_was_cut_off_goes_on_after_what_is_stored(
    server: NatsServer, client: BulkClient, make_log: MakeLog, tmp_path: Path, small_segments: None
) -> None:
    source = await make_log(300)
    manifest = await replay.export(source, tmp_path / "a")
    for cut in (1, 40, 97, 210):
        stored = (await log_on(server, client).head()).position
        await topology.begin_import(client, log_id=manifest.log_id, upto=300)
        bulk = BulkAppender(client, position=stored)
        await bulk.add((await everything(source))[stored:cut])
        await bulk.finish()
        with pytest.raises(TapelineError, match=f"being imported: {cut} of 300"):
            await topology.check(client)
    done = await replay.import_log(client, tmp_path / "a")
    assert (done.written, done.position) == (90, 300)
    assert await everything(log_on(server, client)) == await everything(source)
    assert (await replay.import_log(client, tmp_path / "a")).written == 0


async def test_a_log_with_other_commits_is_left_as_it_is(
    server: NatsServer, client: BulkClient, make_log: MakeLog, exported: Path, tmp_path: Path
) -> None:
    await replay.import_log(client, exported)
    await replay.export(await make_log(120, events=2), tmp_path / "other")
    for as_new_log in (False, True):
        with pytest.raises(TapelineError, match="EVENTS holds 100 other commits") as refused:
            await replay.import_log(client, tmp_path / "other", as_new_log=as_new_log)
        assert refused.value.code == "not_empty"
    assert (await log_on(server, client).head()).position == 100


async def test_a_copy_for_trials_has_an_id_of_its_own(server: NatsServer, client: BulkClient, exported: Path) -> None:
    own = await topology.check(client)
    done = await replay.import_log(client, exported, as_new_log=True)
    assert done.log_id == own != replay.read_manifest(exported).log_id


def rewritten(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> bytes:
    lines = [json.loads(line) for line in zstandard.decompress(path.read_bytes(), 1 << 26).splitlines()]
    text = "".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in change(lines))
    return zstandard.compress(text.encode())


def reseal(folder: Path, index: int, data: bytes) -> None:
    """Replace a segment and make the manifest fit, as somebody with bad intent would."""
    manifest = replay.read_manifest(folder)
    segment = manifest.segments[index]
    (folder / segment.name).write_bytes(data)
    sha256, size = hashlib.sha256(data).hexdigest(), len(data)
    document = json.loads((folder / "manifest.json").read_bytes())
    document["segments"][index] |= {"sha256": sha256, "size_bytes": size}
    write_manifest(folder, document)


def write_manifest(folder: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document | {"digest": ""}, separators=(",", ":"))
    document["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(document))


def refusal(folder: Path) -> TapelineError:
    with pytest.raises(TapelineError) as refused:
        replay.verify_only(folder)
    return refused.value


def test_a_whole_export_verifies(exported: Path) -> None:
    assert str(replay.verify_only(exported)) == "complete: 100 events in 100 commits"


def test_every_flipped_bit_of_an_export_is_found(exported: Path) -> None:
    chosen = random.Random(11)
    for path in (*segments(exported), exported / "manifest.json"):
        whole = path.read_bytes()
        for i in sorted(chosen.sample(range(len(whole)), 60)):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << chosen.randrange(8))]) + whole[i + 1 :])
            error = refusal(exported)
            assert error.code in ("corrupt", "schema_unknown"), (path.name, i)
            assert path.name in error.message
        path.write_bytes(whole)
    replay.verify_only(exported)


def test_a_truncated_segment_is_named_with_the_last_position_that_it_holds(exported: Path) -> None:
    path = segments(exported)[1]
    path.write_bytes(path.read_bytes()[:-20])
    error = refusal(exported)
    assert error.code == "corrupt"
    assert path.name in error.message
    assert "the manifest says" in error.message


def test_a_missing_segment_is_named(exported: Path) -> None:
    segments(exported)[2].unlink()
    assert refusal(exported).message == f"segment {81:020d}-{100:020d}.jsonl.zst is missing"


def test_commits_in_another_order_are_found_even_with_a_fitting_manifest(exported: Path) -> None:
    def swap(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[4], lines[5] = lines[5], lines[4]
        return lines

    reseal(exported, 0, rewritten(segments(exported)[0], swap))
    assert "first fault at position 6: hole: it follows position 4" in refusal(exported).message


def test_a_changed_event_is_found_even_with_a_fitting_manifest(exported: Path) -> None:
    def change(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[7]["b"] = lines[7]["b"].replace("name2", "name9")
        return lines

    reseal(exported, 1, rewritten(segments(exported)[1], change))
    assert "first fault at position 53: chain" in refusal(exported).message


def test_a_header_that_would_break_out_of_its_line_is_refused(exported: Path) -> None:
    def change(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[0]["h"] = lines[0]["h"].replace('{"v":1,', '{"v":1,\r\nNats-Rollup: all\r\n')
        return lines

    reseal(exported, 0, rewritten(segments(exported)[0], change))
    assert "position 1: decode: its header is not one line of ASCII" in refusal(exported).message


def test_a_subject_of_no_log_is_refused(exported: Path) -> None:
    reseal(exported, 0, rewritten(segments(exported)[0], lambda lines: [lines[0] | {"s": "$JS.API.x"}, *lines[1:]]))
    assert "position 1: decode: '$JS.API.x' is not a subject of the log" in refusal(exported).message


@pytest.mark.parametrize(
    ("old", "new"), [('"schema":1', '"schema":7'), ('"type":"NameClaimed"', '"type":"NameInvented"')]
)
def test_an_event_of_a_newer_schema_or_unknown_type_is_named(exported: Path, old: str, new: str) -> None:
    def change(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [lines[0] | {"b": lines[0]["b"].replace(old, new)}, *lines[1:]]

    reseal(exported, 0, rewritten(segments(exported)[0], change))
    error = refusal(exported)
    assert error.code == "schema_unknown"
    assert "at position 1; this code knows" in error.message


def test_a_manifest_that_points_elsewhere_is_refused(exported: Path) -> None:
    document = json.loads((exported / "manifest.json").read_bytes())
    document["segments"][0]["name"] = "../../etc/passwd"
    write_manifest(exported, document)
    assert "names the segment '../../etc/passwd'" in refusal(exported).message


def test_a_manifest_of_a_newer_format_is_named(exported: Path) -> None:
    document = json.loads((exported / "manifest.json").read_bytes())
    write_manifest(exported, document | {"format": 2})
    assert refusal(exported).code == "schema_unknown"


def test_files_of_something_else_are_named(exported: Path) -> None:
    path, whole = segments(exported)[1], segments(exported)[1].read_bytes()
    for data, told in (
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "cannot be decompressed"),
        (zstandard.compress(b'{"name": "not of ours"}\n'), "line 1, after position 40: Object missing required field"),
        (zstandard.compress(b"a poem\n"), "line 1, after position 40"),
        (zstandard.compress(b""), "holds no commit"),
    ):
        reseal(exported, 1, data)
        error = refusal(exported)
        assert (error.code, path.name in error.message, told in error.message) == ("corrupt", True, True), error
    reseal(exported, 1, whole)
    replay.verify_only(exported)
    (exported / "manifest.json").write_text('{"name": "package", "version": "1.0.0"}')
    assert "manifest.json is no manifest" in refusal(exported).message
    (exported / "manifest.json").write_bytes(b"\xff\xfe")
    assert "manifest.json is torn or no JSON" in refusal(exported).message


def test_a_folder_without_an_export_says_so(tmp_path: Path) -> None:
    assert refusal(tmp_path).code == "not_found"


async def test_a_damaged_export_writes_nothing(server: NatsServer, client: BulkClient, exported: Path) -> None:
    path = segments(exported)[2]
    path.write_bytes(path.read_bytes()[:-1])
    before = await topology.check(client)
    with pytest.raises(TapelineError, match=path.name):
        await replay.import_log(client, exported)
    head = await log_on(server, client).head()
    assert (head.position, head.log_id) == (0, before)
