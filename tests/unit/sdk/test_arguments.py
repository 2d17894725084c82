"""Faults of arguments are told before anything is sent: no client is there in these tests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tapeline import sdk as tl
from tapeline.sdk import client as client_module


class Silent:
    """A client that must not be asked."""

    team = "contoso"

    def query(self, service: str, verb: str, **fields: Any) -> Any:
        raise AssertionError(f"{service}.{verb} was asked")

    command = query


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    client_module.use(Silent())  # type: ignore[arg-type]
    yield
    client_module.use(None)


@pytest.mark.parametrize("limit", [-1, 1.5, "3", True])
def test_a_limit_is_a_count(limit: Any) -> None:
    with pytest.raises(ValueError, match="limit must be an int of at least 0"):
        tl.get_runs(limit=limit)


def test_a_limit_of_none_asks_for_nothing() -> None:
    assert tl.get_runs(limit=0) == []
    assert tl.get_checkpoints(limit=0) == []


@pytest.mark.parametrize(
    "name", ["ids", "statuses", "name_ilikes", "project_ids", "versions", "user_ids", "task_types"]
)
def test_an_empty_filter_matches_nothing_and_asks_for_nothing(name: str) -> None:
    assert tl.get_runs(**{name: []}) == []


def test_an_unknown_status_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'job_runing' is not one of .*did you mean 'job_running'"):
        tl.get_runs(statuses=["job_runing"])  # type: ignore[list-item]


@pytest.mark.parametrize("sort", [["created:asc"], "name", ["id:asc", "id:desc"]])
def test_a_bad_sort_is_refused(sort: Any) -> None:
    with pytest.raises(ValueError, match="sort"):
        tl.get_runs(sort=sort)


def test_an_empty_select_is_refused() -> None:
    with pytest.raises(ValueError, match="select is empty"):
        tl.get_runs(select=[])


@pytest.mark.parametrize("pattern", ["a\\", "a\\\\\\", "x" * 1025])
def test_a_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        tl.get_runs(name_ilikes=[pattern])


def test_a_string_is_no_list() -> None:
    with pytest.raises(TypeError, match="ids must be a list"):
        tl.get_runs(ids="abc")  # type: ignore[arg-type]


@pytest.mark.parametrize("grace", [timedelta(0), timedelta(milliseconds=999), timedelta(hours=25)])
def test_a_grace_period_has_limits(grace: timedelta) -> None:
    with pytest.raises(ValueError, match="grace_period"):
        tl.Run(id="r").stop(grace)


def test_a_run_without_an_id_can_do_nothing() -> None:
    for call in (tl.Run().stop, tl.Run().reload, tl.Run().get_events, tl.Run().delete, tl.Run().latest):
        with pytest.raises(ValueError, match="id is not set on this run"):
            call()


@pytest.mark.parametrize("fields", [[], ["name"]])
def test_only_what_changes_is_reloaded(fields: list[str]) -> None:
    with pytest.raises(ValueError, match="field"):
        tl.Run(id="r").reload(fields)


def test_deleting_checkpoints_needs_a_filter() -> None:
    for given in ({}, {"ids": []}, {"ids": [], "run_ids": None}):
        with pytest.raises(ValueError, match="ids or run_ids"):
            tl.delete_checkpoints(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "01.0.0", "", "1.0.0\n"])
def test_a_model_version_is_semver(version: str) -> None:
    with pytest.raises(tl.ValidationError, match="SemVer"):
        tl.create_model_from_checkpoint(checkpoint_id="c", name="m", version=version, summary="")


def test_a_download_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tl.download_checkpoint("c", str(tmp_path / "none"))
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(NotADirectoryError):
        tl.download_checkpoint("c", str(file))


def test_a_config_is_plain_json() -> None:
    for config in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(tl.ValidationError, match="plain JSON"):
            tl.validate_run_config(blueprint_id="b", config=config)
    with pytest.raises(tl.ValidationError, match="512 KiB"):
        tl.validate_run_config(blueprint_id="b", config={"x": "y" * 600_000})


def test_a_blueprint_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name is missing"):
        tl.lookup_blueprint_id("")


@pytest.mark.parametrize(
    ("name", "id"), [("Default", "default"), ("My  Project!", "my-project"), ("a_b-c", "a_b-c"), ("  x ", "x")]
)
def test_a_project_name_becomes_its_id(name: str, id: str) -> None:
    assert tl.get_project_id(name) == id


@pytest.mark.parametrize("name", ["", "!!", "_x", "x" * 64])
def test_what_cannot_be_a_project_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a project"):
        tl.get_project_id(name)


def test_naive_times_are_utc() -> None:
    run = tl.Run(created_at=datetime(2026, 1, 1))
    assert run.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    run.status_updated_at = datetime(2026, 1, 2)
    assert run.status_updated_at == datetime(2026, 1, 2, tzinfo=UTC)


def test_a_canvas_is_opened_by_name_or_by_path() -> None:
    for given in ({}, {"name": "demo", "path": "demo.json"}):
        with pytest.raises(tl.LitModelError) as refused:
            tl.Canvas("contoso", **given)
        assert isinstance(refused.value.__cause__, ValueError)


def test_experiments_with_meta_ask_for_nothing() -> None:
    assert tl.Experiment("contoso", 73, {"is_running": True}).is_running
    assert not tl.Experiment("contoso", 73, {}).is_running
