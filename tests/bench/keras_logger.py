"""What `tl.keras.Logger` costs a training: time of its call at the end of a batch, and of whole fits.

`python tests/bench/keras_logger.py [--rounds 7] [--batches 300]`. An embedded instance is started in a temporary
folder. A small network is fitted with and without the callback in turns, in one process, on batches that take about a
millisecond; the medians and their ratio are printed, and the time of the call alone, which noise disturbs less. The
page on the SDK allows 2 % of a batch of 1 ms: 20 us.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def model(width: int) -> Any:
    import keras

    entry = keras.Input((64,))
    inner = keras.layers.Dense(width, activation="relu")(entry)
    made = keras.Model(entry, keras.layers.Dense(1)(keras.layers.Dense(width, activation="relu")(inner)))
    made.compile("sgd", "mse", metrics=["mae"])
    return made


def calls_us(logger: Any, count: int) -> list[float]:
    """The time of each call at the end of a batch, in microseconds."""
    found = []
    logs = {"loss": 0.25, "mae": 0.5}
    logger.on_epoch_begin(0)
    for i in range(count):
        start = time.perf_counter_ns()
        logger.on_train_batch_end(i, logs)
        found.append((time.perf_counter_ns() - start) / 1e3)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--batches", type=int, default=300)
    given = arguments.parse_args()
    import numpy as np

    from tapeline.embedded import start_detached, stop
    from tapeline.home import Home

    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as folder:
        os.environ["TAPELINE_HOME"] = folder
        home = Home(Path(folder))
        start_detached(home, 120)
        try:
            from tapeline import sdk as tl

            print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
            made = model(256)
            rows = np.random.default_rng(1).random((256 * given.batches, 64), dtype=np.float32)
            goal = rows.sum(1)
            times: dict[str, list[float]] = {"without": [], "batch": [], "epoch": []}
            with tl.start("bench") as run:
                loggers = {"without": [], "batch": [tl.keras.Logger(run, "batch")], "epoch": [tl.keras.Logger(run)]}
                made.fit(rows, goal, batch_size=256, verbose=0, shuffle=False)
                for _ in range(given.rounds):
                    for name, callbacks in loggers.items():
                        start = time.perf_counter()
                        made.fit(rows, goal, batch_size=256, verbose=0, shuffle=False, callbacks=callbacks)
                        times[name].append(time.perf_counter() - start)
                called = sorted(calls_us(loggers["batch"][0], 20_000))
            base = statistics.median(times["without"])
            print(f"{given.batches} batches of {base / given.batches * 1e3:.2f} ms, median of {given.rounds} rounds")
            for name, found in times.items():
                ratio = statistics.median(a / b for a, b in zip(found, times["without"], strict=True))
                print(f"{name:8} {statistics.median(found):7.3f} s   {ratio:.3f} of a fit without")
            p50, p99 = called[len(called) // 2], called[len(called) * 99 // 100]
            print(f"one call, two values: p50 {p50:.1f} us, p99 {p99:.1f} us; {p50 / 10:.2f} % of a batch of 1 ms")
        finally:
            stop(home)


if __name__ == "__main__":
    main()
