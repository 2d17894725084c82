"""What the vault reads out of a model file after the scan has passed it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.errors import TapelineError

if TYPE_CHECKING:
    from tapeline.security.models import ModelScan


def checked(path: Path, name: str) -> ModelScan:
    """The scan of a model file that lies under its digest and is called `name`.

    Raises
    ------
    TapelineError
        `model_refused`, naming the layer or member.
    """
    from tapeline.security.models import scan

    return scan(path, name=name)


def readied(path: Path, folder: Path) -> tuple[Path, ModelScan]:
    """Our own `.keras` file of an upload, with its scan: loaded and saved again by a process of its own.

    What was uploaded is never kept: of a file that another wrote, the scan knows what it looks for, and a file that
    we wrote holds nothing else. What the scan refuses, or has no fixed shape, is refused before Keras is imported.

    Parameters
    ----------
    folder : Path
        Where the file is written.

    Raises
    ------
    TapelineError
        `model_refused`, naming the layer or member; `dependency_missing` where Keras is not there.
    """
    from tapeline.security import conversion
    from tapeline.security.models import HDF5_MAGIC

    with path.open("rb") as file:
        is_hdf5 = file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    name = "model.h5" if is_hdf5 else "model.keras"
    if not is_hdf5:
        input_shapes(path, checked(path, name))
    target = folder / "model.keras"
    return target, conversion.converted(path, target, name=name)


def input_shapes(path: Path, scanned: ModelScan) -> list[list[int]]:
    """The shape of one sample of each input of a scanned `.keras` file, in the order of its inputs.

    Raises
    ------
    TapelineError
        `model_refused` when an input has no fixed shape.
    """
    with zipfile.ZipFile(path) as archive, archive.open("config.json") as member:
        config = json.load(member)
    shapes: dict[str, list[int]] = {}
    for layer in config.get("config", {}).get("layers", []):
        inner = layer.get("config", {})
        shape = inner.get("batch_shape") or inner.get("batch_input_shape")
        if layer.get("class_name") == "InputLayer" and shape:
            shapes[str(inner.get("name"))] = list(shape[1:])
    found = [shapes.get(name, []) for name in scanned.inputs]
    if not found or any(not shape or not all(isinstance(size, int) for size in shape) for shape in found):
        raise TapelineError(
            "an input of the model has no fixed shape",
            code="model_refused",
            hint="give each Input its shape, such as Input((20, 8))",
        )
    return found


def of_canvas(
    canvas: Mapping[str, Any] | None, feature_shapes: Mapping[str, list[int]]
) -> tuple[list[list[str]], list[list[int]]]:
    """The features of each input of a canvas, and the shape of one sample of each."""
    if canvas is None:
        return [], []
    from tapeline.canvas.validate import validate

    found = validate(canvas, feature_shapes=feature_shapes or None)
    nodes = [node for node in canvas["nodes"] if node["kind"] == "input"]
    features = [list(node["features"]) for node in nodes]
    shapes = [list(found.shapes[node["id"]]) for node in nodes if node["id"] in found.shapes]
    return features, shapes
