"""Parts of a log taken to another one: nothing half, nothing overwritten, every id and digest kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import zstandard

from tapeline import replay, topology
from tapeline.cli.app import run
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.errors import TapelineError
from tapeline.home import Home
from tapeline.log import StoredCommit
from tapeline.log.bulk import BulkClient
from tapeline.log.codec import Codec
from tapeline.log.graft import graft
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.memory import InMemoryLog
from tapeline.replay import segments as segments_module
from tapeline.replay.bundles import import_bundle
from tapeline.store import LocalStore
from tapeline.subjects import ref_of
from tapeline.testing.log import everything
from tapeline.testing.server import NatsServer, connect, connector

MakeLog = Callable[..., Awaitable[InMemoryLog]]
CODEC = Codec(EVENTS, UPCASTERS, TOMBSTONES)


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[BulkClient]:
    made = BulkClient()
    await connect(server.url, made)
    await topology.apply(made, topology.topology())
    yield made
    await made.close()


@pytest.fixture
def here(server: NatsServer, client: BulkClient) -> JetStreamLog:
    return JetStreamLog(client, CODEC, connect=connector(server.url), role="test")


async def names(log: InMemoryLog | JetStreamLog) -> list[str]:
    """The aggregates of a log in the order of their birth."""
    refs = (ref_of(one.subject) for one in await everything(log))
    return list(dict.fromkeys(f"{ref.team}/{ref}" for ref in refs))


def told(commits: list[StoredCommit]) -> list[tuple[str, bytes, bytes]]:
    return [(one.subject, one.header, one.body) for one in commits]


async def test_a_bundle_holds_the_commits_of_its_aggregates_at_their_positions(
    make_log: MakeLog, tmp_path: Path
) -> None:
    log = await make_log(50)
    chosen = (await names(log))[1:3]
    found = await replay.export_part(log, tmp_path / "b", aggregates=chosen)
    assert found.part is not None
    assert (found.part.aggregates, found.position) == (tuple(chosen), 50)
    whole = [one for one in await everything(log) if one.position % 5 in (2, 3)]
    _, walk, commits = replay.read_bundle(tmp_path / "b")
    assert told(commits) == told(whole)
    assert [one.position for one in commits] == [one.position for one in whole]
    assert (walk.commits, walk.aggregates) == (20, 2)


async def test_a_bundle_in_several_segments_is_read_whole(
    make_log: MakeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "SEGMENT_COMMITS", 7)
    log = await make_log(60)
    found = await replay.export_part(log, tmp_path / "b", aggregates=(await names(log))[:2])
    assert len(found.segments) == 4
    assert len(replay.read_bundle(tmp_path / "b")[2]) == 24


async def test_a_bundle_that_chooses_nothing_says_so(make_log: MakeLog, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match="no commit of fabrikam lies after 0 and up to 5") as refused:
        await replay.export_part(await make_log(5), tmp_path / "b", team="fabrikam")
    assert refused.value.code == "not_found"
    assert not (tmp_path / "b" / "manifest.json").exists()


async def test_an_export_is_not_written_over_by_a_bundle_nor_a_bundle_by_an_export(
    make_log: MakeLog, tmp_path: Path
) -> None:
    log = await make_log(5)
    await replay.export(log, tmp_path / "whole")
    await replay.export_part(log, tmp_path / "part", team="contoso")
    for work in (
        replay.export_part(log, tmp_path / "whole", team="contoso"),
        replay.export_part(log, tmp_path / "part", team="contoso"),
        replay.export(log, tmp_path / "part"),
    ):
        with pytest.raises(TapelineError) as refused:
            await work
        assert refused.value.code == "not_empty"


async def test_a_folder_of_another_log_takes_no_bundle(make_log: MakeLog, tmp_path: Path) -> None:
    await replay.export(await make_log(5), tmp_path / "x")
    with pytest.raises(TapelineError, match="holds an export of log") as refused:
        await replay.export_part(await make_log(5), tmp_path / "x", team="contoso")
    assert refused.value.code == "log_mismatch"


async def test_a_bundle_is_no_log_to_be_imported_or_compared(make_log: MakeLog, tmp_path: Path) -> None:
    await replay.export_part(await make_log(5), tmp_path / "b", team="contoso")
    for work in (replay.verify_only, replay.ExportedLog):
        with pytest.raises(TapelineError, match="is a bundle, a part of log") as refused:
            work(tmp_path / "b")
        assert refused.value.code == "invalid"
        assert "tapeline bundle import" in str(refused.value.hint)


async def test_aggregates_of_another_log_keep_all_but_their_positions(
    make_log: MakeLog, here: JetStreamLog, client: BulkClient, tmp_path: Path
) -> None:
    other, more = await make_log(30, names=3), await make_log(12, names=2)
    await replay.export_part(more, tmp_path / "first", aggregates=(await names(more))[:1])
    await import_bundle(client, here, tmp_path / "first")
    chosen = (await names(other))[1:]
    await replay.export_part(other, tmp_path / "b", aggregates=chosen)
    seen = await import_bundle(client, here, tmp_path / "b", verify_only=True)
    assert (seen.commits, seen.known, seen.moved) == (20, 0, ())
    assert (await here.head()).position == 6
    done = await import_bundle(client, here, tmp_path / "b")
    assert [(one.source_position, one.position) for one in done.moved[:3]] == [(2, 7), (3, 8), (5, 9)]
    stored = (await everything(here))[6:]
    assert told(stored) == told([one for one in await everything(other) if one.position % 3 != 1])
    assert [one.stored_at for one in stored] == [
        one.stored_at for one in await everything(other) if one.position % 3 != 1
    ]
    assert (await replay.verify(here)).ok


async def test_a_bundle_that_is_here_already_changes_nothing_and_a_longer_one_goes_on(
    make_log: MakeLog, here: JetStreamLog, client: BulkClient, tmp_path: Path
) -> None:
    log = await make_log(30)
    await replay.export_part(log, tmp_path / "short", team="contoso", upto=17)
    await replay.export_part(log, tmp_path / "whole", team="contoso")
    await replay.export_part(log, tmp_path / "rest", team="contoso", after=17)
    with pytest.raises(TapelineError, match="here it ends at 0") as refused:
        await import_bundle(client, here, tmp_path / "rest")
    assert (refused.value.code, (await here.head()).position) == ("invalid", 0)
    await import_bundle(client, here, tmp_path / "short")
    again = await import_bundle(client, here, tmp_path / "short")
    assert (again.known, again.moved) == (17, ())
    assert (await import_bundle(client, here, tmp_path / "rest", verify_only=True)).known == 0
    done = await import_bundle(client, here, tmp_path / "whole")
    assert (done.known, len(done.moved)) == (17, 13)
    assert told(await everything(here)) == told(await everything(log))


async def test_an_aggregate_that_went_another_way_here_is_a_conflict_and_nothing_is_written(
    make_log: MakeLog, here: JetStreamLog, client: BulkClient, tmp_path: Path
) -> None:
    ours, theirs = await make_log(3, names=3), await make_log(9, names=3, events=3)
    await replay.export_part(ours, tmp_path / "ours", aggregates=(await names(ours))[2:])
    await replay.export_part(theirs, tmp_path / "theirs", team="contoso")
    await import_bundle(client, here, tmp_path / "ours")
    with pytest.raises(TapelineError, match="exists here with another commit at sequence 1") as refused:
        await import_bundle(client, here, tmp_path / "theirs")
    assert refused.value.code == "conflict"
    assert (await here.head()).position == 1


async def test_a_bundle_with_a_changed_commit_is_invalid_and_nothing_is_written(
    make_log: MakeLog, here: JetStreamLog, client: BulkClient, tmp_path: Path
) -> None:
    found = await replay.export_part(await make_log(20), tmp_path / "b", team="contoso")
    path = tmp_path / "b" / found.segments[0].name
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(TapelineError, match=path.name) as refused:
        await import_bundle(client, here, tmp_path / "b")
    assert refused.value.code == "corrupt"
    _refit(tmp_path / "b", whole, b"name2", b"name9")
    with pytest.raises(TapelineError, match="chain") as refused:
        await import_bundle(client, here, tmp_path / "b")
    assert refused.value.code == "invalid"
    assert (await here.head()).position == 0


def _refit(folder: Path, whole: bytes, old: bytes, new: bytes) -> None:
    """Change a segment and make the manifest fit, as somebody with bad intent would."""
    text = zstandard.decompress(whole, 1 << 26)
    data = zstandard.compress(text.replace(old, new, 1))
    document = json.loads((folder / "manifest.json").read_bytes())
    (folder / document["segments"][0]["name"]).write_bytes(data)
    document["segments"][0] |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    encoded = json.dumps(document | {"digest": ""}, separators=(",", ":")).encode()
    document["digest"] = hashlib.sha256(encoded).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(document))


async def test_a_bundle_larger_than_a_batch_that_was_cut_off_goes_on(
    make_log: MakeLog, here: JetStreamLog, client: BulkClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tapeline.replay import bundles

    log = await make_log(50)
    await replay.export_part(log, tmp_path / "b", team="contoso")
    monkeypatch.setattr(bundles, "BATCH", 16)
    calls: list[object] = []

    async def dies(*args: object) -> int:
        calls.append(args)
        if len(calls) == 3:
            raise TapelineError("the log did not confirm what was sent", code="unknown_outcome")
        return await graft(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(bundles, "graft", dies)
    with pytest.raises(TapelineError, match="did not confirm"):
        await import_bundle(client, here, tmp_path / "b")
    assert (await here.head()).position == 32
    done = await import_bundle(client, here, tmp_path / "b")
    assert (done.known, len(done.moved)) == (32, 18)
    assert told(await everything(here)) == told(await everything(log))


async def test_a_bundle_is_one_file_too(make_log: MakeLog, tmp_path: Path) -> None:
    await replay.export_part(await make_log(9), tmp_path / "b", team="contoso")
    replay.pack(tmp_path / "b", tmp_path / "b.zip")
    with replay.unpacked(tmp_path / "b.zip") as folder:
        assert replay.read_manifest(folder) == replay.read_manifest(tmp_path / "b")
        assert len(replay.read_bundle(folder)[2]) == 9
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(tmp_path / "b" / "manifest.json", "manifest.json")
        archive.writestr("../../escaped", "x")
    with replay.unpacked(tmp_path / "evil.zip") as folder, pytest.raises(TapelineError, match="is missing"):
        replay.read_bundle(folder)
    (tmp_path / "torn.zip").write_bytes((tmp_path / "b.zip").read_bytes()[:200])
    with pytest.raises(TapelineError, match="is no bundle") as refused, replay.unpacked(tmp_path / "torn.zip"):
        pass
    assert refused.value.code == "corrupt"


async def test_files_that_events_name_travel_with_an_export(recorded: object, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    found = await replay.export(recorded, tmp_path / "x")  # type: ignore[arg-type]
    named = await replay.missing_artifacts(tmp_path / "x", found, store)
    assert len(named) > 5
    (tmp_path / "file").write_bytes(b"not one of them")
    await store.put(tmp_path / "file")
    found, missing = await replay.add_artifacts(tmp_path / "x", found, store)
    assert (found.artifacts, missing) == ((), len(named))


async def test_the_command_line_takes_a_run_from_one_home_to_another(
    make_log: MakeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = await make_log(20)
    (first, *_) = await names(log)
    await replay.export(log, tmp_path / "whole")
    await replay.restore(Home(tmp_path / "one"), tmp_path / "whole")
    monkeypatch.setenv("TAPELINE_HOME", str(tmp_path / "one"))
    arguments = ["log", "export", str(tmp_path / "b.zip"), "--aggregate", first.removeprefix("contoso/"), "--json"]
    capsys.readouterr()
    assert await asyncio.to_thread(run, arguments) == 0
    assert json.loads(capsys.readouterr().out)["part"]["aggregates"] == [first]
    assert await asyncio.to_thread(run, ["log", "import", str(tmp_path / "b.zip"), "--verify-only"]) == 3
    monkeypatch.setenv("TAPELINE_HOME", str(tmp_path / "two"))
    capsys.readouterr()
    assert await asyncio.to_thread(run, ["bundle", "import", str(tmp_path / "b.zip"), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [(one["source_position"], one["position"]) for one in done["moved"]] == [(1, 1), (6, 2), (11, 3), (16, 4)]
    assert await asyncio.to_thread(run, ["log", "verify"]) == 0
    assert await asyncio.to_thread(run, ["bundle", "import", str(tmp_path / "whole")]) == 0
    assert "16 written, 4 were here already" in capsys.readouterr().out
