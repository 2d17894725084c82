"""Whether a canvas is right: every error with its place, and the shapes and parameters of its nodes.

Nothing here imports Keras, and nothing is built: sizes are Python integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from tapeline.canvas import model as m
from tapeline.canvas.columns import ColumnType, LabelColumns
from tapeline.canvas.digest import digest
from tapeline.canvas.excerpt import excerpt, sound_nodes
from tapeline.canvas.faults import Fault, Nearest, faults_of, pointer_to
from tapeline.canvas.graph import build_order, graph_faults, vertices_of
from tapeline.canvas.limits import (
    MAX_ACTIVATIONS,
    MAX_FAULTS,
    MAX_NAMES,
    MAX_NODES,
    MAX_PARAMETERS,
    SCHEMA,
    SCHEMA_NUMBER,
)
from tapeline.canvas.parse import parsed, stray_values
from tapeline.canvas.shapes import Shape, ShapeError, Size, input_shape, size_of
from tapeline.errors import TapelineError

_LOSSES = {
    "binary": {"auto", "binary_crossentropy", "huber", "mean_squared_error", "mean_absolute_error"},
    "multiclass": {"auto", "sparse_categorical_crossentropy"},
    "regression": {"auto", "huber", "mean_squared_error", "mean_absolute_error"},
}
_ACTIVATIONS = {"binary": {"auto", "sigmoid"}, "multiclass": {"auto", "softmax"}}


@dataclass(frozen=True)
class Validation:
    """The answer to a canvas: `ok` when it has no errors.

    `shapes` (node id to the shape of one sample) and `parameters` are known when the shapes of its features
    are; `digest` and `canvas` when every field is right.
    """

    errors: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    parameters: int | None = None
    digest: str | None = None
    canvas: m.Canvas | None = None

    @property
    def ok(self) -> bool:
        """Whether the canvas can be transpiled."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """The reply of `canvas.validate`."""
        return {
            "ok": self.ok,
            "errors": [fault.to_json() for fault in self.errors],
            "warnings": [fault.to_json() for fault in self.warnings],
            "shapes": {node: list(shape) for node, shape in self.shapes.items()},
            "parameters": self.parameters,
            "digest": self.digest,
        }

    def require(self) -> m.Canvas:
        """The canvas, or `TapelineError` with every error in `data["errors"]`.

        Raises
        ------
        TapelineError
            The code of the one error where it has a code of its own (`canvas_too_large`, `canvas_too_deep`,
            `schema_too_new`), else `canvas_invalid`.
        """
        if self.canvas is not None and self.ok:
            return self.canvas
        first = self.errors[0]
        more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
        place = f"{first.node}: " if first.node else ""
        own = first.code in ("canvas_too_large", "canvas_too_deep", "schema_too_new")
        raise TapelineError(
            f"{place}{first.message}{more}",
            code=first.code if own else "canvas_invalid",
            hint=first.hint,
            data={"errors": [fault.to_json() for fault in self.errors]},
        )


def validate(
    content: str | bytes | Mapping[str, Any] | m.Canvas,
    *,
    feature_shapes: Mapping[str, Sequence[int]] | None = None,
    labels: Mapping[str, LabelColumns] | None = None,
    max_parameters: int = MAX_PARAMETERS,
) -> Validation:
    """All that is wrong with a canvas, and its shapes and parameters where its features are known.

    Parameters
    ----------
    content : str, bytes, Mapping or Canvas
        The JSON as text, or parsed. It may be hostile.
    feature_shapes : Mapping of str to tuple of int, optional
        Shape of one sample of each feature of the asset, without the batch axis. None: no asset is named;
        then features are not looked up and shapes are not computed.
    labels : Mapping of str to LabelColumns, optional
        The labels of the asset. None: labels are not looked up.
    max_parameters : int
        The limit of the team.

    Returns
    -------
    Validation
        With at most 100 errors.

    Examples
    --------
    >>> [(fault.code, fault.pointer) for fault in validate('{"schema": "tapeline.canvas/1"}').errors]
    [('missing', '')]
    """
    try:
        value = parsed(content.model_dump(mode="json", by_alias=True) if isinstance(content, m.Canvas) else content)
    except TapelineError as error:
        code = str(error.code) if error.code != "canvas_invalid" else "invalid_json"
        return Validation(errors=(Fault(None, None, code, "", error.message, error.hint),))
    refused = _refused_as_whole(value)
    if refused is not None:
        return Validation(errors=(refused,))

    nearest = Nearest()
    errors: list[Fault] = []
    canvas: m.Canvas | None = None
    try:
        canvas = m.Canvas.model_validate(excerpt(value))
    except ValidationError as error:
        errors += faults_of(error, value, nearest, most=MAX_FAULTS)
    errors += [
        Fault(None, str(place[0]), "invalid_value", pointer_to(*place), problem, "use shorter, plain values")
        for part in ("training", "ui", "notes", "name")
        for place, problem in stray_values(value.get(part), part, most=MAX_FAULTS)
    ]
    nodes = value.get("nodes")
    if isinstance(nodes, list) and nodes:
        errors += graph_faults(vertices_of(nodes), len(nodes), nearest)
    if canvas is None:
        if (feature_shapes is not None or labels is not None) and isinstance(nodes, list) and len(errors) < MAX_FAULTS:
            errors += _asset_faults(sound_nodes(nodes), feature_shapes, labels, nearest)
        return Validation(errors=tuple(errors[:MAX_FAULTS]))

    places = {node.id: i for i, node in enumerate(canvas.nodes)}
    errors += _asset_faults(enumerate(canvas.nodes), feature_shapes, labels, nearest)
    errors += _normalize_faults(canvas, places)
    sizes: dict[str, Size] = {}
    if feature_shapes is not None and not any(fault.code in ("cycle", "duplicate_id") for fault in errors):
        sizes = _sizes(canvas, places, feature_shapes, labels, errors)
        errors += _too_much(canvas, sizes, places, max_parameters)
    is_sized = bool(sizes) and len(sizes) == len(canvas.nodes)
    return Validation(
        errors=tuple(errors[:MAX_FAULTS]),
        warnings=tuple(_warnings(canvas, labels)[:MAX_FAULTS]),
        shapes={node_id: size.shape for node_id, size in sizes.items()},
        parameters=sum(size.parameters for size in sizes.values()) if is_sized else None,
        digest=None if any(fault.code == "invalid_value" for fault in errors) else digest(canvas),
        canvas=canvas,
    )


def _refused_as_whole(value: Mapping[str, Any]) -> Fault | None:
    """The one fault that makes looking at the rest pointless."""
    schema = value.get("schema")
    if isinstance(schema, str) and schema.startswith("tapeline.canvas/"):
        number = schema.removeprefix("tapeline.canvas/")
        if number.isdecimal() and number.isascii() and len(number) < 6 and int(number) > SCHEMA_NUMBER:
            message = f"the canvas has schema {schema}, this version reads up to {SCHEMA}"
            return Fault(None, "schema", "schema_too_new", "/schema", message, "use a newer tapeline")
    nodes = value.get("nodes")
    if isinstance(nodes, list) and len(nodes) > MAX_NODES:
        message = f"{len(nodes):,} nodes, the limit is {MAX_NODES}"
        return Fault(None, "nodes", "too_many_nodes", "/nodes", message, "split the network, or use dense stacks")
    named = [node.get("features") for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []
    count = sum(len(features) for features in named if isinstance(features, list))
    if count > MAX_NAMES:
        message = f"the inputs name {count:,} features, the limit is {MAX_NAMES:,}"
        return Fault(None, "nodes", "too_many_features", "/nodes", message, "an asset has at most 256: name each once")
    return None


def _asset_faults(
    nodes: Iterable[tuple[int, m.Node]],
    feature_shapes: Mapping[str, Sequence[int]] | None,
    labels: Mapping[str, LabelColumns] | None,
    nearest: Nearest,
) -> list[Fault]:
    """Features and labels that the asset does not have, and columns that do not fit."""
    faults: list[Fault] = []
    for i, node in nodes:
        match node:
            case m.Input() if feature_shapes is not None:
                for j, name in enumerate(node.features):
                    if name not in feature_shapes and len(faults) < MAX_FAULTS:
                        message = f"the asset has no feature {name!r}"
                        hint = nearest(name, feature_shapes) or _names("features", feature_shapes)
                        pointer = pointer_to("nodes", i, "features", j)
                        faults.append(Fault(node.id, "features", "unknown_feature", pointer, message, hint))
            case m.Output() if labels is not None and len(faults) < MAX_FAULTS:
                faults += _output_faults(i, node, labels, nearest)
            case _:
                pass
    return faults


def _output_faults(i: int, node: m.Output, labels: Mapping[str, LabelColumns], nearest: Nearest) -> list[Fault]:
    def fault(field: str, code: str, message: str, hint: str) -> Fault:
        # A field that was left to its default has no place in the user's JSON.
        steps = ("nodes", i, field) if field in node.model_fields_set else ("nodes", i)
        return Fault(node.id, field, code, pointer_to(*steps), message, hint)

    if node.feature not in labels:
        hint = nearest(node.feature, labels) or _names("labels", labels)
        return [fault("feature", "unknown_label", f"the asset has no label {node.feature!r}", hint)]
    columns = labels[node.feature]
    if node.label_index >= len(columns):
        message = f"label {node.feature!r} has {len(columns)} columns, there is no column {node.label_index}"
        return [fault("label_index", "label_index_out_of_range", message, f"use 0 to {len(columns) - 1}")]
    column = columns[node.label_index]
    faults = []
    if node.class_weighting > 0 and not column.has_classes:
        message = f"column {node.label_index} of {node.feature!r} is a {column}, it has no classes to weight"
        faults.append(fault("class_weighting", "class_weighting_needs_classes", message, "set class_weighting to 0"))
    if node.loss not in _LOSSES[column.kind]:
        message = f"loss {node.loss!r} does not fit a {column} column"
        hint = f"use one of {', '.join(sorted(_LOSSES[column.kind]))}"
        faults.append(fault("loss", "loss_mismatch", message, hint))
    return faults


def _normalize_faults(canvas: m.Canvas, places: Mapping[str, int]) -> list[Fault]:
    """Normalise nodes that follow something without statistics: those are known of features alone."""
    kinds = {node.id: node.kind for node in canvas.nodes}
    return [
        Fault(
            node.id,
            "inputs",
            "no_statistics",
            pointer_to("nodes", places[node.id], "inputs", 0),
            f"there are no train statistics of {node.inputs[0]!r}, only of inputs",
            "put the normalize node right behind an input, or use batch_norm",
        )
        for node in canvas.nodes
        if isinstance(node, m.Normalize) and kinds.get(node.inputs[0], "input") != "input"
    ]


def _sizes(
    canvas: m.Canvas,
    places: Mapping[str, int],
    feature_shapes: Mapping[str, Sequence[int]],
    labels: Mapping[str, LabelColumns] | None,
    errors: list[Fault],
) -> dict[str, Size]:
    """The size of each node whose inputs are known; faults found on the way join `errors`."""
    shapes = {name: tuple(int(size) for size in shape) for name, shape in feature_shapes.items()}
    sizes: dict[str, Size] = {}
    for node in build_order(canvas.nodes):
        try:
            if isinstance(node, m.Input):
                if all(name in shapes for name in node.features):
                    sizes[node.id] = Size(input_shape(node, shapes))
            elif all(source in sizes for source in m.inputs_of(node)):
                above = [sizes[source].shape for source in m.inputs_of(node)]
                sizes[node.id] = size_of(node, above, column_of(node, labels))
        except ShapeError as error:
            steps: tuple[str | int, ...] = ("nodes", places[node.id])
            if error.field in node.model_fields_set:
                steps = (*steps, error.field)
            errors.append(Fault(node.id, error.field, error.code, pointer_to(*steps), error.message, error.hint))
    return sizes


def column_of(node: m.Node, labels: Mapping[str, LabelColumns] | None) -> ColumnType | None:
    """The type of the label column of an output, where it is known."""
    if not isinstance(node, m.Output) or labels is None or node.feature not in labels:
        return None
    columns = labels[node.feature]
    return columns[node.label_index] if node.label_index < len(columns) else None


def _too_much(
    canvas: m.Canvas, sizes: Mapping[str, Size], places: Mapping[str, int], max_parameters: int
) -> list[Fault]:
    faults = []
    parameters = sum(size.parameters for size in sizes.values())
    if parameters > max_parameters:
        largest = max(sizes, key=lambda node_id: sizes[node_id].parameters)
        message = (
            f"{parameters:,} parameters, the limit is {max_parameters:,}; "
            f"{largest!r} alone has {sizes[largest].parameters:,}"
        )
        pointer = pointer_to("nodes", places[largest])
        faults.append(
            Fault(largest, None, "too_many_parameters", pointer, message, "use fewer units, or pool before this node")
        )
    activations = sum(size.activations for size in sizes.values())
    if activations > MAX_ACTIVATIONS:
        largest = max(sizes, key=lambda node_id: sizes[node_id].activations)
        message = (
            f"one sample makes {activations:,} values, the limit is {MAX_ACTIVATIONS:,}; "
            f"{largest!r} alone makes {sizes[largest].activations:,}"
        )
        pointer = pointer_to("nodes", places[largest])
        faults.append(
            Fault(largest, None, "too_many_activations", pointer, message, "use shorter windows or fewer units")
        )
    return faults


def _warnings(canvas: m.Canvas, labels: Mapping[str, LabelColumns] | None) -> list[Fault]:
    faults = []
    for i, node in enumerate(canvas.nodes):
        column = column_of(node, labels)
        if not isinstance(node, m.Output) or column is None or column.kind not in _ACTIVATIONS:
            continue
        if node.activation not in _ACTIVATIONS[column.kind] and node.loss in ("auto", "binary_crossentropy"):
            faults.append(
                Fault(
                    node.id,
                    "activation",
                    "unusual_activation",
                    pointer_to("nodes", i, "activation"),
                    f"activation {node.activation!r} does not give probabilities, which a {column} column needs",
                    "use activation 'auto'",
                )
            )
    return faults


def _names(what: str, known: Mapping[str, Any]) -> str:
    names = list(known)
    return f"{what} are: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else f"it has no {what}"
