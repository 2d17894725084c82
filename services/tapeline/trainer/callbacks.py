"""The one callback of a training: it steers `fit` from boundary to boundary within one epoch."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from tapeline import training_state as state
from tapeline.errors import TapelineError
from tapeline.trainer import rules

if TYPE_CHECKING:
    from tapeline.trainer.training import Course


def steering(course: Course) -> Any:
    """A Keras callback for the open epoch of a course.

    At each boundary (the end of one execution of steps) it measures on the grid, checkpoints when due and
    stops when asked. `stopped_at` is the step of the epoch where a stop ended it, else None.
    """
    import keras

    from tapeline.trainer.training import save

    job, where, model = course.job, course.at, course.model
    config = job.config
    steps, first = course.steps, where.step_in_epoch
    every = int(config.get("metrics_every", 64))
    total = course.epochs * steps
    schedule = config.get("schedule") or "constant"
    stop_on_nan = bool(config.get("stop_on_nan", True))
    max_seconds = config.get("max_seconds")
    before_epoch = where.global_step - first

    class Steering(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stopped_at: int | None = None
            self.measured_at = -1
            self.rate_from = (time.monotonic(), first)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if course.resumed is not None:
                # After Keras has reset its metrics, before the first step.
                state.put_back(model, course.resumed.arrays, with_metrics=first > 0)
                course.resumed = None
            self._set_rate(where.global_step)

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if schedule != "constant":
                self._set_rate(before_epoch + first + batch)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            before = where.global_step
            # Keras counts a whole execution even where the epoch ends within it.
            where.step_in_epoch = min(first + batch + 1, steps)
            where.global_step = before_epoch + where.step_in_epoch
            job.step(where.global_step)
            is_last = where.step_in_epoch >= steps
            if is_last or where.global_step // every > before // every:
                self._measure(logs or {})
            job.progress("epoch", where.step_in_epoch, steps, "steps")
            job.progress("train", round((where.epoch + where.step_in_epoch / steps), 3), course.epochs, "epochs")
            if max_seconds is not None and course.trained_s + time.monotonic() - course.began > float(max_seconds):
                raise TapelineError(f"training took more than {max_seconds} s", code="timeout")
            if is_last:
                return
            if job.should_stop():
                self.stopped_at = where.step_in_epoch
                model.stop_training = True
            elif job.checkpoint_due(where.global_step):
                save(course)

        def _set_rate(self, step: int) -> None:
            factor = 1.0 if course.smart is None else course.smart.factor
            if schedule != "constant" or factor != 1.0:
                model.optimizer.learning_rate.assign(rules.scheduled(schedule, course.base_rate, step, total) * factor)

        def _measure(self, logs: dict[str, Any]) -> None:
            # Reading the logs waits for the device, so it is done on the grid only.
            step = where.global_step
            now = time.monotonic()
            values = {course.tags.get(name, name): float(value) for name, value in logs.items()}
            course.monitored = {f"train/{tag}": value for tag, value in values.items()}
            for tag, value in course.monitored.items():
                job.metric(tag, value, step)
            job.metric("lr", float(model.optimizer.learning_rate), step)
            began, done = self.rate_from
            if now > began and where.step_in_epoch > done:
                rate = (where.step_in_epoch - done) * course.batch_size / (now - began)
                job.metric("speed/samples_per_s", rate, step)
            self.rate_from = (now, where.step_in_epoch)
            if stop_on_nan and not math.isfinite(values.get("loss", 0.0)):
                raise TapelineError(
                    f"the loss at step {step} is {values['loss']}",
                    code="nan_loss",
                    hint="use a smaller learning rate, clipnorm, or scaled features",
                )

    return Steering()
