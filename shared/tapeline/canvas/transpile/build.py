"""From one node of a canvas to its Keras layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from zlib import crc32

from tapeline.canvas import model as m
from tapeline.canvas.columns import ColumnType
from tapeline.canvas.shapes import Shape, positions
from tapeline.canvas.transpile.layers import imported_keras, registered_layers
from tapeline.errors import TapelineError

_AUTO_ACTIVATION = {"binary": "sigmoid", "multiclass": "softmax", "regression": "linear"}


@dataclass(frozen=True)
class FeatureStats:
    """Mean and variance of one feature over the train rows, one number per column of its last axis."""

    mean: Sequence[float]
    variance: Sequence[float]


@dataclass(frozen=True)
class Builder:
    """Makes the layers of nodes, with their names, seeds and precision.

    Parameters
    ----------
    seed : int
        Of the training; each random thing gets its own from it, its node's id and its part.
    dtype : str
        Precision policy of every layer but the last of an output, which is float32.
    stats : Mapping of str to FeatureStats
        Train statistics by feature, for `normalize` nodes.
    """

    seed: int
    dtype: str
    stats: Mapping[str, FeatureStats]

    def seed_of(self, node: m.Node, part: str) -> int:
        """The seed of one random thing: the same in every process and for every order of nodes."""
        return crc32(f"{node.id}/{part}".encode()) ^ self.seed

    def input(self, node: m.Input, shape: Shape) -> Any:
        """The input tensor of an input node."""
        keras = imported_keras()

        return keras.Input(shape, name=f"input_{node.id}", dtype="float32")

    def node(
        self, node: m.Node, tensors: list[Any], shapes: list[Shape], above: Sequence[m.Node], column: ColumnType | None
    ) -> tuple[Any, list[Any]]:
        """The result of a node and its layers.

        Parameters
        ----------
        node : Node
            Any but an input node.
        tensors, shapes : list
            Of its inputs, in order; shapes without the batch axis.
        above : sequence of Node
            The nodes that it reads.
        column : ColumnType or None
            Of the label, for an output.
        """
        match node:
            case m.Dense():
                return self._dense(node, tensors)
            case m.Output():
                assert column is not None
                return self._output(node, tensors, column)
            case m.Normalize():
                layers = [self._normalization(node, cast(m.Input, above[0]))]
            case m.Lstm() | m.Gru():
                layers = [self._recurrent(node)]
            case m.Attention():
                return self._attention(node, tensors[0])
            case m.Concat() | m.Add() | m.Multiply():
                layer = self._merge(node)
                return layer(tensors), [layer]
            case m.Input():
                raise AssertionError("inputs are made by `input`")
            case _:
                layers = [self._plain(node, shapes[0])]
        return layers[0](tensors[0]), layers

    def _named(self, node: m.Node, part: str | None = None) -> dict[str, Any]:
        stem = "end" if isinstance(node, m.Output) else node.kind
        return {"name": f"{stem}_{node.id}" + (f"_{part}" if part else ""), "dtype": self.dtype}

    def _kernel(self, node: m.Node, part: str) -> Any:
        keras = imported_keras()

        return keras.initializers.GlorotUniform(seed=self.seed_of(node, part))

    def _joined(self, node: m.Node, tensors: list[Any]) -> tuple[Any, list[Any]]:
        keras = imported_keras()

        if len(tensors) == 1:
            return tensors[0], []
        layer = keras.layers.Concatenate(**self._named(node, "concatenate"))
        return layer(tensors), [layer]

    def _dense(self, node: m.Dense, tensors: list[Any]) -> tuple[Any, list[Any]]:
        keras = imported_keras()

        at, layers = self._joined(node, tensors)
        stack: list[Any] = []
        if node.dropout > 0:
            stack.append(
                keras.layers.Dropout(node.dropout, seed=self.seed_of(node, "dropout"), **self._named(node, "dropout"))
            )
        penalised = node.l1 > 0 or node.l2 > 0
        for i, width in enumerate(node.widths):
            stack.append(
                keras.layers.Dense(
                    width,
                    activation=node.activation,
                    use_bias=node.use_bias,
                    kernel_initializer=self._kernel(node, str(i)),
                    kernel_regularizer=keras.regularizers.L1L2(node.l1, node.l2) if penalised else None,
                    **self._named(node, str(i)),
                )
            )
        for layer in stack:
            at = layer(at)
        return at, layers + stack

    def _output(self, node: m.Output, tensors: list[Any], column: ColumnType) -> tuple[Any, list[Any]]:
        keras = imported_keras()

        at, layers = self._joined(node, tensors)
        stack: list[Any] = []
        if node.gaussian_noise > 0:
            stack.append(
                keras.layers.GaussianNoise(
                    node.gaussian_noise, seed=self.seed_of(node, "noise"), **self._named(node, "noise")
                )
            )
        if node.dropout > 0:
            stack.append(
                keras.layers.Dropout(node.dropout, seed=self.seed_of(node, "dropout"), **self._named(node, "dropout"))
            )
        auto = node.activation == "auto"
        stack.append(
            keras.layers.Dense(
                column.units,
                activation=_AUTO_ACTIVATION[column.kind] if auto else node.activation,
                kernel_initializer=self._kernel(node, "end"),
                **(self._named(node) | {"dtype": "float32"}),
            )
        )
        for layer in stack:
            at = layer(at)
        return at, layers + stack

    def _normalization(self, node: m.Normalize, source: m.Input) -> Any:
        keras = imported_keras()

        missing = [name for name in source.features if name not in self.stats]
        if missing:
            raise TapelineError(
                f"node {node.id!r} needs the train statistics of feature {missing[0]!r}",
                code="canvas_invalid",
                hint="name the asset, or pass `stats`",
            )
        mean = [float(value) for name in source.features for value in self.stats[name].mean]
        variance = [float(value) for name in source.features for value in self.stats[name].variance]
        return keras.layers.Normalization(axis=-1, mean=mean, variance=variance, **self._named(node))

    def _recurrent(self, node: m.Lstm | m.Gru) -> Any:
        keras = imported_keras()

        kind = keras.layers.LSTM if isinstance(node, m.Lstm) else keras.layers.GRU

        def one(way: str, named: dict[str, Any], **more: Any) -> Any:
            return kind(
                node.units,
                return_sequences=node.return_sequences,
                dropout=node.dropout,
                kernel_initializer=self._kernel(node, f"{way}/kernel"),
                recurrent_initializer=keras.initializers.Orthogonal(seed=self.seed_of(node, f"{way}/recurrent")),
                seed=self.seed_of(node, f"{way}/dropout"),
                **named,
                **more,
            )

        if not node.bidirectional:
            return one("forward", self._named(node))
        # Left to itself, Keras gives both directions the seeds of the first: equal weights at the start.
        return keras.layers.Bidirectional(
            one("forward", self._named(node, "forward")),
            backward_layer=one("backward", self._named(node, "backward"), go_backwards=True),
            **self._named(node),
        )

    def _attention(self, node: m.Attention, tensor: Any) -> tuple[Any, list[Any]]:
        keras = imported_keras()

        layer = keras.layers.MultiHeadAttention(
            node.heads,
            node.key_dim,
            dropout=node.dropout,
            kernel_initializer=self._kernel(node, "query"),
            seed=self.seed_of(node, "dropout"),
            **self._named(node),
        )
        result = layer(tensor, tensor, use_causal_mask=node.causal)
        # One initialiser with one seed would make query, key and value equal at the start.
        for part, inner in (("key", layer.key_dense), ("value", layer.value_dense), ("output", layer.output_dense)):
            inner.kernel.assign(self._kernel(node, part)(inner.kernel.shape, dtype=inner.kernel.dtype))
        # Keras numbers the unnamed ones among them through the process, and a file would tell.
        for inner in layer._flatten_layers(include_self=False):
            inner.name = re.sub(r"_[0-9]+$", "", inner.name)
        return result, [layer]

    def _merge(self, node: m.Concat | m.Add | m.Multiply) -> Any:
        keras = imported_keras()

        match node:
            case m.Concat():
                return keras.layers.Concatenate(axis=_with_batch(node.axis), **self._named(node))
            case m.Add():
                return keras.layers.Add(**self._named(node))
            case m.Multiply():
                return keras.layers.Multiply(**self._named(node))

    def _plain(self, node: m.Node, shape: Shape) -> Any:
        """The single layer of a node with one input and nothing special."""
        keras = imported_keras()

        layers, named = keras.layers, self._named(node)
        match node:
            case m.WindowNorm():
                return registered_layers()["WindowNorm"](node.mode, **named)
            case m.Select():
                columns = positions(node.columns, shape[node.axis])
                return registered_layers()["SelectFields"](columns, _with_batch(node.axis), **named)
            case m.Flatten():
                return layers.Flatten(**named)
            case m.Reshape():
                return layers.Reshape(node.target, **named)
            case m.Conv1D():
                return layers.Conv1D(
                    node.filters,
                    node.kernel_size,
                    strides=node.strides,
                    padding=node.padding,
                    dilation_rate=node.dilation,
                    kernel_initializer=self._kernel(node, "kernel"),
                    **named,
                )
            case m.Pool1D():
                match node.mode:
                    case "max":
                        return layers.MaxPooling1D(node.size, **named)
                    case "avg":
                        return layers.AveragePooling1D(node.size, **named)
                    case "global_max":
                        return layers.GlobalMaxPooling1D(**named)
                    case "global_avg":
                        return layers.GlobalAveragePooling1D(**named)
            case m.BatchNorm():
                return layers.BatchNormalization(momentum=node.momentum, epsilon=node.epsilon, **named)
            case m.LayerNorm():
                return layers.LayerNormalization(epsilon=node.epsilon, **named)
            case m.Dropout():
                return layers.Dropout(node.rate, seed=self.seed_of(node, "dropout"), **named)
            case m.GaussianNoise():
                return layers.GaussianNoise(node.stddev, seed=self.seed_of(node, "noise"), **named)
            case m.Activate():
                return layers.Activation(node.name, **named)
            case _:
                raise AssertionError(f"{node.kind} is built elsewhere")


def _with_batch(axis: int) -> int:
    """An axis of a sample as an axis of a batch."""
    return axis + 1 if axis >= 0 else axis
