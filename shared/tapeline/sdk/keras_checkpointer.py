"""`tl.keras.Checkpointer`: checkpoints of a `fit` that a run of this process keeps, and going on from the last one."""

from __future__ import annotations

import inspect
import json
import logging
import math
import random
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.canvas.transpile.layers import imported_keras
from tapeline.errors import TapelineError
from tapeline.ids import new_id
from tapeline.sdk.arguments import one_of

if TYPE_CHECKING:
    from tapeline.sdk.checkpoints import Checkpoint
    from tapeline.sdk.runs import Run

logger = logging.getLogger("tapeline")

MODES = ("auto", "min", "max")
PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that was written: its place among the others, and by what it is judged."""

    key: str
    step: int
    value: float | None


@cache
def checkpointer() -> type:
    """The class, which is one of Keras's callbacks."""
    keras = imported_keras()

    class Checkpointer(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        """Keeps checkpoints of a training with its run, and goes on from the last one when the run goes on.

        A checkpoint is `model.keras`, `state.npz` with every weight, optimizer variable, seed generator and metric,
        and `position.json` with the epoch, the batch, the step, the random generators of Python and NumPy, and the
        state of other callbacks. It is taken at once, sent beside the training, and `incomplete` until the service
        has every byte.

        Parameters
        ----------
        run : Run, optional
            One that `tl.start` began. Default: the run that this process trains now, else a new one, named after
            the model, which ends with the `fit`.
        monitor : str
            The value of an epoch that says which checkpoint is the best.
        mode : {"auto", "min", "max"}
            Whether less or more of it is better; "auto" takes more for what is named an accuracy, an AUC or the like.
        save_best_only : bool
            Take none at the end of an epoch that was not the best so far.
        every : {"epoch"} or int
            At the end of each epoch, or each so many batches.
        keep_last, keep_best : int
            How many stay: the newest and the best; others are deleted once a newer one is complete.
        callbacks : sequence
            Other callbacks of the same `fit`, such as EarlyStopping, whose state goes along.

        Attributes
        ----------
        resumed : Checkpoint or None
            What the training went on from.

        Notes
        -----
        When `run` is one that was resumed (`tl.start(..., resume=...)`), the training goes on from its latest
        complete checkpoint, at the epoch after it: `epochs` of `fit` counts those before too. From the end of an
        epoch the rest equals the uninterrupted training to the bit, where the order of the data depends on the epoch
        alone (`shuffle=False`, or a data set that orders itself); from within an epoch, that epoch begins again.

        Examples
        --------
        >>> from tapeline import sdk as tl
        >>> import keras, numpy as np
        >>> entry = keras.Input((2,))
        >>> model = keras.Model(entry, keras.layers.Dense(1)(entry))
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((32, 2)), np.ones(32)
        >>> with tl.start("kept", project="examples") as run:
        ...     kept = tl.keras.Checkpointer(run, monitor="loss")
        ...     history = model.fit(x, y, epochs=2, verbose=0, callbacks=[kept])
        >>> run.get_global_steps_with_checkpoints()
        [2]
        """

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
        ) -> None:
            super().__init__()
            if isinstance(every, str):
                one_of("every", every, ("epoch",))
            elif isinstance(every, bool) or not isinstance(every, int) or every < 1:
                raise ValueError(f"every is 'epoch' or a number of batches from 1, not {every!r}")
            for name, count, least in (("keep_last", keep_last, 1), ("keep_best", keep_best, 0)):
                if isinstance(count, bool) or not isinstance(count, int) or count < least:
                    raise ValueError(f"{name} is a number from {least}, not {count!r}")
            chosen = one_of("mode", mode, MODES)
            self.run = run
            self.resumed: Checkpoint | None = None
            self._monitor = monitor
            self._sign = -1.0 if chosen == "max" or (chosen == "auto" and _is_more_better(monitor)) else 1.0
            self._best_only = save_best_only
            self._every: int | None = every if isinstance(every, int) else None
            self._keep_last, self._keep_best = keep_last, keep_best
            self._others = list(callbacks)
            self._is_own = False
            self._epoch = 0
            self._best: float | None = None
            self._saved: list[Saved] = []
            self._has_warned = False
            self._sending = ThreadPoolExecutor(1, thread_name_prefix="tapeline-checkpoints")
            self._pending: list[Future[None]] = []
            self._ids: dict[str, str] = {}
            self._told: list[dict[str, Any]] = []

        def on_train_begin(self, logs: Any = None) -> None:
            from tapeline.sdk import keras as own

            if self.run is None:
                self.run, self._is_own = own.run_for(str(self.model.name))
            if self.run._attachment is None:
                raise ValueError("this run is not trained by this process; tl.start begins one that is")
            self.run._attachment.before_end.append(self._wait)
            if (self.run.attempt or 1) > 1:
                self._go_on()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._epoch = epoch
            # Not before: when a training begins, others forget what they knew.
            for other, its in zip(self._others, self._told, strict=False):
                _go_on_with(other, its)
            self._told = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self._every is not None and own_step(self.model) % self._every == 0:
                self._save(epoch=self._epoch, batch=batch + 1, values=logs or {}, value=None)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            value = self._judged(logs or {})
            is_best = value is not None and (self._best is None or value < self._best)
            if is_best:
                self._best = value
            if self._every is None and (is_best or not self._best_only):
                self._save(epoch=epoch + 1, batch=0, values=logs or {}, value=value)

        def on_train_end(self, logs: Any = None) -> None:
            if self._is_own and self.run is not None:
                self.run.finish()
            else:
                self._wait(None)

        def _judged(self, values: Any) -> float | None:
            """What the epoch is judged by; less is better. None where it was not told, or is no number."""
            value = values.get(self._monitor)
            if value is None:
                if not self._has_warned:
                    self._has_warned = True
                    logger.warning(
                        "checkpoints: %s was not told, only %s; none is the best", self._monitor,
                        ", ".join(sorted(values)) or "nothing",
                    )  # fmt: skip
                return None
            number = float(value) * self._sign
            return number if math.isfinite(number) else None

        def _save(self, *, epoch: int, batch: int, values: Any, value: float | None) -> None:
            """Take a checkpoint now, and send it beside the training."""
            from tapeline import training_state as state

            assert self.run is not None
            folder = Path(tempfile.mkdtemp(prefix="tapeline-checkpoint-"))
            saved = Saved(new_id(), own_step(self.model), value)
            try:
                arrays = state.take(self.model)
                self.model.save(folder / "model.keras")
                position = {
                    "epoch": epoch, "batch": batch, "global_step": saved.step, "best": self._best,
                    "saved": [[each.key, each.step, each.value] for each in [*self._saved, saved]],
                    "random": _random_state(), "callbacks": [_state_of(each) for each in self._others],
                    "weights": [each.path for each in self.model.weights],
                    "state_digest": state.digest(arrays), "weights_digest": state.digest(arrays, "w/"),
                }  # fmt: skip
                state.write(folder, arrays, position)
            except OSError as error:
                shutil.rmtree(folder, ignore_errors=True)
                logger.warning("checkpoint at step %d was not taken: %s", saved.step, error)
                return
            self._saved.append(saved)
            monitored = {
                name: float(told) for name, told in values.items() if math.isfinite(float(told))
            }  # fmt: skip
            gone = self._superfluous()
            work = (folder, saved, epoch, monitored, position, gone)
            self._pending = [each for each in self._pending if not each.done()]
            self._pending.append(self._sending.submit(self._send, *work))

        def _superfluous(self) -> list[Saved]:
            """The checkpoints that are neither among the newest nor among the best; they are let go."""
            judged = sorted((each for each in self._saved if each.value is not None), key=lambda each: each.value or 0)
            kept = {each.key for each in (*self._saved[-self._keep_last :], *judged[: self._keep_best])}
            gone = [each for each in self._saved if each.key not in kept]
            self._saved = [each for each in self._saved if each.key in kept]
            return gone

        def _send(
            self,
            folder: Path,
            saved: Saved,
            epoch: int,
            monitored: dict[str, float],
            position: dict[str, Any],
            gone: list[Saved],
        ) -> None:
            from tapeline.sdk import artifacts

            assert self.run is not None
            attachment = self.run._attachment
            named = {
                "run": attachment.about.run, "epoch": attachment.about.epoch, "checkpoint": saved.key,
                "global_step": saved.step,
            }  # fmt: skip
            client = self.run._client()
            try:
                begun = client.command("runs", "begin_checkpoint", **named)
                files = []
                for path in sorted(folder.iterdir()):
                    sha256 = artifacts.upload(client, "runs", path)
                    files.append({"name": path.name, "size_bytes": path.stat().st_size, "sha256": sha256})
                client.command(
                    "runs", "keep_checkpoint", **named, files=files, training_epoch=epoch, monitored=monitored,
                    weights_digest=position["weights_digest"], state_digest=position["state_digest"],
                )  # fmt: skip
                self._ids[saved.key] = begun.view["id"]
                ids = [id for each in gone if (id := self._ids.pop(each.key, None)) is not None]
                if ids:
                    client.command("runs", "delete_checkpoints", ids=ids)
            except (TapelineError, OSError) as error:
                # A training goes on without it: the next one is sent as well.
                logger.warning("checkpoint at step %d was not kept: %s", saved.step, error)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        def _wait(self, timeout: float | None) -> None:
            """Until what was taken is sent, or so many seconds are over."""
            wait(self._pending, timeout)

        def _go_on(self) -> None:
            """Put the latest complete checkpoint of the run back, if it has one."""
            from tapeline import training_state as state
            from tapeline.sdk import artifacts

            assert self.run is not None
            found = self.run.get_checkpoints(statuses=["complete"], limit=2**31)
            if not found:
                logger.warning("run %s has no complete checkpoint: it begins at its beginning", self.run.number)
                return
            newest = max(found, key=lambda each: (each.global_step or 0, each.created_at))
            with tempfile.TemporaryDirectory(prefix="tapeline-checkpoint-") as name:
                for file in newest.files or []:
                    artifacts.fetch(self.run._client(), "runs", file, Path(name))
                kept = state.read(Path(name))
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            position = kept.position
            # The names that Keras gives layers by itself count up within a process; their order is the model's.
            now = {
                f"w/{then}": f"w/{each.path}"
                for then, each in zip(position["weights"], self.model.weights, strict=False)
            }
            arrays = {now.get(name, name): array for name, array in kept.arrays.items()}
            state.put_back(self.model, arrays, with_metrics=False)
            self._best = position["best"]
            self._saved = [Saved(*each) for each in position["saved"]]
            self._ids = {key: id for key, id in self._known(found).items() if any(key == s.key for s in self._saved)}
            _set_random_state(position["random"])
            self._told = list(position["callbacks"])
            # Keras asks this of callbacks that go on, and gives `fit` what they say.
            self.model._initial_epoch = int(position["epoch"])
            self.resumed = newest

        def _known(self, found: list[Checkpoint]) -> dict[str, str]:
            by_step = {each.global_step: str(each.id) for each in found}
            return {each.key: by_step[each.step] for each in self._saved if each.step in by_step}

    return Checkpointer


def own_step(model: Any) -> int:
    """The step of a model: batches that it has been trained on."""
    from tapeline.sdk import keras as own

    return own.iterations(model)


def _is_more_better(monitor: str) -> bool:
    last = monitor.rpartition("/")[2].removeprefix("val_")
    return last.endswith(("acc", "accuracy", "auc", "precision", "recall", "f1", "f1_score"))


def _random_state() -> dict[str, Any]:
    import numpy as np

    kind, numbers, place, has_gauss, gauss = np.random.get_state()
    version, words, spare = random.getstate()
    return {
        "python": [version, list(words), spare],
        "numpy": [str(kind), [int(each) for each in numbers], int(place), int(has_gauss), float(gauss)],
    }  # fmt: skip


def _set_random_state(given: dict[str, Any]) -> None:
    import numpy as np

    version, words, spare = given["python"]
    random.setstate((version, tuple(words), spare))
    kind, numbers, place, has_gauss, gauss = given["numpy"]
    np.random.set_state((kind, np.array(numbers, "uint32"), place, has_gauss, gauss))


def _state_of(callback: Any) -> dict[str, Any]:
    """What another callback remembers, as far as that is plain: the best value, epochs waited, and so on."""
    found = {}
    # What it was made with is its user's to say, today as then.
    given = inspect.signature(type(callback)).parameters
    for name, value in vars(callback).items():
        number = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
        if isinstance(number, PLAIN) and name not in given and name[0] != "_":
            found[name] = number
    return {"class": type(callback).__name__, "values": json.loads(json.dumps(found))}


def _go_on_with(callback: Any, told: dict[str, Any]) -> None:
    if type(callback).__name__ == told["class"]:
        for name, value in told["values"].items():
            setattr(callback, name, value)


__all__ = ["Saved", "checkpointer"]
