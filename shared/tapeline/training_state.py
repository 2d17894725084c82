"""The state of a training: taken to host memory, written to a checkpoint's folder, and put back exactly.

`state.npz` holds `w/<variable path>` (weights), `o/<i>` (optimizer), `s/<layer>/<i>` (seed generators) and
`m/<i>` (running means of metrics), `b/<variable path>` the best weights where smartfit keeps them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.errors import TapelineError

Arrays = dict[str, NDArray[Any]]


def _variables(model: Any) -> Iterator[tuple[str, Any]]:
    """Every variable of a compiled model by the name of its array, in a fixed order."""
    for variable in model.weights:
        yield f"w/{variable.path}", variable
    for i, variable in enumerate(model.optimizer.variables):
        yield f"o/{i:04d}", variable
    # Names of inner layers count up within a process; their place in the model does not change.
    for i, layer in enumerate(model._flatten_layers(include_self=False, recursive=True)):
        for j, generator in enumerate(getattr(layer, "_seed_generators", ())):
            yield f"s/{i:04d}/{j}", generator.state
    for i, variable in enumerate(model.metrics_variables):
        yield f"m/{i:04d}", variable


def weights_of(model: Any) -> Arrays:
    """A copy of the weights by path."""
    return {variable.path: np.array(variable.numpy()) for variable in model.weights}


def set_weights(model: Any, weights: Mapping[str, NDArray[Any]]) -> None:
    """Put back what `weights_of` gave."""
    for variable in model.weights:
        variable.assign(weights[variable.path])


def take(model: Any) -> Arrays:
    """A copy of the whole state in host memory."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    found: Arrays = {}
    for name, variable in _variables(model):
        if name in found:
            raise TapelineError(f"two variables are named {name}", code="internal")
        found[name] = np.array(variable.numpy())
    return found


def put_back(model: Any, arrays: Mapping[str, NDArray[Any]], *, with_metrics: bool) -> None:
    """Set every variable from a checkpoint; metrics last, and only within an epoch.

    Raises
    ------
    TapelineError
        `corrupt` when the checkpoint is of another model.
    """
    for name, variable in _variables(model):
        if name.startswith("m/") and not with_metrics:
            continue
        array = arrays.get(name)
        if array is None or tuple(array.shape) != tuple(variable.shape):
            raise TapelineError(
                f"the checkpoint has no {name} of shape {tuple(variable.shape)}",
                code="corrupt",
                hint="it belongs to another canvas; resume with the canvas that it was written by",
            )
        variable.assign(array)


def digest(arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> str:
    """The SHA-256 over names, types, shapes and bytes of the arrays whose names begin with a prefix."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        if name.startswith(prefix):
            array = np.ascontiguousarray(arrays[name])
            total.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
            total.update(array.tobytes())
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as it was read."""

    arrays: Arrays
    position: dict[str, Any]


def write(folder: Path, arrays: Arrays, position: Mapping[str, Any], canvas: Mapping[str, Any] | None = None) -> None:
    """Write the files of a checkpoint but the model for people."""
    with open(folder / "state.npz", "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    (folder / "position.json").write_text(json.dumps(position, indent=1, sort_keys=True))
    if canvas is not None:
        (folder / "canvas.json").write_text(json.dumps(canvas, sort_keys=True))


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint and compare its digest.

    Raises
    ------
    TapelineError
        `corrupt` when a file is missing or the arrays are not those that were written.
    """
    try:
        position = json.loads((folder / "position.json").read_bytes())
        with np.load(folder / "state.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError) as error:
        raise TapelineError(
            f"the checkpoint cannot be read: {error}", code="corrupt", hint="resume from an older checkpoint"
        ) from error
    if digest(arrays) != position.get("state_digest"):
        raise TapelineError(
            "the arrays of the checkpoint are not those that were written",
            code="corrupt",
            hint="resume from an older checkpoint",
        )
    return Checkpoint(arrays, position)
