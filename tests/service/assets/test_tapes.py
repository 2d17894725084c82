"""Uploading and importing tapes over a real log."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapeline.errors import TapelineError
from tapeline.tape.extend import extend_tape
from tapeline.tape.imports import import_tape as prepare
from tapeline.tape.options import ImportOptions
from tapeline.tape.prepared import PreparedTape, written
from tapeline.testing.hosted import Hosted


async def upload(service: Hosted, tape: PreparedTape, **who: str) -> str:
    for file in tape.files:
        await service.upload(file.path, **who)
    return await service.upload(tape.manifest_file.path, **who)


async def import_tape(service: Hosted, tape: PreparedTape, name: str = "demo", **who: str) -> dict[str, object]:
    manifest = await upload(service, tape, **who)
    return await service.ask("import_tape", name=name, manifest_sha256=manifest, **who)


async def test_an_uploaded_tape_becomes_a_tape(service: Hosted, prepared: PreparedTape) -> None:
    reply = await import_tape(service, prepared)
    view = reply["view"]
    assert isinstance(view, dict)
    assert view["content_sha256"] == prepared.content_sha256
    assert (view["rows"], view["symbols"], view["calendar"]) == (prepared.rows, ["SIM1"], "SIM")
    assert view["synthetic"]["seed"] == 7
    shown = await service.view("get_tape", name="demo")
    assert {**shown, "created_at": None} == {**view, "created_at": None}
    assert [each["name"] for each in (await service.view("list_tapes"))["items"]] == ["demo"]


async def test_the_same_tape_again_is_the_answer_and_another_is_refused(
    service: Hosted, prepared: PreparedTape, other: PreparedTape
) -> None:
    first = await import_tape(service, prepared)
    again = await import_tape(service, prepared)
    assert again["replayed"] is True
    assert again["view"]["id"] == first["view"]["id"]  # type: ignore[index]
    assert await service.code(import_tape(service, other)) == "already_exists"


async def test_the_same_command_twice_imports_once(service: Hosted, prepared: PreparedTape) -> None:
    manifest = await upload(service, prepared)
    fields = {"name": "demo", "manifest_sha256": manifest, "command_id": "019aa000-0000-7000-8000-000000000001"}
    first = await service.view("import_tape", **fields)
    assert (await service.view("import_tape", **fields))["id"] == first["id"]
    assert len((await service.view("list_tapes"))["items"]) == 1


async def test_a_missing_day_file_is_named_and_nothing_is_imported(service: Hosted, prepared: PreparedTape) -> None:
    manifest = await service.upload(prepared.manifest_file.path)
    with pytest.raises(TapelineError, match="5 of 5 day files were not uploaded") as refused:
        await service.ask("import_tape", name="demo", manifest_sha256=manifest)
    assert refused.value.code == "not_found"
    assert await service.code(service.ask("get_tape", name="demo")) == "not_found"


async def test_a_manifest_that_lies_is_refused_and_the_name_stays_free(
    service: Hosted, prepared: PreparedTape, tmp_path: Path
) -> None:
    await upload(service, prepared)
    lie = json.loads(prepared.manifest_file.path.read_bytes())
    lie["days"][0]["rows"] += 1
    forged = tmp_path / "manifest.json"
    forged.write_text(json.dumps(lie))
    sha256 = await service.upload(forged)
    assert await service.code(service.ask("import_tape", name="demo", manifest_sha256=sha256)) == "tape_corrupt"
    await import_tape(service, prepared)


async def test_another_team_sees_no_tape_and_no_upload(service: Hosted, prepared: PreparedTape) -> None:
    manifest = await upload(service, prepared)
    foreign = {"team": "rivals", "user": "eve"}
    asked = service.ask("import_tape", name="theirs", manifest_sha256=manifest, **foreign)
    assert await service.code(asked) == "not_found"
    view = await service.view("import_tape", name="demo", manifest_sha256=manifest)
    assert await service.code(service.ask("get_tape", name="demo", **foreign)) == "not_found"
    assert await service.code(service.ask("get_tape", name=view["id"], **foreign)) == "not_found"
    digest = view["files"][0]["sha256"]
    assert await service.code(service.ask("read_artifact", sha256=digest, **foreign)) == "not_found"
    part = await service.view("read_artifact", sha256=digest)
    assert hashlib.sha256(base64.b64decode(part["data"])).hexdigest() == digest or part["size_bytes"] > 384 * 1024


async def test_a_removed_tape_frees_its_name_and_a_repeat_changes_nothing(
    service: Hosted, prepared: PreparedTape
) -> None:
    await import_tape(service, prepared)
    remove = {"name": "demo", "command_id": "019aa000-0000-7000-8000-000000000002"}
    await service.ask("remove_tape", **remove)
    again = await service.ask("remove_tape", **remove)
    assert again["replayed"] is True
    assert await service.code(service.ask("get_tape", name="demo")) == "not_found"
    assert await service.code(service.ask("remove_tape", name="demo")) == "not_found"
    await import_tape(service, prepared)


async def test_bytes_that_are_not_what_was_declared_are_refused(service: Hosted) -> None:
    data = base64.b64encode(b"abc").decode()
    begun = await service.view("begin_upload", size_bytes=3, sha256="0" * 64)
    asked = service.ask("upload_part", upload_id=begun["upload_id"], offset=0, data=data)
    assert await service.code(asked) == "invalid"
    asked = service.ask("upload_part", upload_id=begun["upload_id"], offset=0, data=data)
    assert await service.code(asked) == "not_found"


async def test_parts_come_in_order_and_a_repeated_part_is_no_error(service: Hosted) -> None:
    whole = b"abcdef"
    begun = await service.view("begin_upload", size_bytes=6, sha256=hashlib.sha256(whole).hexdigest())
    upload_id = begun["upload_id"]

    def part(offset: int, data: bytes) -> dict[str, Any]:
        return {"upload_id": upload_id, "offset": offset, "data": base64.b64encode(data).decode()}

    assert await service.code(service.ask("upload_part", **part(3, b"def"))) == "conflict"
    assert (await service.view("upload_part", **part(0, b"abc")))["received_bytes"] == 3
    assert (await service.view("upload_part", **part(0, b"abc")))["received_bytes"] == 3
    assert (await service.view("upload_part", **part(3, b"def")))["complete"] is True
    assert (await service.view("upload_part", **part(3, b"def")))["complete"] is True


async def test_a_user_has_at_most_eight_open_uploads(service: Hosted) -> None:
    for number in range(8):
        await service.ask("begin_upload", size_bytes=10, sha256=f"{number:064x}")
    assert await service.code(service.ask("begin_upload", size_bytes=10, sha256="f" * 64)) == "insufficient_storage"
    await service.ask("begin_upload", size_bytes=10, sha256="f" * 64, user="bob")


def files_of_trades(folder: Path, days: list[int], price: int = 10) -> Path:
    """Trades of some days after 2024-01-02."""
    path = folder / f"{'-'.join(map(str, days))}-{price}.csv"
    rows = [f"{1_704_153_600 + day * 86_400 + k},{price},{k + 1}" for day in days for k in range(50)]
    path.write_text("ts,px,qty\n" + "\n".join(rows) + "\n")
    return path


OPTIONS = ImportOptions(calendar="24/7", map={"ts": "ts", "price": "px", "volume": "qty"})


async def test_an_extension_needs_only_its_new_days_and_names_its_parent(service: Hosted, tmp_path: Path) -> None:
    parent = prepare([files_of_trades(tmp_path, [0, 1])], "csv", symbol="X", out_dir=tmp_path / "p", options=OPTIONS)
    child = extend_tape(
        parent.manifest, [files_of_trades(tmp_path, [2])], "csv", symbol="X", out_dir=tmp_path / "c", options=OPTIONS
    )
    first = (await import_tape(service, parent, "p"))["view"]
    assert len(child.files) == 1
    second = (await import_tape(service, child, "c"))["view"]
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["parent"], second["parent"]) == (None, first["id"])
    assert [tape["parent"] for tape in (await service.view("list_tapes"))["items"]] == [first["id"], None]
    assert {file["sha256"] for file in second["files"]} > {file["sha256"] for file in first["files"]}
    # Another team has no such parent, even if it sends every byte.
    foreign = {"team": "rivals", "user": "eve"}
    for file in (*parent.files, *child.files):
        await service.upload(file.path, **foreign)
    assert await service.code(import_tape(service, child, "c", **foreign)) == "not_found"


async def test_a_tape_that_claims_a_parent_without_its_days_is_refused(service: Hosted, tmp_path: Path) -> None:
    parent = prepare([files_of_trades(tmp_path, [0, 1])], "csv", symbol="X", out_dir=tmp_path / "p", options=OPTIONS)
    await import_tape(service, parent, "p")
    for days, price in (([1, 2], 10), ([0, 1], 11)):
        folder = tmp_path / f"o{price}"
        source = files_of_trades(tmp_path, days, price)
        other = prepare([source], "csv", symbol="X", out_dir=folder, options=OPTIONS)
        forged = other.manifest | {"parent": parent.content_sha256}
        made = replace(other, manifest=forged, manifest_file=written(folder, forged))
        with pytest.raises(TapelineError, match="names a parent of which") as refused:
            await import_tape(service, made, "forged")
        assert refused.value.code == "tape_corrupt"
    assert await service.code(service.ask("get_tape", name="forged")) == "not_found"


async def test_prices_below_zero_pass_when_they_were_allowed(service: Hosted, tmp_path: Path) -> None:
    source = files_of_trades(tmp_path, [0], -3)
    lenient = replace(OPTIONS, allow_nonpositive=True)
    tape = prepare([source], "csv", symbol="X", out_dir=tmp_path / "p", options=lenient)
    view = (await import_tape(service, tape, "spread"))["view"]
    assert isinstance(view, dict)
    assert (view["rows"], view["report"]["void"]) == (50, 0)
