"""Points of a whole instance archived and purged over its command line, by who may, and killed on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline import sdk as tl
from tapeline.cli.app import run as cli
from tapeline.errors import TapelineError
from tapeline.home import Home

from .conftest import running

COUNT = 5000


def measured() -> tl.Run:
    """A run that has ended, with two curves."""
    with tl.start("to be archived") as run:
        for step in range(COUNT):
            run.log({"loss": 1 / (step + 1), "n": step}, step)
    return tl.Run.from_id(str(run.id))


def read(run: tl.Run) -> list[Any]:
    """Every point of both curves, and what is drawn of them."""
    found: list[Any] = []
    for tag in ("loss", "n"):
        points = run.get_columns(tag)
        assert len(points) == COUNT
        found += [points.steps.tolist(), points.times.tolist(), points.values.tolist()]
        found.append(np.asarray(run.get_series(tag, points=200).values).tolist())
    return found


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """How a verb ends, and the JSON that it prints."""
    capsys.readouterr()
    code = cli([*words, "--json"])
    text = capsys.readouterr().out
    return code, json.loads(text) if text else None


def test_an_admin_archives_and_purges_and_every_point_is_read_as_before(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    run = measured()
    before, id = read(run), str(run.id)
    assert told(capsys, "metrics", "purge", id, "--yes")[0] == 4
    code, view = told(capsys, "metrics", "archive", str(run.number))
    assert (code, view["points"], view["purged"]) == (0, 2 * COUNT, False)
    # Whoever has no key of the admin purges nothing.
    admin = home.credential("admin")
    admin.rename(home.root / "kept")
    assert told(capsys, "metrics", "purge", id, "--yes")[0] == 6
    (home.root / "kept").rename(admin)
    code, (tried,) = told(capsys, "metrics", "purge", f"main/run/{id}", "--dry-run")
    assert (code, tried["is_done"], tried["messages"] > 0) == (0, False, True)
    code, (done,) = told(capsys, "metrics", "purge", str(run.number), "--yes")
    assert (code, done["is_done"], done["messages"]) == (0, True, tried["messages"])
    assert read(run) == before
    code, checked = told(capsys, "log", "verify", "--metrics")
    assert (code, checked["ok"], checked["archives"], checked["batches"]) == (0, True, 1, 0)
    shown = told(capsys, "metrics", "show", id)[1]
    assert shown["purged"]
    assert told(capsys, "metrics", "ls")[1] == [shown]
    assert cli(["rebuild", "run_metrics"]) == 0
    assert read(run) == before
    assert told(capsys, "metrics", "purge", "nobody", "--yes")[0] == 3
    assert told(capsys, "metrics", "purge", f"main/asset/{id}", "--yes")[0] == 7


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as context:
        yield context


@pytest.mark.long
@pytest.mark.parametrize("point", ["archive.packed", "archive.stored", "archive.noted", "archive.marked"])
def test_services_that_are_killed_while_they_archive_leave_every_point(
    tmp_path: Path, calm: pytest.MonkeyPatch, point: str
) -> None:
    root = tmp_path / "home"
    with running(root, calm):
        run = measured()
        before, id = read(run), str(run.id)
    calm.setenv("TL_FAIL", f"{point}:1")
    with running(root, calm), suppress(TapelineError):
        client = tl.connect()
        # Each time that it is asked, the process that serves it dies there.
        client.command_within(15, "runs", "archive_metrics", run=id)
    calm.delenv("TL_FAIL")
    with running(root, calm):
        assert read(tl.Run.from_id(id)) == before
        view = tl.connect().command_within(60, "runs", "archive_metrics", run=id).view
        assert (view["points"], view["later_points"]) == (2 * COUNT, 0)
        assert read(tl.Run.from_id(id)) == before
        types = [event.details["type"] for event in tl.Run.from_id(id).get_events(limit=1000)]
        assert types.count("MetricsArchived") == 1
