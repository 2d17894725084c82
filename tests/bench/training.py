"""Epoch speed of the trainer against plain `fit` on arrays: `python tests/bench/training.py`.

Rounds are interleaved in one process; what counts is the median of their ratios.
"""

from __future__ import annotations

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")

import keras
import numpy as np

from tapeline.trainer import dataset

ROWS, COLUMNS, BATCH, ROUNDS = 200_000, 64, 1024, 7


def model(steps_per_execution: int) -> keras.Model:
    """Dense 64-128-64-1, compiled as the trainer does it."""
    inputs = keras.Input((COLUMNS,))
    hidden = keras.layers.Dense(128, activation="relu")(inputs)
    hidden = keras.layers.Dense(64, activation="relu")(hidden)
    made = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    made.compile("adam", "binary_crossentropy", metrics=["accuracy"], steps_per_execution=steps_per_execution)
    return made


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    keras.utils.set_random_seed(0)
    part = dataset.Part((x,), (y,), None)
    for per_execution in (1, 16):
        loaders = {"plain": None, "gather": dataset.Gather(part, BATCH), "blocks": dataset.Blocks(part, BATCH)}
        models = {name: model(per_execution) for name in loaders}
        times: dict[str, list[float]] = {name: [] for name in loaders}
        for i in range(ROUNDS + 1):
            for name, loader in loaders.items():
                began = time.perf_counter()
                if loader is None:
                    models[name].fit(x, y, batch_size=BATCH, verbose=0)
                else:
                    models[name].fit(loader.batches(dataset.order(0, i, ROWS)), shuffle=False, verbose=0)
                if i:
                    times[name].append(time.perf_counter() - began)
        for name in ("gather", "blocks"):
            ratios = [a / b for a, b in zip(times["plain"], times[name], strict=True)]
            print(
                f"steps per execution {per_execution:2d}, {name}: {statistics.median(ratios):.2f} x plain fit "
                f"({ROWS / statistics.median(times[name]):,.0f} samples/s)"
            )


if __name__ == "__main__":
    main()
