"""Shapes, parameters and activations of each node, computed in Python integers before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from tapeline.canvas import model as m
from tapeline.canvas.columns import ColumnType

Shape = tuple[int, ...]


class ShapeError(Exception):
    """A node that cannot take the shapes of its inputs: field, code, sentence and remedy."""

    def __init__(self, code: str, message: str, *, field: str = "inputs", hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Size:
    """What a node gives: shape of one sample, parameters, and values that one sample leaves in memory."""

    shape: Shape
    parameters: int = 0
    activations: int = 0


def size_of(node: m.Node, inputs: Sequence[Shape], column: ColumnType | None = None) -> Size:
    """The size of a node that reads the given shapes.

    Parameters
    ----------
    node : Node
        Any but an input node.
    inputs : sequence of tuple of int
        Shapes of one sample, without the batch axis, in the order of `node.inputs`.
    column : ColumnType, optional
        Of an output, where the label is known.

    Raises
    ------
    ShapeError
        The node cannot take these shapes.
    """
    shape = inputs[0]
    match node:
        case m.Dense():
            joined = joined_shape(inputs)
            _needs_axes(joined, 1, "dense")
            before, parameters, activations = joined[-1], 0, prod(joined) * (len(inputs) > 1 or node.dropout > 0)
            for width in node.widths:
                parameters += before * width + width * node.use_bias
                activations += prod(joined[:-1]) * width
                before = width
            return Size((*joined[:-1], before), parameters, activations)
        case m.Output():
            joined = joined_shape(inputs)
            if len(joined) != 1:
                raise ShapeError(
                    "shape_mismatch",
                    f"expected 1 axis besides the batch, found {len(joined)}: {joined}",
                    hint="add a flatten, a global pool, or a layer that returns no sequence before the output",
                )
            units = column.units if column else 1
            return Size((units,), joined[0] * units + units, units + joined[0])
        case m.Concat():
            return _of(joined_shape(inputs, node.axis))
        case m.Add() | m.Multiply():
            for other in inputs[1:]:
                if other != shape:
                    raise ShapeError(
                        "merge_mismatch",
                        f"{node.kind} needs inputs of equal shape, found {shape} and {other}",
                        hint="bring them to one width with a dense node",
                    )
            return _of(shape)
        case m.Normalize() | m.WindowNorm() | m.Dropout() | m.GaussianNoise() | m.Activate():
            if isinstance(node, m.WindowNorm):
                _needs_axes(shape, 2, "window_norm")
            return _of(shape)
        case m.Select():
            return _of(_selected(node, shape))
        case m.Flatten():
            return _of((prod(shape),))
        case m.Reshape():
            return _of(_reshaped(node.target, shape))
        case m.Conv1D():
            _needs_axes(shape, 2, "conv1d")
            return _conv(node, shape)
        case m.Pool1D():
            _needs_axes(shape, 2, "pool1d")
            if node.mode.startswith("global"):
                return _of((shape[1],))
            if node.size > shape[0]:
                raise ShapeError(
                    "shape_mismatch",
                    f"size {node.size} is longer than the {shape[0]} rows",
                    field="size",
                    hint=f"use at most {shape[0]}",
                )
            return _of((shape[0] // node.size, shape[1]))
        case m.Lstm() | m.Gru():
            _needs_axes(shape, 2, node.kind)
            u, width, ways = node.units, shape[1], 2 if node.bidirectional else 1
            gates = 4 * (width * u + u * u + u) if isinstance(node, m.Lstm) else 3 * (width * u + u * u + 2 * u)
            result = (shape[0], u * ways) if node.return_sequences else (u * ways,)
            # Each row's state and gates are kept for the way back.
            return Size(result, gates * ways, shape[0] * u * ways * 5)
        case m.Attention():
            _needs_axes(shape, 2, "attention")
            rows, width, inner = shape[0], shape[1], node.heads * node.key_dim
            parameters = 3 * (width * inner + inner) + inner * width + width
            return Size(shape, parameters, 3 * rows * inner + node.heads * rows * rows + rows * width)
        case m.BatchNorm():
            return Size(shape, 4 * shape[-1], prod(shape))
        case m.LayerNorm():
            return Size(shape, 2 * shape[-1], prod(shape))
        case m.Input():
            raise AssertionError("an input node has no inputs")


def input_shape(node: m.Input, shapes: Mapping[str, Shape]) -> Shape:
    """The shape of an input: its features joined on the last axis."""
    found = [tuple(shapes[name]) for name in node.features]
    for name, shape in zip(node.features[1:], found[1:], strict=True):
        if len(shape) != len(found[0]) or shape[:-1] != found[0][:-1]:
            raise ShapeError(
                "merge_mismatch",
                f"features {node.features[0]!r} {found[0]} and {name!r} {shape} cannot be joined on the last axis",
                field="features",
                hint="give them input nodes of their own",
            )
    return (*found[0][:-1], sum(shape[-1] for shape in found))


def joined_shape(inputs: Sequence[Shape], axis: int = -1) -> Shape:
    """The shape of inputs side by side on one axis of a sample."""
    first = inputs[0]
    if not -len(first) <= axis < len(first):
        raise ShapeError(
            "shape_mismatch",
            f"axis {axis} does not exist in shape {first}",
            field="axis",
            hint=f"use an axis from {-len(first)} to {len(first) - 1}",
        )
    at = axis % len(first)
    for other in inputs[1:]:
        if len(other) != len(first) or other[:at] + other[at + 1 :] != first[:at] + first[at + 1 :]:
            raise ShapeError(
                "merge_mismatch",
                f"shapes {first} and {other} cannot be joined on axis {axis}",
                hint="flatten the inputs first",
            )
    return (*first[:at], sum(shape[at] for shape in inputs), *first[at + 1 :])


def positions(columns: m.ColumnRange | tuple[int, ...], length: int) -> list[int]:
    """The positions that `columns` names on an axis of a length; those of a list may be out of range."""
    if isinstance(columns, m.ColumnRange):
        return list(range(*slice(columns.start, columns.stop, columns.step).indices(length)))
    return list(columns)


def _of(shape: Shape) -> Size:
    return Size(shape, 0, prod(shape))


def _needs_axes(shape: Shape, axes: int, kind: str) -> None:
    # Axes are counted with the batch, as in the messages of Keras.
    if (len(shape) != axes) if axes > 1 else not shape:
        few = len(shape) < axes
        raise ShapeError(
            "shape_mismatch",
            f"expected {'at least ' if few else ''}{axes + 1} axes, found {len(shape) + 1}",
            hint="remove the flatten" if few else f"reshape to {axes} axes before {kind}",
        )


def _selected(node: m.Select, shape: Shape) -> Shape:
    if not -len(shape) <= node.axis < len(shape):
        raise ShapeError(
            "shape_mismatch",
            f"axis {node.axis} does not exist in shape {shape}",
            field="axis",
            hint=f"use an axis from {-len(shape)} to {len(shape) - 1}",
        )
    at = node.axis % len(shape)
    chosen = positions(node.columns, shape[at])
    wrong = [column for column in chosen if not -shape[at] <= column < shape[at]]
    if wrong or not chosen:
        raise ShapeError(
            "shape_mismatch",
            f"column {wrong[0]} does not exist, axis {node.axis} has {shape[at]}" if wrong else "no column is chosen",
            field="columns",
            hint=f"use columns from 0 to {shape[at] - 1}",
        )
    return (*shape[:at], len(chosen), *shape[at + 1 :])


def _reshaped(target: Shape, shape: Shape) -> Shape:
    total, known = prod(shape), prod(size for size in target if size != -1)
    free = target.count(-1)
    if free > 1 or 0 in target:
        raise ShapeError(
            "shape_mismatch", f"target {target} is not a shape", field="target", hint="use sizes from 1, and -1 once"
        )
    if total % known or (not free and total != known):
        raise ShapeError(
            "shape_mismatch",
            f"{total} values of shape {shape} do not fill {target}",
            field="target",
            hint="the product of the sizes stays the same",
        )
    return tuple(total // known if size == -1 else size for size in target)


def _conv(node: m.Conv1D, shape: Shape) -> Size:
    if node.strides > 1 and node.dilation > 1:
        raise ShapeError(
            "shape_mismatch",
            f"strides {node.strides} and dilation {node.dilation} do not go together",
            field="dilation",
            hint="set one of them to 1",
        )
    reach = (node.kernel_size - 1) * node.dilation + 1
    rows = -(-(shape[0] - reach + 1 if node.padding == "valid" else shape[0]) // node.strides)
    if rows < 1:
        raise ShapeError(
            "shape_mismatch",
            f"the filter reaches over {reach} rows, there are {shape[0]}",
            field="kernel_size",
            hint="use a smaller kernel_size, or padding 'causal'",
        )
    result = (rows, node.filters)
    return Size(result, node.kernel_size * shape[1] * node.filters + node.filters, prod(result))
