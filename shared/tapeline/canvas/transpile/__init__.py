"""From a canvas to a compiled Keras model. Keras is imported when `transpile` is called, not before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tapeline.canvas import model as m
from tapeline.canvas.columns import ColumnType, LabelColumns
from tapeline.canvas.faults import Fault, pointer_to
from tapeline.canvas.graph import build_order
from tapeline.canvas.limits import MAX_PARAMETERS
from tapeline.canvas.transpile.build import Builder, FeatureStats
from tapeline.canvas.transpile.layers import imported_keras
from tapeline.canvas.validate import column_of, validate
from tapeline.errors import TapelineError

__all__ = ["OPTIMIZERS", "FeatureStats", "make_optimizer", "metric_tags", "transpile"]

OPTIMIZERS = {
    "adam": "Adam",
    "sgd": "SGD",
    "rmsprop": "RMSprop",
    "adamw": "AdamW",
    "nadam": "Nadam",
    "lion": "Lion",
}
_AUTO_LOSS = {
    "binary": "binary_crossentropy",
    "multiclass": "sparse_categorical_crossentropy",
    "regression": "huber",
}
_METRICS = {"binary": ("auc", "accuracy"), "multiclass": ("accuracy",), "regression": ("mae",)}


def transpile(
    canvas: m.Canvas | str | bytes | Mapping[str, Any],
    *,
    feature_shapes: Mapping[str, Sequence[int]],
    labels: Mapping[str, LabelColumns],
    stats: Mapping[str, FeatureStats] | None = None,
    seed: int | None = None,
    optimizer: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    jit_compile: bool | str = "auto",
    steps_per_execution: int = 1,
    max_parameters: int = MAX_PARAMETERS,
) -> Any:
    """A compiled `keras.Model` (Functional) for a canvas; equal arguments give equal initial weights.

    Parameters
    ----------
    canvas : Canvas, or its JSON
        Validated first, in any case.
    feature_shapes : Mapping of str to tuple of int
        Shape of one sample of each feature, without the batch axis.
    labels : Mapping of str to LabelColumns
        Columns of each label.
    stats : Mapping of str to FeatureStats, optional
        Train statistics by feature; needed when the canvas has a `normalize` node.
    seed : int, optional
        Default: `training.seed` of the canvas, else 0.
    optimizer : Mapping, optional
        `{name, learning_rate, clipnorm, weight_decay}`. Default: `training.optimizer` of the canvas, else Adam.
    dtype : str
        `float32`, `mixed_bfloat16` or `mixed_float16`; outputs are float32 in any case.
    jit_compile, steps_per_execution
        Given to `compile`.
    max_parameters : int
        The limit of the team.

    Returns
    -------
    keras.Model
        Its inputs stand in the order of the input nodes, its outputs in that of the output nodes: it takes
        a list of arrays (batch, ...) and gives one array, or a list where there are several outputs.
        Losses, weights and metrics are keyed by `end_<id>`; `metric_tags` gives them their names in a run.

    Raises
    ------
    TapelineError
        `canvas_invalid` (and the codes of `Validation.require`) with every fault in `data["errors"]`, also for
        what Keras itself refuses; `invalid` for an optimizer or dtype that is not known.
    """
    validation = validate(canvas, feature_shapes=feature_shapes, labels=labels, max_parameters=max_parameters)
    valid = validation.require()
    if dtype not in ("float32", "mixed_bfloat16", "mixed_float16"):
        hint = "float32, mixed_bfloat16 or mixed_float16"
        raise TapelineError(f"dtype {dtype!r} is not known", code="invalid", hint=hint)
    training_seed = valid.training.get("seed", 0) if seed is None else seed
    if not isinstance(training_seed, int) or not 0 <= training_seed < 2**31:
        raise TapelineError(
            f"seed {training_seed!r} is not allowed", code="invalid", hint="use a whole number from 0 to 2147483647"
        )
    chosen = optimizer if optimizer is not None else valid.training.get("optimizer")
    compiled_optimizer = make_optimizer(chosen)

    keras = imported_keras()

    builder = Builder(seed=training_seed, dtype=dtype, stats=stats or {})
    by_id = {node.id: node for node in valid.nodes}
    places = {node.id: i for i, node in enumerate(valid.nodes)}
    tensors: dict[str, Any] = {}
    shapes = validation.shapes
    for node in build_order(valid.nodes):
        sources = m.inputs_of(node)
        try:
            if isinstance(node, m.Input):
                tensors[node.id] = builder.input(node, shapes[node.id])
                continue
            tensors[node.id], layers = builder.node(
                node,
                [tensors[source] for source in sources],
                [shapes[source] for source in sources],
                [by_id[source] for source in sources],
                column_of(node, labels),
            )
            for layer in layers:
                layer.trainable = node.is_trainable
        except TapelineError:
            raise
        except Exception as error:  # whatever Keras raises is told with the node that caused it
            message = f"{type(error).__name__}: {str(error).strip()[:500]}"
            fault = Fault(node.id, None, "keras", pointer_to("nodes", places[node.id]), message)
            raise TapelineError(
                f"{node.id}: {message}",
                code="canvas_invalid",
                hint="change this node or the one before it",
                data={"errors": [fault.to_json()]},
            ) from error

    model = keras.Model(
        [tensors[node.id] for node in valid.input_nodes],
        [tensors[node.id] for node in valid.output_nodes],
        name="canvas",
    )
    outputs = [(node, _column(node, labels)) for node in valid.output_nodes]
    model.compile(
        optimizer=compiled_optimizer,
        loss={_end(node): _loss(node, column) for node, column in outputs},
        loss_weights={_end(node): node.loss_weight for node, _ in outputs},
        metrics={_end(node): [_metric(name, column) for name in _METRICS[column.kind]] for node, column in outputs},
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )
    return model


def make_optimizer(config: Mapping[str, Any] | None) -> Any:
    """The Keras optimizer of `{name, learning_rate, clipnorm, weight_decay}`; Adam at 0.001 for None."""
    config = {"name": "adam"} if config is None else dict(config)
    name = config.pop("name", "adam")
    unknown = sorted(set(config) - {"learning_rate", "clipnorm", "weight_decay"})
    if name not in OPTIMIZERS or unknown:
        what = f"optimizer field {unknown[0]!r}" if unknown else f"optimizer {name!r}"
        raise TapelineError(
            f"{what} is not known",
            code="invalid",
            hint=f"one of {', '.join(OPTIMIZERS)}, with learning_rate, clipnorm and weight_decay",
        )
    for key, value in config.items():
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6):
            raise TapelineError(
                f"optimizer {key} {value!r} is not allowed", code="invalid", hint="use a positive number, or null"
            )

    keras = imported_keras()

    given = {key: value for key, value in config.items() if value is not None}
    return getattr(keras.optimizers, OPTIMIZERS[name])(**{"learning_rate": 0.001, "name": name} | given)


def metric_tags(canvas: m.Canvas, labels: Mapping[str, LabelColumns]) -> dict[str, str]:
    """Keras' names of losses and metrics in `logs`, and their names in a run.

    Returns
    -------
    dict of str to str
        For two outputs `{"loss": "loss", "end_o1_loss": "o1/loss", "end_o1_auc": "o1/auc", ...}`. With one
        output Keras leaves the prefix out: `{"loss": "loss", "auc": "o1/auc", ...}`. In validation logs each
        key has `val_` before it.
    """
    several = len(canvas.output_nodes) > 1
    tags = {"loss": "loss"}
    for node in canvas.output_nodes:
        prefix = f"{_end(node)}_" if several else ""
        names = _METRICS[_column(node, labels).kind]
        for name in (*(("loss",) if several else ()), *names):
            tags[f"{prefix}{name}"] = f"{node.id}/{name}"
    return tags


def _end(node: m.Output) -> str:
    return f"end_{node.id}"


def _column(node: m.Output, labels: Mapping[str, LabelColumns]) -> ColumnType:
    return labels[node.feature][node.label_index]


def _loss(node: m.Output, column: ColumnType) -> Any:
    keras = imported_keras()

    name = _AUTO_LOSS[column.kind] if node.loss == "auto" else node.loss
    losses = {
        "binary_crossentropy": keras.losses.BinaryCrossentropy,
        "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
        "huber": keras.losses.Huber,
        "mean_squared_error": keras.losses.MeanSquaredError,
        "mean_absolute_error": keras.losses.MeanAbsoluteError,
    }
    return losses[name]()


def _metric(name: str, column: ColumnType) -> Any:
    keras = imported_keras()

    match name, column.kind:
        case "auc", _:
            return keras.metrics.AUC(name="auc")
        case "accuracy", "binary":
            return keras.metrics.BinaryAccuracy(name="accuracy")
        case "accuracy", _:
            return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        case _:
            return keras.metrics.MeanAbsoluteError(name="mae")
