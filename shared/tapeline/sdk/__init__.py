"""The SDK: `from tapeline import sdk as tl`.

Nothing is imported until it is touched, so that this takes no time; `tl.connect` is optional.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapeline.sdk import (
        assets,
        blueprints,
        canvases,
        checkpoints,
        client,
        errors,
        experiments,
        models,
        projects,
        runs,
        system_resources,
        tapes,
        vault,
    )
    from tapeline.sdk.assets import Asset, AssetFile, BaseAdapter, get_assets
    from tapeline.sdk.blueprints import Blueprint, get_blueprints, lookup_blueprint_id
    from tapeline.sdk.canvas_import import import_canvas
    from tapeline.sdk.canvases import Canvas, example_canvas, get_canvases
    from tapeline.sdk.checkpoints import (
        Checkpoint,
        create_model_from_checkpoint,
        delete_checkpoints,
        download_checkpoint,
        get_checkpoints,
    )
    from tapeline.sdk.client import Client, client_of, connect, current_client
    from tapeline.sdk.errors import (
        AlreadyExistsError,
        APIException,
        ApiException,
        BlueprintDoesNotExistError,
        ConflictError,
        LitError,
        LitModelError,
        LITModelException,
        LitVaultError,
        NotFoundError,
        OpenApiException,
        OutcomeUnknown,
        PermissionDeniedError,
        ReadOnly,
        RunDoesNotExistError,
        TapelineError,
        UnavailableError,
        ValidationError,
        lit_error_handler,
    )
    from tapeline.sdk.experiments import Experiment, get_experiments
    from tapeline.sdk.features import Feature, get_features, remove_feature, save_feature
    from tapeline.sdk.models import (
        Iteration,
        Iterations,
        Metrics,
        Model,
        ModelMetric,
        Models,
        Module,
        Modules,
        Namespace,
        Namespaces,
        get_models,
        get_namespaces,
        getallExperiments,
        getExperiment,
    )
    from tapeline.sdk.past import PastClient, at
    from tapeline.sdk.projects import get_project_id
    from tapeline.sdk.records import Event, Gpu, Metric, Progress, Resources
    from tapeline.sdk.runs import Run, create_run, get_runs, validate_run_config
    from tapeline.sdk.system_resources import Device, SystemGpu, get_available_system_gpus, get_devices
    from tapeline.sdk.tapes import Tape, get_tapes
    from tapeline.sdk.vault import VaultItem, add_vault_item, get_vault_items, import_model
    from tapeline.sdk.watching import LogEvent

_HOMES = {
    "Asset": "assets",
    "AssetFile": "assets",
    "BaseAdapter": "assets",
    "get_assets": "assets",
    "Feature": "features",
    "get_features": "features",
    "remove_feature": "features",
    "save_feature": "features",
    "Blueprint": "blueprints",
    "get_blueprints": "blueprints",
    "lookup_blueprint_id": "blueprints",
    "Canvas": "canvases",
    "example_canvas": "canvases",
    "import_canvas": "canvas_import",
    "get_canvases": "canvases",
    "Checkpoint": "checkpoints",
    "create_model_from_checkpoint": "checkpoints",
    "delete_checkpoints": "checkpoints",
    "download_checkpoint": "checkpoints",
    "get_checkpoints": "checkpoints",
    "Client": "client",
    "client_of": "client",
    "connect": "client",
    "current_client": "client",
    "LogEvent": "watching",
    "PastClient": "past",
    "at": "past",
    "ReadOnly": "errors",
    "APIException": "errors",
    "AlreadyExistsError": "errors",
    "ApiException": "errors",
    "BlueprintDoesNotExistError": "errors",
    "ConflictError": "errors",
    "LITModelException": "errors",
    "LitError": "errors",
    "LitModelError": "errors",
    "LitVaultError": "errors",
    "NotFoundError": "errors",
    "OpenApiException": "errors",
    "OutcomeUnknown": "errors",
    "PermissionDeniedError": "errors",
    "RunDoesNotExistError": "errors",
    "TapelineError": "errors",
    "UnavailableError": "errors",
    "ValidationError": "errors",
    "lit_error_handler": "errors",
    "Experiment": "experiments",
    "get_experiments": "experiments",
    "Iteration": "models",
    "Iterations": "models",
    "Metrics": "models",
    "Model": "models",
    "ModelMetric": "models",
    "Models": "models",
    "Module": "models",
    "Modules": "models",
    "Namespace": "models",
    "Namespaces": "models",
    "getExperiment": "models",
    "get_models": "models",
    "get_namespaces": "models",
    "getallExperiments": "models",
    "get_project_id": "projects",
    "Event": "records",
    "Gpu": "records",
    "Metric": "records",
    "Progress": "records",
    "Resources": "records",
    "Run": "runs",
    "create_run": "runs",
    "get_runs": "runs",
    "validate_run_config": "runs",
    "Device": "system_resources",
    "SystemGpu": "system_resources",
    "get_available_system_gpus": "system_resources",
    "get_devices": "system_resources",
    "Tape": "tapes",
    "get_tapes": "tapes",
    "VaultItem": "vault",
    "add_vault_item": "vault",
    "get_vault_items": "vault",
    "import_model": "vault",
}
"""Where each name lives."""
_MODULES = frozenset(
    {
        "assets",
        "blueprints",
        "canvases",
        "checkpoints",
        "client",
        "errors",
        "example_canvas",
        "experiments",
        "models",
        "projects",
        "runs",
        "system_resources",
        "tapes",
        "vault",
    }
)

__all__ = [
    "APIException",
    "AlreadyExistsError",
    "ApiException",
    "Asset",
    "AssetFile",
    "BaseAdapter",
    "Blueprint",
    "BlueprintDoesNotExistError",
    "Canvas",
    "Checkpoint",
    "Client",
    "ConflictError",
    "Device",
    "Event",
    "Experiment",
    "Feature",
    "Gpu",
    "Iteration",
    "Iterations",
    "LITModelException",
    "LitError",
    "LitModelError",
    "LitVaultError",
    "LogEvent",
    "Metric",
    "Metrics",
    "Model",
    "ModelMetric",
    "Models",
    "Module",
    "Modules",
    "Namespace",
    "Namespaces",
    "NotFoundError",
    "OpenApiException",
    "OutcomeUnknown",
    "PastClient",
    "PermissionDeniedError",
    "Progress",
    "ReadOnly",
    "Resources",
    "Run",
    "RunDoesNotExistError",
    "SystemGpu",
    "Tape",
    "TapelineError",
    "UnavailableError",
    "ValidationError",
    "VaultItem",
    "add_vault_item",
    "assets",
    "at",
    "blueprints",
    "canvases",
    "checkpoints",
    "client",
    "client_of",
    "connect",
    "create_model_from_checkpoint",
    "create_run",
    "current_client",
    "delete_checkpoints",
    "download_checkpoint",
    "errors",
    "example_canvas",
    "experiments",
    "getExperiment",
    "get_assets",
    "get_available_system_gpus",
    "get_blueprints",
    "get_canvases",
    "get_checkpoints",
    "get_devices",
    "get_experiments",
    "get_features",
    "get_models",
    "get_namespaces",
    "get_project_id",
    "get_runs",
    "get_tapes",
    "get_vault_items",
    "getallExperiments",
    "import_canvas",
    "import_model",
    "lit_error_handler",
    "lookup_blueprint_id",
    "models",
    "projects",
    "remove_feature",
    "runs",
    "save_feature",
    "system_resources",
    "tapes",
    "validate_run_config",
    "vault",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name not in _MODULES:
        raise AttributeError(f"module 'tapeline.sdk' has no attribute {name!r}")
    from tapeline.loading import swiftly

    with swiftly():
        found = import_module(f"tapeline.sdk.{_HOMES.get(name, name)}")
    if name in _HOMES:
        found = getattr(found, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
