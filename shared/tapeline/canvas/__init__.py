"""Canvases: the JSON picture of a network, its checks, its digests and its Keras model.

Read in this order: `model.py` (the nodes), `limits.py`, `validate.py` with `parse.py`, `faults.py`, `graph.py`
and `shapes.py`, then `digest.py`, `catalogue.py`, `diff.py`, and last `transpile/`, the only part that needs Keras.
"""

from tapeline.canvas.catalogue import get_available_components
from tapeline.canvas.columns import ColumnType, LabelColumns, class_weights
from tapeline.canvas.diff import CanvasDiff, diff
from tapeline.canvas.digest import canonical_json, digest, model_digest, rendered
from tapeline.canvas.examples import EXAMPLES, example
from tapeline.canvas.faults import Fault
from tapeline.canvas.model import Canvas
from tapeline.canvas.schema import canvas_schema
from tapeline.canvas.validate import Validation, validate

__all__ = [
    "EXAMPLES",
    "Canvas",
    "CanvasDiff",
    "ColumnType",
    "Fault",
    "LabelColumns",
    "Validation",
    "canonical_json",
    "canvas_schema",
    "class_weights",
    "diff",
    "digest",
    "example",
    "get_available_components",
    "model_digest",
    "rendered",
    "validate",
]
