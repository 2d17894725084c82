"""Our own Keras layers, registered as `tapeline>...`, defined when first asked for.

Keras is imported on that first call and not before, so that a canvas can be read without it. The layers
use `keras.ops` alone: a model trained on one backend loads on the others with `safe_mode=True`.
"""

from __future__ import annotations

from functools import cache
from typing import Any


def imported_keras() -> Any:
    """Keras, imported by the first call; untyped, as its own annotations are wrong in places."""
    import keras

    return keras


@cache
def registered_layers() -> dict[str, Any]:
    """The classes of our layers by name; asking for them registers them with Keras."""
    import keras

    ops: Any = keras.ops

    @keras.saving.register_keras_serializable(package="tapeline")
    class SelectFields(keras.layers.Layer):  # type: ignore[misc]
        """Some positions of one axis of a sample, in the order given.

        Parameters
        ----------
        columns : list of int
            Positions; negative ones count from the end.
        axis : int
            Axis with the batch counted: 1 is the first of a sample, -1 the last.
        """

        def __init__(self, columns: list[int], axis: int = -1, **more: Any) -> None:
            super().__init__(**more)
            self.columns = [int(column) for column in columns]
            self.axis = int(axis)

        def call(self, inputs: Any) -> Any:
            length = inputs.shape[self.axis]
            return ops.take(inputs, [column % length for column in self.columns], axis=self.axis)

        def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
            shape = list(input_shape)
            shape[self.axis] = len(self.columns)
            return tuple(shape)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "columns": self.columns, "axis": self.axis}

    @keras.saving.register_keras_serializable(package="tapeline")
    class WindowNorm(keras.layers.Layer):  # type: ignore[misc]
        """A window scaled by its own values along time (axis 1), column by column.

        Parameters
        ----------
        mode : {"last", "zscore", "minmax"}
            `last`: x / last - 1; `zscore`: (x - mean) / deviation; `minmax`: (x - min) / (max - min).

        Notes
        -----
        Where the divisor is 0 (a constant column, a last value of 0), the result is 0.
        """

        def __init__(self, mode: str = "zscore", **more: Any) -> None:
            super().__init__(**more)
            if mode not in ("last", "zscore", "minmax"):
                raise ValueError(f"mode {mode!r} is not known; modes are: last, zscore, minmax")
            self.mode = mode

        def call(self, inputs: Any) -> Any:
            if self.mode == "last":
                divisor = inputs[:, -1:, :]
                origin = divisor
            elif self.mode == "zscore":
                origin = ops.mean(inputs, axis=1, keepdims=True)
                divisor = ops.std(inputs, axis=1, keepdims=True)
            else:
                origin = ops.min(inputs, axis=1, keepdims=True)
                divisor = ops.max(inputs, axis=1, keepdims=True) - origin
            is_zero = ops.equal(divisor, 0)
            scaled = (inputs - origin) / ops.where(is_zero, ops.ones_like(divisor), divisor)
            return ops.where(is_zero, ops.zeros_like(scaled), scaled)

        def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
            return input_shape

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "mode": self.mode}

    return {"SelectFields": SelectFields, "WindowNorm": WindowNorm}
