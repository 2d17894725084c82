"""What a model of a canvas trains on: arrays of an asset, and the batches of an epoch as a pure function.

The order of an epoch depends on seed and epoch alone, and where a resumed epoch begins on the number of
steps that were done: nothing counts along, so nothing can count wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from tapeline import asset_files
from tapeline.asset_files import AssetFile
from tapeline.canvas.columns import LabelColumns, class_weights
from tapeline.errors import TapelineError

GATHER_SHARE = 0.25
"""Share of the free memory up to which the data of a run is held in tensors."""


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one part of an asset, as a model takes them.

    Attributes
    ----------
    x, y : tuple of float32 arrays
        One per input node, shape (n, ...), and one per output node, shape (n, 1).
    weights : tuple of float32 arrays, or None
        One per output node, shape (n,); None when every weight is 1.
    """

    x: tuple[NDArray[np.float32], ...]
    y: tuple[NDArray[np.float32], ...]
    weights: tuple[NDArray[np.float32], ...] | None

    def __len__(self) -> int:
        return len(self.y[0])

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (*self.x, *self.y, *(self.weights or ())))

    def batch(self, rows: NDArray[np.int64]) -> tuple[Any, ...]:
        """Some rows as Keras takes them: `(x, y)` or `(x, y, sample_weight)`."""
        arrays = [self.x, self.y] + ([] if self.weights is None else [self.weights])
        return tuple(_single(tuple(np.ascontiguousarray(array[rows]) for array in group)) for group in arrays)


def _single(group: tuple[Any, ...]) -> Any:
    return group[0] if len(group) == 1 else group


@dataclass(frozen=True, slots=True)
class Data:
    """The train and validation parts of an asset for a canvas.

    Attributes
    ----------
    class_weights : by output the weight of each class
    warnings : of classes that train has no row of, a sentence each
    """

    train: Part
    validation: Part | None
    class_weights: dict[str, list[float]]
    warnings: tuple[str, ...] = ()

    def said(self, asset: Mapping[str, Any]) -> dict[str, Any]:
        """What a run says of its data as it begins: weights of classes, and what its user should know."""
        warnings = list(self.warnings)
        if asset.get("stale"):
            warnings.append(f"asset {asset['name']!r} is stale: a tape that it was cut from has been corrected")
        found: dict[str, Any] = {"class_weights": self.class_weights, "warnings": warnings}
        return {name: value for name, value in found.items() if value}


def load(
    canvas: Mapping[str, Any], files: Sequence[Path], labels: Mapping[str, LabelColumns], *, validate: bool
) -> Data:
    """Read an asset's train files for a canvas.

    Raises
    ------
    TapelineError
        `asset_refused` when a file is no asset file or has no train rows, `not_found` or `invalid` when it
        lacks a feature or label column.
    """
    opened = [AssetFile(path) for path in files]
    rows = sum(int((file.part == asset_files.TRAIN).sum()) for file in opened)
    if rows == 0:
        raise TapelineError("the asset has no train rows", code="asset_refused", hint="build it over a longer range")
    weights: dict[str, list[float]] = {}
    warnings: list[str] = []
    outputs = asset_files.nodes_of(canvas, "output")
    train = _part(canvas, opened, asset_files.TRAIN)
    for node, y in zip(outputs, train.y, strict=True):
        column = labels[node["feature"]][int(node.get("label_index") or 0)]
        weighting = float(node.get("class_weighting") or 0)
        if weighting > 0 and column.has_classes:
            classes = max(2, column.units)
            counts = np.bincount(y[:, 0].astype(np.int64), minlength=classes)
            warnings += [
                f"class {k} of output {str(node['id'])!r} has no train row: its weight is 1"
                for k in np.flatnonzero(counts[:classes] == 0).tolist()
            ]
            weights[str(node["id"])] = class_weights([int(count) for count in counts[:classes]], weighting)
    has_validation = validate and any((file.part == asset_files.VALIDATION).any() for file in opened)
    validation = _part(canvas, opened, asset_files.VALIDATION) if has_validation else None
    return Data(
        _weighted(train, opened, asset_files.TRAIN, outputs, weights),
        None if validation is None else _weighted(validation, opened, asset_files.VALIDATION, outputs, weights),
        weights,
        tuple(warnings),
    )


def _part(canvas: Mapping[str, Any], files: Sequence[AssetFile], part: int) -> Part:
    chosen = [file for file in files if (file.part == part).any()]
    x, y = asset_files.model_inputs(canvas, chosen, part)
    return Part(tuple(x), tuple(y), None)


def _weighted(
    part: Part,
    files: Sequence[AssetFile],
    number: int,
    outputs: Sequence[Mapping[str, Any]],
    weights: Mapping[str, list[float]],
) -> Part:
    stored = np.concatenate([file.sample_weight[file.part == number] for file in files])
    if not weights and (stored == 1).all():
        return part
    per_output = []
    for node, y in zip(outputs, part.y, strict=True):
        table = weights.get(str(node["id"]))
        factor = stored if table is None else stored * np.asarray(table, np.float32)[y[:, 0].astype(np.int64)]
        per_output.append(factor.astype(np.float32))
    return Part(part.x, part.y, tuple(per_output))


def order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """The order of the rows in an epoch (from 0): a pure function of seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def steps_of(rows: int, batch_size: int) -> int:
    """How many batches an epoch has; the last may be smaller."""
    return -(-rows // batch_size)


def fits_memory(*parts: Part | None) -> bool:
    """Whether the data may be held in tensors beside everything else."""
    wanted = sum(part.size_bytes for part in parts if part is not None)
    return wanted <= GATHER_SHARE * psutil.virtual_memory().available


class Gather:
    """Batches on TensorFlow: the data are tensors, an epoch is a list of indices into them.

    The indices lie in a variable, so that one `tf.data.Dataset` serves every epoch: building one traces a
    function, which takes longer than a short epoch.
    """

    def __init__(self, part: Part, batch_size: int) -> None:
        import tensorflow as tf

        self._tf = tf
        self._batch_size = batch_size
        self._made: dict[tuple[int, int], Any] = {}
        groups = [part.x, part.y] + ([] if part.weights is None else [part.weights])
        with tf.device("CPU:0"):
            self._tensors = [tuple(tf.convert_to_tensor(array) for array in group) for group in groups]
            self._rows = tf.Variable(tf.zeros((0,), tf.int64), shape=(None,), trainable=False)

    def batches(self, rows: NDArray[np.int64], skip: int = 0) -> Any:
        """A `tf.data.Dataset` of the batches of some rows, after the first `skip`; valid until the next call."""
        self._rows.assign(rows)
        key = (skip, steps_of(len(rows), self._batch_size))
        if key not in self._made:
            self._made[key] = self._dataset(*key)
        return self._made[key]

    def _dataset(self, first: int, stop: int) -> Any:
        tf, size = self._tf, self._batch_size

        def gather(number: Any) -> Any:
            chosen = self._rows[number * size : (number + 1) * size]
            return tuple(_single(tuple(tf.gather(array, chosen) for array in group)) for group in self._tensors)

        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.private_threadpool_size = 1
        return tf.data.Dataset.range(first, stop).map(gather).prefetch(2).with_options(options)


class Blocks:
    """Batches on any backend: each item of a `keras.utils.PyDataset` is a whole batch."""

    def __init__(self, part: Part, batch_size: int) -> None:
        import keras

        class Batches(keras.utils.PyDataset):  # type: ignore[misc]
            def __init__(self, rows: NDArray[np.int64], skip: int) -> None:
                super().__init__(workers=1, use_multiprocessing=False, max_queue_size=4)
                self._rows = rows[skip * batch_size :]

            def __len__(self) -> int:
                return steps_of(len(self._rows), batch_size)

            def __getitem__(self, index: int) -> tuple[Any, ...]:
                return part.batch(self._rows[index * batch_size : (index + 1) * batch_size])

        self._kind = Batches

    def batches(self, rows: NDArray[np.int64], skip: int = 0) -> Any:
        """The batches of some rows, after the first `skip`."""
        return self._kind(rows, skip)
