"""The chain of facts behind a fact: every link from a vault item to raw files and to the people who asked."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tapeline import replay
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.canvases import CanvasCreated, CanvasSaved
from tapeline.contracts.vault import VaultItemAdded, VaultItemRenamed
from tapeline.errors import TapelineError
from tapeline.log import GENESIS, Appended, NewCommit
from tapeline.log.codec import Codec, event_id
from tapeline.log.memory import InMemoryLog
from tapeline.subjects import Ref

CODEC = Codec(EVENTS, UPCASTERS)
AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
MODEL = Artifact(name="model.keras", size_bytes=1, sha256="ab" * 32)


class Written:
    """A log in memory, written commit by commit."""

    def __init__(self) -> None:
        self.log = InMemoryLog(CODEC)
        self._tails: dict[Ref, Appended] = {}

    async def add(self, ref: Ref, *events: Any, command_id: str = "", cause: str | None = None) -> str:
        """Append; gives the id of the first event."""
        last = self._tails.get(ref)
        command_id = command_id or f"c{(await self.log.head()).position + 1}"
        self._tails[ref] = await self.log.append(
            NewCommit(
                ref=ref, events=events, sequence=last.sequence + 1 if last else 1,
                prev=last.digest if last else GENESIS, created_at=AT, actor="user:ann", command="Test",
                command_id=command_id, cause=cause,
            ),
            expected=last.position if last else 0,
        )  # fmt: skip
        return event_id(ref.subject, command_id, 0)


@pytest.fixture
def written() -> Written:
    return Written()


def added(name: str, version: str = "1.0.0") -> VaultItemAdded:
    return VaultItemAdded(
        name=name, version=version, summary="", model=MODEL, model_file="model.keras", project_id="p", user="ann"
    )


def drawn(name: str) -> CanvasCreated:
    return CanvasCreated(name=name, content={}, digest=name * 8)


async def code_of(log: Any, target: str, **more: Any) -> str:
    with pytest.raises(TapelineError) as refused:
        await replay.why(log, target, **more)
    return str(refused.value.code)


async def test_a_vault_item_leads_to_raw_files_and_to_every_command_of_its_user(recorded: Any) -> None:
    chain = await replay.why(recorded, "vault:demo_model@1.0.0")
    found = [(link.fact.position, link.fact.type, link.edge, link.of) for link in chain.links]
    assert found == [
        (51, "VaultItemAdded", "target", None),
        (47, "CheckpointCompleted", "checkpoint", 51),
        (32, "LeaseGranted", "lease", 47),
        (31, "JobCreated", "run", 51),
        (30, "RunCreated", "before", 31),
        (27, "CanvasCreated", "canvas_revision", 31),
        (6, "AssetBuilt", "asset", 51),
        (6, "AssetChecked", "before", 6),
        (4, "AssetBuildRequested", "before", 6),
        (2, "TapeImported", "tape", 4),
        (1, "DeviceAnnounced", "device", 32),
    ]
    by_user = [link.fact.command for link in chain.links if link.fact.actor == "user:me"]
    assert by_user == ["PromoteModel", "BearRun", "StoreCanvas", "RequestBuild", "ImportUploads"]
    tape = next(link for link in chain.links if link.fact.type == "TapeImported")
    (imported,) = CODEC.decode(recorded.commits[1])
    raw = [imported.data.manifest, *imported.data.files]
    assert [each["sha256"] for each in tape.to_json()["artifacts"]] == [file.sha256 for file in raw]
    assert len(raw) == 61
    assert all(file.sha256 in str(tape) for file in raw)
    assert not chain.is_cut


async def test_every_event_of_a_log_has_a_chain_that_ends_at_births(recorded: Any) -> None:
    events = [event for commit in recorded.commits for event in CODEC.decode(commit)]
    for event in events[::3]:
        chain = await replay.why(recorded, event.id)
        assert event.id in [link.fact.id for link in chain.links]
        led = {edge.of for edge in chain.edges}
        ends = [link.fact for link in chain.links if link.fact.place not in led]
        assert {fact.sequence for fact in ends} == {1}, "a chain goes on until there is nothing before"


async def test_an_artifact_leads_to_the_event_that_made_it(recorded: Any) -> None:
    (event,) = CODEC.decode(recorded.commits[46])
    model = next(file for file in event.data.files if file.name.endswith(".keras"))
    chain = await replay.why(recorded, model.sha256)
    assert [link.fact.id for link in chain.links if link.edge == "target"] == [event.id]
    assert await code_of(recorded, "0" * 64) == "not_found"


async def test_a_checkpoint_a_run_and_an_asset_can_be_asked_about(recorded: Any) -> None:
    (event,) = CODEC.decode(recorded.commits[46])
    assert (await replay.why(recorded, event.data.checkpoint_id)).links[0].fact.id == event.id
    for place, type in ((f"main/{event.ref}", "JobCreated"), (str(event.ref), "JobCreated")):
        chain = await replay.why(recorded, place)
        assert [link.fact.type for link in chain.links if link.edge == "target"] == [type]
    assert await code_of(recorded, "run/0193") == "not_found"
    assert await code_of(recorded, "main/run/0193") == "not_found"
    assert await code_of(recorded, "no-such-event") == "not_found"


async def test_the_depth_cuts_the_chain_and_says_so(recorded: Any) -> None:
    chain = await replay.why(recorded, "vault:demo_model", depth=1)
    assert [link.fact.type for link in chain.links] == [
        "VaultItemAdded", "CheckpointCompleted", "JobCreated", "AssetBuilt",
    ]  # fmt: skip
    assert chain.is_cut
    assert await code_of(recorded, "vault:demo_model", depth=0) == "invalid"


async def test_a_graph_has_every_event_and_every_edge(recorded: Any) -> None:
    chain = await replay.why(recorded, "vault:demo_model")
    dot = chain.dot()
    assert dot.count("->") == len(chain.edges) == 12
    assert dot.count("shape=box") == 1
    assert dot.count("[label=") == len(chain.edges) + len(chain.links)


async def test_a_loop_of_causes_is_cut(written: Written) -> None:
    one, two = Ref("contoso", "canvas", "one"), Ref("contoso", "canvas", "two")
    later = event_id(two.subject, "second", 0)
    first = await written.add(one, drawn("a"), command_id="first", cause=f"{later}@2")
    await written.add(two, drawn("b"), command_id="second", cause=f"{first}@1")
    chain = await replay.why(written.log, later)
    assert [link.fact.id for link in chain.links] == [later, first]
    assert {(edge.of, edge.by) for edge in chain.edges} == {((2, 0), (1, 0)), ((1, 0), (2, 0))}


async def test_a_cause_is_found_by_its_id_when_its_position_is_of_another_log(written: Written) -> None:
    first = await written.add(Ref("contoso", "canvas", "one"), drawn("a"))
    second = await written.add(Ref("contoso", "canvas", "two"), drawn("b"), cause=f"{first}@9123")
    chain = await replay.why(written.log, second)
    assert [(link.edge, link.fact.id) for link in chain.links] == [("target", second), ("cause", first)]


async def test_a_recorded_cause_replaces_the_event_before_but_not_within_a_commit(written: Written) -> None:
    ref = Ref("contoso", "canvas", "one")
    first = await written.add(ref, drawn("a"))
    saved = [CanvasSaved(revision=n, content={}, digest=f"{n}" * 8) for n in (2, 3)]
    await written.add(ref, CanvasSaved(revision=9, content={}, digest="d" * 8))
    await written.add(ref, *saved, cause=f"{first}@1")
    chain = await replay.why(written.log, event_id(ref.subject, "c3", 1))
    assert [(link.fact.sequence, link.edge) for link in chain.links] == [(4, "target"), (3, "before"), (1, "cause")]


async def test_what_belongs_to_another_team_is_denied(written: Written) -> None:
    ours, theirs = Ref("contoso", "vault", "v1"), Ref("fabrikam", "vault", "v2")
    await written.add(ours, added("m"))
    foreign = await written.add(theirs, added("m"))
    await written.add(theirs, VaultItemRenamed(name="theirs", old_name="m"))
    for target in (foreign, "fabrikam/vault/v2", "vault:theirs"):
        assert await code_of(written.log, target, team="contoso") == "denied", target
    assert (await replay.why(written.log, "vault:m", team="contoso")).links[0].fact.ref == ours
    assert await code_of(written.log, "vault:m") == "invalid", "two teams have it"
    shared = await replay.why(written.log, MODEL.sha256, team="fabrikam")
    assert shared.links[0].fact.ref == theirs
    assert await code_of(written.log, MODEL.sha256, team="elsewhere") == "not_found"


async def test_an_item_is_found_by_every_name_that_it_had_in_its_version(written: Written) -> None:
    ref = Ref("contoso", "vault", "v1")
    await written.add(ref, added("m", "2.0.0"))
    await written.add(ref, VaultItemRenamed(name="n", old_name="m"))
    assert [link.fact.type for link in (await replay.why(written.log, "vault:n@2.0.0")).links] == [
        "VaultItemRenamed", "VaultItemAdded",
    ]  # fmt: skip
    assert len((await replay.why(written.log, "vault:m@2.0.0")).links) == 1
    for target in ("vault:n@1.0.0", "vault:other"):
        assert await code_of(written.log, target) == "not_found"


async def test_a_reference_is_to_what_was_there_then(written: Written) -> None:
    canvas = Ref("contoso", "canvas", "one")
    await written.add(canvas, drawn("a"))
    copy = await written.add(Ref("contoso", "canvas", "two"), CanvasCreated(
        name="b", content={}, digest="b" * 8, copied_from="one"
    ))  # fmt: skip
    await written.add(canvas, CanvasSaved(revision=2, content={}, digest="c" * 8))
    chain = await replay.why(written.log, copy)
    assert [(link.fact.position, link.edge) for link in chain.links] == [(2, "target"), (1, "canvas")]


async def test_a_link_is_json_with_stable_keys(recorded: Any) -> None:
    link = (await replay.why(recorded, "vault:demo_model")).links[0].to_json()
    assert list(json.loads(json.dumps(link))) == [
        "position", "index", "id", "time", "actor", "type", "edge", "of", "depth", "aggregate", "sequence",
        "command", "command_id", "artifacts",
    ]  # fmt: skip
