"""The SDK has every name, argument and default that the seed pages name, in their order."""

from __future__ import annotations

import inspect
import types
from typing import Any, get_args

import pytest

from tapeline import sdk as tl
from tapeline.errors import LitModelError, LITModelException
from tapeline.sdk import runs

REQUIRED = inspect.Parameter.empty
CHECKPOINT_FILTERS = dict.fromkeys(
    [
        "ids",
        "project_ids",
        "global_steps",
        "statuses",
        "created_before",
        "created_after",
        "select",
        "sort",
        "limit",
        "offset",
    ]
)

KEYWORD: dict[Any, dict[str, Any]] = {
    tl.create_run: {
        "name": REQUIRED, "version": REQUIRED, "resources": REQUIRED, "config": REQUIRED, "task_type": REQUIRED,
        "blueprint_id": REQUIRED, "project_id": REQUIRED, "notes": None,
    },
    tl.get_runs: dict.fromkeys([
        "blueprint_ids", "created_after", "created_before", "ids", "id_after", "limit", "offset", "name_ilikes",
        "project_ids", "select", "sort", "statuses", "task_types", "versions", "user_ids",
    ]),
    tl.validate_run_config: {"blueprint_id": REQUIRED, "config": REQUIRED},
    tl.get_checkpoints: {"ids": None, "run_ids": None, **CHECKPOINT_FILTERS},
    tl.Run.get_checkpoints: CHECKPOINT_FILTERS,
    tl.delete_checkpoints: {"ids": None, "run_ids": None},
    tl.create_model_from_checkpoint: {
        "checkpoint_id": REQUIRED, "name": REQUIRED, "version": REQUIRED, "summary": REQUIRED, "project_id": None,
    },
    tl.Checkpoint.create_model: {"name": REQUIRED, "version": REQUIRED, "summary": REQUIRED, "project_id": None},
    tl.Run: dict.fromkeys([
        "id", "name", "version", "created_at", "blueprint_id", "project_id", "user_id", "progress",
        "progress_updated_at", "status", "status_updated_at", "task_type", "resources", "config", "notes",
    ]),
    tl.Checkpoint: dict.fromkeys([
        "id", "run_id", "global_step", "project_id", "created_at", "status", "status_updated_at", "bucket_name",
        "key_prefix",
    ]),
    tl.Event: dict.fromkeys(["id", "sequence", "run_id", "created_at", "status", "details"], REQUIRED),
    tl.Gpu: {"count": REQUIRED, "type": REQUIRED},
    tl.Metric: {
        "id": REQUIRED, "created_at": REQUIRED, "run_id": REQUIRED, "global_step": REQUIRED, "tag": REQUIRED,
        "value": REQUIRED, "job_id": None,
    },
    tl.Progress: dict.fromkeys(["operation", "value", "final_value", "units"], REQUIRED),
    tl.Resources: {"cpu": REQUIRED, "memory": REQUIRED, "ephemeral_storage": None, "gpu": None},
}  # fmt: skip

POSITIONAL: dict[Any, dict[str, Any]] = {
    tl.lookup_blueprint_id: {"name": REQUIRED, "version_ilike": None},
    tl.download_checkpoint: {"id": REQUIRED, "file_dir": REQUIRED},
    tl.Run.from_id: {"id": REQUIRED},
    tl.Run.delete: {},
    tl.Run.stop: {"grace_period": None},
    tl.Run.reload: {"fields": None},
    tl.Run.get_all_metrics: {},
    tl.Run.get_global_steps_with_checkpoints: {},
    tl.Run.get_events: {"limit": None, "offset": None, "sort": None},
    tl.Run.get_metrics: {"global_steps": None, "tags": None, "limit": 1000, "created_before": None},
    tl.Experiment: {"team": REQUIRED, "runid": REQUIRED, "meta": None},
    tl.get_experiments: {"team": REQUIRED},
    tl.lit_error_handler: {"error_type": tl.LitError},
    tl.Asset: {"team": REQUIRED, "name": REQUIRED},
    tl.Canvas: {"team": REQUIRED, "name": None, "path": None},
    tl.Canvas.duplicate: {},
    tl.Canvas.remove: {},
    tl.Canvas.get_available_components: {},
    tl.Canvas.train: {"device": REQUIRED, "session_name": None, "temp_canvas": False},
    tl.Canvas.transpile: {},
    tl.VaultItem: {"team": REQUIRED, "name": REQUIRED},
    tl.VaultItem.load_model: {},
    tl.VaultItem.get_data_from_path: {"path": REQUIRED, "start": None, "stop": None},
    tl.VaultItem.zeros: {},
    tl.VaultItem.rename: {"new_name": REQUIRED},
    tl.get_vault_items: {"team": REQUIRED},
    tl.import_model: {"team": REQUIRED, "path": REQUIRED, "features": [], "name": None},
    tl.get_project_id: {"name": REQUIRED},
    tl.ApiException: {"status": None, "reason": None, "http_resp": None, "body": None, "data": None},
    tl.BlueprintDoesNotExistError: {"id": None, "name": None, "version_ilike": None},
}


def _parameters(subject: Any) -> dict[str, inspect.Parameter]:
    found = inspect.signature(subject).parameters
    return {name: each for name, each in found.items() if name != "self"}


@pytest.mark.parametrize("subject", KEYWORD, ids=lambda subject: subject.__qualname__)
def test_keyword_arguments_are_those_of_the_page(subject: Any) -> None:
    wanted, found = KEYWORD[subject], _parameters(subject)
    assert list(found)[: len(wanted)] == list(wanted)
    assert {name: found[name].default for name in wanted} == wanted
    assert all(found[name].kind is inspect.Parameter.KEYWORD_ONLY for name in wanted)
    assert all(each.default is not REQUIRED for name, each in found.items() if name not in wanted)


@pytest.mark.parametrize("subject", POSITIONAL, ids=lambda subject: subject.__qualname__)
def test_positional_arguments_are_those_of_the_page(subject: Any) -> None:
    wanted, found = POSITIONAL[subject], _parameters(subject)
    assert list(found)[: len(wanted)] == list(wanted)
    assert {name: found[name].default for name in wanted} == wanted
    assert all(each.default is not REQUIRED for name, each in found.items() if name not in wanted)


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (tl.Canvas, ["inputs", "outputs"]),
        (tl.Asset, ["files", "datasets", "path", "certificate", "status"]),
        (tl.VaultItem, ["details", "canvas"]),
        (tl.Experiment, ["is_running", "meta"]),
    ],
)
def test_properties_are_properties(owner: type, names: list[str]) -> None:
    assert all(isinstance(inspect.getattr_static(owner, name), property) for name in names)


def test_the_statuses_and_columns_are_those_of_the_page() -> None:
    assert len(get_args(runs.Status)) == 14
    assert len(get_args(runs.Select)) == 15
    assert set(runs.STATUSES) == set(get_args(runs.Status))


def test_from_id_is_static() -> None:
    assert isinstance(inspect.getattr_static(tl.Run, "from_id"), staticmethod)


def test_the_data_classes_are_configured_as_on_the_page() -> None:
    for each in (tl.Run, tl.Checkpoint, tl.Event, tl.Gpu, tl.Metric, tl.Progress, tl.Resources):
        assert each.model_config == {"protected_namespaces": (), "validate_assignment": True}


def test_both_spellings_of_an_error_are_one_class() -> None:
    assert tl.APIException is tl.ApiException
    assert tl.LITModelException is LITModelException is LitModelError


def test_every_name_that_is_listed_is_there() -> None:
    for name in tl.__all__:
        assert isinstance(getattr(tl, name), type | types.FunctionType | types.ModuleType)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tl.nothing
