"""`tapeline tape verify | head | bars` over the files that a service hands out."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tapeline.cli.app import run
from tapeline.errors import CODES
from tapeline.sdk import tapes
from tapeline.sdk.client import Client
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate


@pytest.fixture
def tape(service: Any, tmp_path: Path) -> PreparedTape:
    made = simulate(tmp_path / "made", days=2, trades_per_day=1500)
    files = {file.sha256: file.path for file in [*made.files, made.manifest_file]}

    def part(body: dict[str, Any]) -> Any:
        data = files[body["sha256"]].read_bytes()[body["offset"] : body["offset"] + body["size_bytes"]]
        return {"data": base64.b64encode(data).decode(), "size_bytes": len(data), "offset": body["offset"]}

    manifest = made.manifest_file
    service.answers["assets.read_artifact"] = part
    service.answers["assets.get_tape"] = lambda body: {
        "id": "t1", "name": body["name"], "content_sha256": made.content_sha256,
        "manifest": {"name": "manifest.json", "sha256": manifest.sha256, "size_bytes": manifest.size},
    }  # fmt: skip
    return made


def test_a_tape_is_read_and_verified(client: Client, tape: PreparedTape, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tape", "verify", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == tape.rows
    assert tapes.open_adapter("demo").get_minute_bars(tape.days[0]).shape == (390, 9)


def test_a_file_with_one_flipped_bit_is_corrupt(client: Client, tape: PreparedTape) -> None:
    opened = tapes.open_tape("demo")
    digest = tape.manifest["days"][1]["artifact"]["sha256"]
    tape.files[1].path.write_bytes(
        bytes([tape.files[1].path.read_bytes()[0] ^ 1]) + tape.files[1].path.read_bytes()[1:]
    )
    with pytest.raises(Exception, match="digest"):
        opened.path_of(digest)
    assert run(["tape", "verify", "demo"]) == CODES["corrupt"].exit


def test_first_trades_and_bars_are_shown_written_and_drawn(
    client: Client, tape: PreparedTape, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day = tape.days[0]
    assert run(["tape", "head", "demo", day, "--rows", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert run(["tape", "bars", "demo", day, "--unit", "hour"]) == 0
    assert len(capsys.readouterr().out.splitlines()) in (7, 8)
    pytest.importorskip("matplotlib")
    csv, png = tmp_path / "bars.csv", tmp_path / "bars.png"
    assert run(["tape", "bars", "demo", day, "--size", "5", "--csv", str(csv), "--plot", str(png)]) == 0
    assert len(csv.read_text().splitlines()) == 79
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
