"""Keras callbacks: what a `fit` measures and how far it is goes into a run.

`tl.keras.Logger` and `tl.keras.Checkpointer`; Keras is imported when one of them is touched.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tapeline.canvas.transpile.layers import imported_keras
from tapeline.sdk.arguments import one_of
from tapeline.sdk.system_load import SystemLoad

if TYPE_CHECKING:
    from tapeline.sdk.checkpoints import Checkpoint
    from tapeline.sdk.runs import Run

    class Logger:
        """See `_logger`, which makes the class once Keras is there."""

        run: Run | None

        def __init__(
            self,
            run: Run | None = None,
            log_freq: str | int = "epoch",
            prefix: str = "",
            *,
            batch_size: int | None = None,
        ) -> None: ...

    class Checkpointer:
        """See `tapeline.sdk.keras_checkpointer`, which makes the class once Keras is there."""

        run: Run | None
        resumed: Checkpoint | None

        def __init__(
            self,
            run: Run | None = None,
            monitor: str = "val_loss",
            mode: str = "auto",
            save_best_only: bool = False,
            every: str | int = "epoch",
            keep_last: int = 1,
            keep_best: int = 1,
            *,
            callbacks: Sequence[Any] = (),
        ) -> None: ...


__all__ = ["Checkpointer", "Logger"]

SYSTEM_S = 10.0
"""How often what the process uses is measured."""
PROGRESS_S = 0.5
"""How often at most the batches of an epoch are told."""


def __getattr__(name: str) -> Any:
    if name == "Logger":
        return _logger()
    if name == "Checkpointer":
        from tapeline.sdk.keras_checkpointer import checkpointer

        return checkpointer()
    raise AttributeError(f"module 'tapeline.sdk.keras' has no attribute {name!r}")


@cache
def _logger() -> type:
    keras = imported_keras()

    class Logger(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        """Logs a training into a run: all that Keras tells, learning rate, speed, and what the process uses.

        Parameters
        ----------
        run : Run, optional
            One that `tl.start` began. Default: the run that this process trains now, else a new one, named after
            the model, which ends with the `fit`.
        log_freq : {"epoch", "batch"} or int
            Besides the ends of epochs: nothing, every batch, or each so many batches.
        prefix : str
            Put before every tag.
        batch_size : int, optional
            Rows of a batch, which Keras does not tell its callbacks: with it the speed is in samples too.

        Notes
        -----
        The step is the optimizer's count of iterations, so that a training that is resumed goes on where it was.
        Values at the end of an epoch are under `epoch/`. When somebody asks the run to stop, the training ends
        after the batch in which that is heard.

        Examples
        --------
        >>> from tapeline import sdk as tl
        >>> import keras, numpy as np
        >>> entry = keras.Input((2,))
        >>> model = keras.Model(entry, keras.layers.Dense(1)(entry))
        >>> model.compile("sgd", "mse")
        >>> with tl.start("fitted", project="examples") as run:
        ...     x, y = np.ones((32, 2)), np.ones(32)
        ...     history = model.fit(x, y, epochs=2, verbose=0, callbacks=[tl.keras.Logger(run)])
        >>> run.latest()["epoch/loss"].global_step
        2
        """

        # Keras may call this beside the training, where no other callback forbids it.
        async_safe = True

        def __init__(
            self,
            run: Run | None = None,
            log_freq: str | int = "epoch",
            prefix: str = "",
            *,
            batch_size: int | None = None,
        ) -> None:
            super().__init__()
            if isinstance(log_freq, str):
                one_of("log_freq", log_freq, ("epoch", "batch"))
            elif isinstance(log_freq, bool) or not isinstance(log_freq, int) or log_freq < 1:
                raise ValueError(f"log_freq is 'epoch', 'batch' or a number of batches from 1, not {log_freq!r}")
            self.run = run
            self._every: int = log_freq if isinstance(log_freq, int) else {"epoch": 0, "batch": 1}[log_freq]
            self._prefix = prefix
            self._batch_size = batch_size
            self._is_own = False
            self._is_new = True
            self._began_at_step = 0
            self._seen = 0
            self._epoch_began = (0.0, 0)
            self._told_at = 0.0
            self._load = SystemLoad(SYSTEM_S)

        def on_train_begin(self, logs: Any = None) -> None:
            if self.run is None:
                self.run, self._is_own = run_for(str(self.model.name))
            self._is_new = True
            self._seen = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if self._is_new:
                # Not when the training begins: a Checkpointer that comes later in the list may go on from a checkpoint.
                self._began_at_step = iterations(self.model)
                self._is_new = False
            self._epoch_began = (time.perf_counter(), self._seen)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert self.run is not None
            self._seen = self._epoch_began[1] + batch + 1
            step = self._began_at_step + self._seen
            every = self._every
            if every and logs and self._seen % every == 0:
                self.run.log({self._prefix + name: value for name, value in logs.items()}, step)
            if used := self._load.due():
                self.run.log({f"{self._prefix}system/{name}": value for name, value in used.items()}, step)
            if (now := time.monotonic()) - self._told_at >= PROGRESS_S:
                self._told_at = now
                steps = (self.params or {}).get("steps")
                self.run.tell_progress("batches", batch + 1, steps or batch + 1, "batches")
            if self.run.should_stop:
                self.model.stop_training = True

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert self.run is not None
            step = self._began_at_step + self._seen
            values = {f"epoch/{name}": value for name, value in (logs or {}).items()}
            values["lr"] = _learning_rate(self.model)
            began, seen = self._epoch_began
            if (took := time.perf_counter() - began) > 0 and self._seen > seen:
                values["speed/steps_per_s"] = (self._seen - seen) / took
                if self._batch_size is not None:
                    values["speed/samples_per_s"] = (self._seen - seen) * self._batch_size / took
            self.run.log({self._prefix + name: value for name, value in values.items() if value is not None}, step)
            done = self._seen - seen
            self.run.tell_progress("batches", done, (self.params or {}).get("steps") or done, "batches")
            self.run.tell_progress("epochs", epoch + 1, (self.params or {}).get("epochs") or epoch + 1, "epochs")
            if self.run.should_stop:
                self.model.stop_training = True

        def on_train_end(self, logs: Any = None) -> None:
            if self._is_own and self.run is not None:
                self.run.finish()

    return Logger


def run_for(name: str) -> tuple[Run, bool]:
    """The run that this process trains, or a new one; and whether it is new."""
    from tapeline.sdk import attached

    found = attached.current()
    if found is not None:
        return found, False
    return attached.start(name), True


def iterations(model: Any) -> int:
    """Batches that a model has been trained on."""
    optimizer = getattr(model, "optimizer", None)
    return 0 if optimizer is None else int(_number(optimizer.iterations))


def _learning_rate(model: Any) -> float | None:
    """The rate as it is now, of a schedule too."""
    optimizer = getattr(model, "optimizer", None)
    return None if optimizer is None else _number(optimizer.learning_rate)


def _number(value: Any) -> float:
    return float(imported_keras().ops.convert_to_numpy(value))
