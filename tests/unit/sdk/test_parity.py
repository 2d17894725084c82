"""The SDK has every name, argument, default, filter, sort, status and error that the seed pages name, in their order.

The tables below are the checklist, taken from the pages by hand: what a page names and the SDK lacks fails here.
"""

from __future__ import annotations

import inspect
import types
from typing import Any, get_args

import pytest

from tapeline import sdk as tl
from tapeline.errors import CODES, LitModelError, LITModelException
from tapeline.sdk import checkpoints, models, runs

REQUIRED = inspect.Parameter.empty


def none(*names: str) -> dict[str, Any]:
    """Arguments whose default is None."""
    return dict.fromkeys(names)


def needed(*names: str) -> dict[str, Any]:
    """Arguments without a default."""
    return dict.fromkeys(names, REQUIRED)


CHECKPOINT_FILTERS = none(
    "ids", "project_ids", "global_steps", "statuses", "created_before", "created_after", "select", "sort", "limit",
    "offset",
)  # fmt: skip
RUN_FILTERS = none(
    "blueprint_ids", "created_after", "created_before", "ids", "id_after", "name_ilikes", "project_ids", "statuses",
    "task_types", "versions", "user_ids",
)  # fmt: skip
RUN_FIELDS = none(
    "id", "name", "version", "created_at", "blueprint_id", "project_id", "user_id", "progress", "progress_updated_at",
    "status", "status_updated_at", "task_type", "resources", "config", "notes",
)  # fmt: skip
PROMOTED = needed("name", "version", "summary") | none("project_id")
RESTARTED = none("device", "smartfit", "epochs")

KEYWORD: dict[str, dict[str, Any]] = {
    "start": {"project": "default", "config": None, "notes": None, "resume": None},
    "Run.log": none("phase"),
    # training runs, blueprints, checkpoints
    "create_run": needed("name", "version", "resources", "config", "task_type", "blueprint_id", "project_id")
    | none("notes"),
    "get_runs": none(
        "blueprint_ids", "created_after", "created_before", "ids", "id_after", "limit", "offset", "name_ilikes",
        "project_ids", "select", "sort", "statuses", "task_types", "versions", "user_ids",
    ),
    "count_runs": RUN_FILTERS,
    "validate_run_config": needed("blueprint_id", "config"),
    "register_blueprint": needed("name", "version", "schema", "entrypoint"),
    "get_checkpoints": none("ids", "run_ids") | dict.fromkeys(CHECKPOINT_FILTERS),
    "Run.get_checkpoints": CHECKPOINT_FILTERS,
    "delete_checkpoints": none("ids", "run_ids"),
    "create_model_from_checkpoint": needed("checkpoint_id") | PROMOTED,
    "Checkpoint.create_model": PROMOTED,
    "Checkpoint": none(
        "id", "run_id", "global_step", "project_id", "created_at", "status", "status_updated_at", "bucket_name",
        "key_prefix",
    ),
    "Event": needed("id", "sequence", "run_id", "created_at", "status", "details"),
    "Gpu": needed("count", "type"),
    "Metric": needed("id", "created_at", "run_id", "global_step", "tag", "value") | none("job_id"),
    "Progress": needed("operation", "value", "final_value", "units"),
    "Resources": needed("cpu", "memory") | none("ephemeral_storage", "gpu"),
    "Run.restart": none("from_checkpoint") | RESTARTED,
    "Run.resume": {"from_checkpoint": "latest"} | RESTARTED,
}  # fmt: skip

POSITIONAL: dict[str, dict[str, Any]] = {
    # training runs, blueprints, checkpoints
    "lookup_blueprint_id": needed("name") | none("version_ilike"),
    "download_checkpoint": needed("id", "file_dir"),
    "Run.from_id": needed("id"),
    "Run.delete": {},
    "Run.stop": none("grace_period"),
    "Run.pause": none("grace_period"),
    "Run.reload": none("fields"),
    "Run.get_all_metrics": {},
    "Run.get_global_steps_with_checkpoints": {},
    "Run.get_events": none("limit", "offset", "sort"),
    "Run.get_metrics": none("global_steps", "tags") | {"limit": 1000} | none("created_before"),
    "Run.watch": {"since": 0},
    "Run.wait": none("timeout"),
    "Run.at": needed("sequence"),
    "Run.history": {},
    "Run.fork": {"from_checkpoint": "latest"},
    "Run.latest": {},
    "Run.log": needed("values", "step"),
    "Run.flush": {"timeout": 10.0},
    "Run.get_series": needed("tag") | {"points": 1000, "x": "step", "start": None, "stop": None, "attempt": None},
    "start": needed("name"),
    "interop.export_tensorboard": needed("run", "folder"),
    "interop.import_tensorboard": needed("folder") | {"name": None, "project": "default"},
    "Run.to_frame": {"kind": "metrics"},
    "to_frame": needed("items"),
    "get_project_id": needed("name"),
    "get_available_system_gpus": {},
    # a run with tables
    "Run": none(
        "url", "created", "last_modified", "description", "metrics", "constants", "status", "init_parameters",
    ),
    "Run.copy": none("run_name", "project_name", "root_url") | {"if_exists": "raise"},
    "Run.add_input_table": needed("input_table"),
    "Run.add_input_value": needed("input_value"),
    "Run.add_output_value": needed("output_value"),
    "Run.set_parameters": needed("parameters"),
    "Run.set_description": needed("description"),
    "Run.from_url": needed("url"),
    "Run.from_names": none("run_name", "project_name", "root_url"),
    "Run.reduce_embeddings_by_foreign_table_url": needed("foreign_table_url") | {"delete_source_tables": True},
    "Run.reduce_embeddings_per_dataset": {"delete_source_tables": True},
    "Run.update_metrics": {"metric_infos": []},
    "Run.add_metrics_table": needed("metrics_table"),
    "Run.add_metrics": needed("metrics")
    | none("column_schemas", "foreign_table_url")
    | {"foreign_table_display_name": ""},
    "Run.add_metrics_data": needed("metrics")
    | {"override_column_schemas": {}, "input_table_url": None, "table_writer_base_name": "metrics", "stream_name": ""},
    "reduce_embeddings_by_foreign_table_url": needed("tables", "foreign_table_url") | {"delete_source_tables": True},
    "reduce_embeddings_per_dataset": needed("tables") | {"delete_source_tables": True},
    "Table.from_url": needed("url"),
    "Table.rows": {"start": 0, "stop": None},
    "Table.to_frame": {},
    "Table.join": {},
    # experiments
    "Experiment": needed("team", "runid") | none("meta"),
    "Experiment.start": needed("team", "canvas", "device") | none("session_name"),
    "Experiment.stop": {},
    "Experiment.resume": needed("device") | {"smartfit": False, "session_name": None},
    "get_experiments": needed("team"),
    "lit_error_handler": {"error_type": tl.LitError},
    # models
    "get_models": needed("experiment"),
    "getExperiment": needed("name"),
    "getallExperiments": {},
    "Models.create": needed("hash") | none("name", "description"),
    "Models.read": needed("hash"),
    "Models.update": needed("hash", "name"),
    "Models.delete": needed("id"),
    "Models.list": {},
    "Models.clear": {},
    "Iterations.create": needed("step"),
    "Iterations.get": needed("step"),
    "Iterations.list": {},
    "Iterations.remove": needed("iteration"),
    "Iterations.clear": {},
    "Metrics.log": needed("name", "value") | none("step", "phase"),
    "Metrics.add": needed("name", "value") | none("step", "phase"),
    "Metrics.list": none("name"),
    "Metrics.remove": needed("metric"),
    "Metrics.clear": {},
    "Modules.log": needed("name") | none("attributes"),
    "Modules.add": needed("name") | none("attributes"),
    "Modules.list": {},
    "Modules.remove": needed("module"),
    "Modules.clear": {},
    # assets, canvases, the vault
    "Asset": needed("team", "name"),
    "Asset.__len__": {},
    "Canvas": needed("team") | none("name", "path"),
    "Canvas.duplicate": {},
    "Canvas.remove": {},
    "Canvas.get_available_components": {},
    "Canvas.train": needed("device") | {"session_name": None, "temp_canvas": False},
    "Canvas.transpile": {},
    "VaultItem": needed("team", "name"),
    "VaultItem.load_model": {},
    "VaultItem.get_assets": {},
    "VaultItem.get_data_from_path": needed("path") | none("start", "stop") | {"step": 1},
    "VaultItem.zeros": {},
    "VaultItem.rename": needed("new_name"),
    "get_vault_items": needed("team"),
    "import_model": needed("team", "path") | {"features": [], "name": None},
    "BaseAdapter.get_bar_daterange": needed("date") | {"unit": "tick", "size": 1, "future": False},
    "BaseAdapter.get_bars": {
        "index": None, "count": 1, "unit": "tick", "size": 1, "future": False, "prevent_lookahead_bias": True,
    },
    "BaseAdapter.get_date": needed("date"),
    "BaseAdapter.get_max_values": {},
    "BaseAdapter.get_minute_bars": needed("date") | {"size": 1, "future": False},
    # errors and connections
    "ApiException": none("status", "reason", "http_resp", "body", "data"),
    "BlueprintDoesNotExistError": none("id", "name", "version_ilike"),
    "connect": {"url": None, "team": None, "creds": None, "profile": None, "start": False, "timeout": 10.0},
    "at": needed("when"),
}  # fmt: skip

PROPERTIES: dict[str, list[str]] = {
    "Run": [
        "url", "bulk_data_url", "created", "last_modified", "description", "metrics", "metrics_tables", "constants",
        "inputs", "outputs", "parameters", "web_url",
    ],
    "Table": ["url", "name", "columns", "schema"],
    "Canvas": ["inputs", "outputs"],
    "Asset": ["files", "datasets", "path", "certificate", "status"],
    "VaultItem": ["details", "canvas"],
    "Experiment": ["is_running", "meta", "run"],
    "Client": ["position", "team"],
}  # fmt: skip
STATIC = ("Run.from_id", "Run.from_url", "Run.from_names", "Table.from_url", "Experiment.start")
ANNOTATED = {
    "Experiment": ["team", "runid"], "VaultItem": ["team", "name"], "Asset": ["team", "name"],
    "SystemGpu": ["type", "total", "free", "memory", "agents"], "Run": ["number", *RUN_FIELDS],
    "MetricTableInfo": ["url", "file_size", "stream_name", "row_count"],
    "ModelMetric": ["id", "name", "value", "step", "phase"], "Module": ["id", "name", "attributes"],
}  # fmt: skip
MODEL_ATTRIBUTES = ("id", "hash", "name", "description", "step", "iterations", "metrics", "modules")
STATUSES = (
    "run_created", "run_stop_requested", "run_restart_requested", "job_create_failed", "job_created", "job_submitted",
    "job_pending", "job_running", "job_terminate_requested", "job_terminating", "job_terminated", "job_failed",
    "job_completed", "job_unknown",
)  # fmt: skip
SELECTS = (
    "*", "id", "project_id", "user_id", "created_at", "name", "version", "blueprint_id", "task_type", "config",
    "resources", "progress", "progress_updated_at", "status", "status_updated_at",
)  # fmt: skip
CHECKPOINT_SELECTS = ("id", "created_at", "run_id", "project_id", "global_step", "status", "status_updated_at")
SORTS = ("id:asc", "id:desc", "created_at:asc", "created_at:desc")
RELOADED = ("status", "status_updated_at", "progress", "progress_updated_at", "notes")
PARENTS: dict[str, tuple[Any, ...]] = {
    "OpenApiException": (tl.TapelineError,),
    "ApiException": (tl.OpenApiException,),
    "ValidationError": (tl.ApiException, ValueError),
    "PermissionDeniedError": (tl.ApiException,),
    "ConflictError": (tl.ApiException,),
    "NotFoundError": (tl.ApiException, LookupError),
    "UnavailableError": (tl.ApiException, ConnectionError),
    "OutcomeUnknown": (tl.ApiException,),
    "RunDoesNotExistError": (tl.NotFoundError,),
    "BlueprintDoesNotExistError": (tl.NotFoundError,),
    "TableDoesNotExistError": (tl.NotFoundError, FileNotFoundError),
    "AlreadyExistsError": (tl.ConflictError, ValueError, FileExistsError),
    "LitError": (tl.TapelineError,),
    "LitModelError": (tl.LitError,),
    "LitVaultError": (tl.LitError,),
}
CODES_OF_THE_PAGE = {
    "invalid": 422, "unauthenticated": 401, "permission_denied": 403, "forbidden": 403, "not_found": 404,
    "conflict": 409, "already_exists": 409, "fenced": 409, "behind": 409, "too_large": 413, "version_mismatch": 426,
    "rate_limited": 429, "internal": 500, "unavailable": 503, "insufficient_storage": 507, "timeout": 504,
}  # fmt: skip


def found(path: str) -> Any:
    """What a dotted name of the SDK stands for."""
    at: Any = tl
    for name in path.split("."):
        at = getattr(at, name)
    return at


def _parameters(path: str) -> dict[str, inspect.Parameter]:
    return {name: each for name, each in inspect.signature(found(path)).parameters.items() if name != "self"}


@pytest.mark.parametrize("path", KEYWORD)
def test_keyword_arguments_are_those_of_the_page(path: str) -> None:
    wanted, there = KEYWORD[path], _parameters(path)
    assert [name for name in there if name in wanted] == list(wanted)
    assert {name: there[name].default for name in wanted} == wanted
    assert all(there[name].kind is inspect.Parameter.KEYWORD_ONLY for name in wanted)
    others = set(there) - set(wanted) - set(POSITIONAL.get(path, {}))
    assert all(there[name].default is not REQUIRED for name in others)


@pytest.mark.parametrize("path", POSITIONAL)
def test_positional_arguments_are_those_of_the_page(path: str) -> None:
    wanted, there = POSITIONAL[path], _parameters(path)
    assert list(there)[: len(wanted)] == list(wanted)
    assert {name: there[name].default for name in wanted} == wanted
    more = [each for name, each in there.items() if name not in wanted]
    assert all(each.default is not REQUIRED or each.kind is inspect.Parameter.VAR_KEYWORD for each in more)


def test_what_changes_something_takes_a_command_id() -> None:
    for path in (
        "create_run", "register_blueprint", "delete_checkpoints", "Run.stop", "Run.restart", "Run.pause", "Run.resume",
        "Run.delete", "Run.fork", "Run.copy", "Run.add_input_table", "Run.add_input_value", "Run.add_output_value",
        "Run.set_parameters", "Run.set_description", "Run.update_metrics", "Run.add_metrics_table", "Run.add_metrics",
        "Run.add_metrics_data", "VaultItem.rename",
    ):  # fmt: skip
        assert _parameters(path)["command_id"].default is None, path


def test_a_run_has_the_fields_of_the_page_as_keywords() -> None:
    there = _parameters("Run")
    assert {name: there[name].default for name in RUN_FIELDS} == RUN_FIELDS
    assert all(there[name].kind is inspect.Parameter.KEYWORD_ONLY for name in RUN_FIELDS if name != "status")


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in PROPERTIES.items() for name in names])
def test_properties_are_properties(owner: str, name: str) -> None:
    assert isinstance(inspect.getattr_static(found(owner), name), property)


@pytest.mark.parametrize("path", STATIC)
def test_what_needs_no_object_is_static(path: str) -> None:
    owner, name = path.split(".")
    assert isinstance(inspect.getattr_static(found(owner), name), staticmethod)


@pytest.mark.parametrize("owner", ANNOTATED)
def test_attributes_are_there(owner: str) -> None:
    there = {name for each in found(owner).__mro__ for name in getattr(each, "__annotations__", {})}
    there |= set(dir(found(owner)))
    assert set(ANNOTATED[owner]) <= there


def test_a_model_is_a_protocol_that_has_what_the_page_names() -> None:
    assert getattr(models.Model, "_is_protocol", False)
    assert set(MODEL_ATTRIBUTES) <= {*dir(models.Model), *getattr(models.Model, "__annotations__", {})}
    assert inspect.isabstract(models.Models)


def test_the_words_that_lists_take_are_those_of_the_page() -> None:
    assert get_args(runs.Status) == STATUSES == runs.STATUSES
    assert get_args(runs.Select) == SELECTS
    assert set(runs.SELECTS) == {*SELECTS, "notes", "number"}
    assert get_args(checkpoints.Select) == CHECKPOINT_SELECTS
    assert get_args(runs.Sort) == get_args(checkpoints.Sort) == SORTS
    assert runs.RELOADED == RELOADED


def test_the_data_classes_are_configured_as_on_the_page() -> None:
    for each in (tl.Run, tl.Checkpoint, tl.Event, tl.Gpu, tl.Metric, tl.Progress, tl.Resources):
        assert each.model_config == {"protected_namespaces": (), "validate_assignment": True}


@pytest.mark.parametrize("name", PARENTS)
def test_errors_are_a_tree(name: str) -> None:
    assert all(issubclass(found(name), parent) for parent in PARENTS[name])


def test_both_spellings_of_an_error_are_one_class() -> None:
    assert tl.APIException is tl.ApiException
    assert tl.LITModelException is LITModelException is LitModelError


def test_codes_have_the_status_of_the_page() -> None:
    assert {code: CODES[code].status for code in CODES_OF_THE_PAGE} == CODES_OF_THE_PAGE


def test_every_name_that_is_listed_is_there() -> None:
    for name in tl.__all__:
        assert isinstance(getattr(tl, name), type | types.FunctionType | types.ModuleType)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tl.nothing


def test_the_async_twin_has_every_name_with_the_same_arguments() -> None:
    assert set(tl.aio.__all__) == set(tl.__all__) - {"aio"}
    for name in tl.aio.__all__:
        here, there = getattr(tl, name), getattr(tl.aio, name)
        if inspect.isfunction(here):
            assert inspect.signature(here) == inspect.signature(there), name
    for path in (*KEYWORD, *POSITIONAL):
        if "." not in path or path.startswith(("BaseAdapter", "interop")):
            continue
        owner, member = path.split(".")
        twin = getattr(getattr(tl.aio, owner), member)
        assert inspect.signature(twin) == inspect.signature(found(path)), path
        assert member.startswith("__") or inspect.iscoroutinefunction(twin) or inspect.isasyncgenfunction(twin), path
