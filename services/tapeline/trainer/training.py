"""Training a canvas: one `fit` per epoch, state taken and put back at batch boundaries, exact on resume.

What makes it exact: the order of an epoch is a pure function of seed and epoch; the state holds weights,
optimizer, seed generators and the running means of metrics; it is put back after Keras has reset its
metrics, in the first callback of the resumed epoch; and boundaries lie where they lay before.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tapeline import training_state as state
from tapeline.canvas.columns import LabelColumns
from tapeline.canvas.transpile.layers import imported_keras
from tapeline.errors import TapelineError
from tapeline.trainer import dataset, fingerprint, rules
from tapeline.trainer.job import CheckpointMeta, Done, Job


def warm_up() -> None:
    """Import what every training needs and trace a step once; nothing of it is kept."""
    import numpy as np

    import tapeline.canvas.transpile
    import tapeline.security.models  # noqa: F401

    keras = imported_keras()
    _limit_threads()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse", metrics=["mae", "auc"], steps_per_execution=2)
    part = dataset.Part((np.zeros((4, 2), np.float32),), (np.zeros((4, 1), np.float32),), None)
    batches = _loader(part, 2, keras.backend.backend())
    model.fit(batches.batches(dataset.order(0, 0, 4)), verbose=0, shuffle=False)
    model.evaluate(batches.batches(dataset.order(0, 0, 4)), verbose=0)
    keras.backend.clear_session()


def steps_per_execution(parameters: int, batch_size: int, backend: str) -> int:
    """How many batches one call of the step function takes: a pure function, and the boundary of stops."""
    work = 6 * parameters * batch_size
    if backend == "torch" or work > 1e10:
        return 1
    return 16 if work <= 1e9 else 4


@dataclass(slots=True)
class Where:
    """A place in a training: epochs done, steps done in the one that is open, and of the whole run."""

    epoch: int = 0
    step_in_epoch: int = 0
    global_step: int = 0


@dataclass(slots=True)
class Course:
    """Everything that one attempt works with."""

    job: Job
    model: Any
    make_model: Callable[[], Any]
    canvas: Mapping[str, Any]
    tags: Mapping[str, str]
    train: Any
    validation: Any
    rows: int
    validation_rows: int
    batch_size: int
    epochs: int
    base_rate: float
    fingerprint: dict[str, Any]
    said: dict[str, Any]
    early: rules.Patience | None
    smart: rules.Patience | None
    at: Where = field(default_factory=Where)
    resumed: state.Checkpoint | None = None
    shadow: Any = None
    best_weights: state.Arrays | None = None
    best: dict[str, Any] | None = None
    monitored: dict[str, float] = field(default_factory=dict)
    trained_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return dataset.steps_of(self.rows, self.batch_size)


def train(job: Job) -> Done:
    """Train to the end of the config, or to a stop."""
    course = _prepare(job)
    resume, differs = _resume(course)
    where = course.at
    job.started(
        global_step=where.global_step,
        training_epochs=course.epochs,
        steps_per_epoch=course.steps,
        resume=resume,
        differs=differs,
        fingerprint=course.fingerprint,
        parameters=int(course.model.count_params()),
        details={"rows": course.rows, "validation_rows": course.validation_rows} | course.said,
    )
    stopped_early = False
    while where.epoch < course.epochs and not stopped_early:
        if job.should_stop():
            return _stop(course)
        stopped_at = _one_epoch(course)
        if stopped_at is not None:
            return _stop(course)
        stopped_early = _end_epoch(course)
    if course.smart is not None and course.best_weights is not None:
        state.set_weights(course.model, course.best_weights)
    if job.checkpoint_step != where.global_step or course.smart is not None:
        save(course, is_last=True)
    job.progress("train", where.epoch, where.epoch, "epochs")
    return Done(
        global_step=where.global_step, training_epochs=where.epoch, stopped_early=stopped_early, best=course.best
    )


# --- before the first step --------------------------------------------------------------------------


def _limit_threads() -> None:
    if imported_keras().backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    threads = int(os.environ.get("TF_NUM_INTRAOP_THREADS", "1"))
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def _make_deterministic(is_wanted: bool, seed: int) -> None:
    keras = imported_keras()
    keras.utils.set_random_seed(seed)
    if is_wanted and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    if config.get("init_from") is not None:
        raise TapelineError(
            "this version does not take weights over from another run", code="unsupported", hint="leave out init_from"
        )
    if int(config.get("devices") or 1) != 1:
        raise TapelineError("this version trains on one device", code="unsupported", hint="set devices to 1")


def _loader(part: dataset.Part, batch_size: int, backend: str) -> Any:
    if backend == "tensorflow" and dataset.fits_memory(part):
        return dataset.Gather(part, batch_size)
    return dataset.Blocks(part, batch_size)


def _prepare(job: Job) -> Course:
    from tapeline.canvas import transpile as to_keras
    from tapeline.canvas.model import Canvas

    config = job.config
    _refuse_unsupported(config)
    asset: Mapping[str, Any] = job.spec.get("asset") or {}
    canvas: Mapping[str, Any] = job.spec["canvas"]
    backend = imported_keras().backend.backend()
    _limit_threads()
    deterministic = bool(config.get("deterministic", True))
    _make_deterministic(deterministic, job.seed)
    labels = {name: LabelColumns.of(*types) for name, types in (asset.get("labels") or {}).items()}
    job.progress("load", 0, 1, "asset")
    local = job.asset()
    named = [str(file["name"]) for file in asset.get("files") or ()] or sorted(local)
    files = [local[name] for name in named if name in local and not name.endswith("_test.h5")]
    data = dataset.load(canvas, files, labels, validate=config.get("validation", True) is not False)
    batch_size = int(config.get("batch_size", 1024))
    optimizer = config.get("optimizer") or {"name": "adam"}
    document = {name: value for name, value in canvas.items() if name != "training"}
    make_model = partial(
        to_keras.transpile,
        document,
        feature_shapes={name: tuple(shape) for name, shape in (asset.get("features") or {}).items()},
        labels=labels,
        stats=_stats((asset.get("stats") or {}).get("features") or {}, to_keras.FeatureStats),
        seed=job.seed,
        optimizer=optimizer,
        dtype=str(config.get("dtype", "float32")),
        jit_compile=config.get("jit", "auto"),
    )
    model = make_model()
    wanted = config.get("steps_per_execution", "auto")
    per_execution = (
        steps_per_execution(int(model.count_params()), batch_size, backend) if wanted == "auto" else int(wanted)
    )
    model.steps_per_execution = per_execution
    loader = _loader(data.train, batch_size, backend)
    validation = None if data.validation is None else _loader(data.validation, batch_size, backend)
    job.progress("load", 1, 1, "asset")
    early, smart = config.get("early_stopping"), config.get("smartfit")
    return Course(
        job=job,
        model=model,
        make_model=make_model,
        canvas=canvas,
        tags=to_keras.metric_tags(Canvas.model_validate(document), labels),
        train=loader,
        validation=validation,
        rows=len(data.train),
        validation_rows=0 if data.validation is None else len(data.validation),
        batch_size=batch_size,
        epochs=int(config.get("epochs", 10)),
        base_rate=float(optimizer.get("learning_rate") or 0.001),
        fingerprint=fingerprint.of(
            loader=type(loader).__name__.lower(),
            batch_size=batch_size,
            steps_per_execution=per_execution,
            dtype=str(config.get("dtype", "float32")),
            jit=config.get("jit", "auto"),
            deterministic=deterministic,
        ),
        said=data.said(asset),
        early=rules.Patience.early_stopping(early) if early else None,
        smart=rules.Patience.smartfit(smart) if smart else None,
    )


def _stats(stored: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    return {name: kind(moments["mean"], moments["variance"]) for name, moments in stored.items()}


def _resume(course: Course) -> tuple[str, list[str]]:
    folder = course.job.restore()
    if folder is None:
        return "none", []
    found = state.read(folder)
    position = found.position
    differs = fingerprint.differences(position["fingerprint"], course.fingerprint)
    if differs and course.job.config.get("require_exact", False):
        raise TapelineError(
            f"the checkpoint was written under other conditions: {', '.join(differs)}",
            code="fingerprint_refused",
            hint="resume where they are equal, or set require_exact to false",
        )
    steps_before = int(position["steps_per_epoch"])
    course.at.epoch = int(position["epoch"])
    course.at.step_in_epoch = int(position["step_in_epoch"])
    course.at.global_step = int(position["global_step"])
    if steps_before != course.steps and course.at.step_in_epoch:
        # Other batches than before: the open epoch goes on after the same share of its rows.
        course.at.step_in_epoch = min(course.steps - 1, course.at.step_in_epoch * course.steps // steps_before)
    course.trained_s = float(position.get("trained_s", 0.0))
    course.monitored = dict(position.get("monitored") or {})
    course.best = position.get("best")
    callbacks = position.get("callbacks") or {}
    for name, rule in (("early_stopping", course.early), ("smartfit", course.smart)):
        if rule is not None and name in callbacks:
            rule.set_state(callbacks[name])
    best = {name.removeprefix("b/"): array for name, array in found.arrays.items() if name.startswith("b/")}
    course.best_weights = best or None
    course.resumed = found
    # Metric variables exist only after a first step: one on a batch that does not count, undone by the restore.
    rows = dataset.order(course.job.seed, course.at.epoch, course.rows)[: course.batch_size]
    course.model.fit(course.train.batches(rows), verbose=0, shuffle=False)
    if course.at.epoch >= course.epochs or course.at.step_in_epoch == 0:
        state.put_back(course.model, found.arrays, with_metrics=False)
    return ("approximate" if differs else "exact"), differs


# --- one epoch --------------------------------------------------------------------------------------


def _one_epoch(course: Course) -> int | None:
    """Train the open epoch from where it stands; the step in it where a stop ended it, else None."""
    from tapeline.trainer.callbacks import steering

    where = course.at
    order = dataset.order(course.job.seed, where.epoch, course.rows)
    steer = steering(course)
    course.model.fit(
        course.train.batches(order, where.step_in_epoch),
        epochs=where.epoch + 1,
        initial_epoch=where.epoch,
        callbacks=[steer],
        verbose=0,
        shuffle=False,
    )
    stopped_at: int | None = steer.stopped_at
    return stopped_at


def _end_epoch(course: Course) -> bool:
    """Measure, validate, apply the rules and checkpoint; whether training ends early here."""
    job, where = course.job, course.at
    values = {tag: value for tag, value in course.monitored.items() if tag.startswith("train/")}
    if course.validation is not None:
        job.progress("validate", 0, course.validation_rows, "rows")
        import numpy as np

        logs = course.model.evaluate(
            course.validation.batches(np.arange(course.validation_rows)), verbose=0, return_dict=True
        )
        job.progress("validate", course.validation_rows, course.validation_rows, "rows")
        for name, value in logs.items():
            values[f"val/{course.tags.get(name, name)}"] = float(value)
    # Epochs count from 1 outside, and an epoch's values stand at its last step.
    where.epoch += 1
    where.step_in_epoch = 0
    step = where.global_step
    for tag, value in values.items():
        if tag.startswith("val/"):
            job.metric(tag, value, step)
    main = values.get("val/loss", values.get("train/loss", math.nan))
    course.monitored = values
    if course.best is None or main < course.best["value"]:
        tag = "val/loss" if "val/loss" in values else "train/loss"
        course.best = {"tag": tag, "value": main, "global_step": step, "training_epoch": where.epoch}
    job.progress("train", where.epoch, course.epochs, "epochs")
    is_over = _apply_rules(course, values, main)
    is_last = is_over or where.epoch >= course.epochs
    cadence = job.config.get("checkpoint") or {}
    every = cadence.get("every_epochs", 1)
    if not is_last and every and where.epoch % int(every) == 0 and not job.checkpoint_in_flight():
        save(course)
    return is_over and where.epoch < course.epochs


def _apply_rules(course: Course, values: Mapping[str, float], main: float) -> bool:
    is_over = False
    if course.early is not None:
        monitor = str((course.job.config.get("early_stopping") or {}).get("monitor") or "auto")
        # A run without validation has no val/loss; its train loss decides then.
        course.early.epoch(values.get(monitor, main), course.at.epoch)
        is_over = course.early.is_over
    if course.smart is not None:
        if course.smart.epoch(main, course.at.epoch):
            course.best_weights = state.weights_of(course.model)
        is_over = is_over or course.smart.is_over
    return is_over


# --- checkpoints and stops --------------------------------------------------------------------------


def _stop(course: Course) -> Done:
    course.job.stopping()
    if course.job.checkpoint_step != course.at.global_step:
        save(course, is_last=True)
    return Done(global_step=course.at.global_step, training_epochs=course.at.epoch, stopped=True, best=course.best)


def save(course: Course, *, is_last: bool = False) -> None:
    """Take the state now and write it in a thread; the last one of an attempt is whole when this returns.

    The model file, named by the epochs done, is written from a copy of the model that takes over the state:
    training waits only for the copy of the state to host memory.
    """
    job, where = course.job, course.at
    taken = state.take(course.model)
    if course.best_weights is not None:
        taken |= {f"b/{path}": array for path, array in course.best_weights.items()}
    position = _position(course, taken)
    meta = CheckpointMeta(
        training_epoch=where.epoch,
        monitored={tag: value for tag, value in course.monitored.items() if math.isfinite(value)},
        weights_digest=position["weights_digest"],
        state_digest=position["state_digest"],
    )
    if course.shadow is None:
        # Its optimizer is that of the config, unused: what goes on from here goes on from state.npz.
        course.shadow = course.make_model()
    shadow, epochs_done = course.shadow, where.epoch

    def write(folder: Path) -> CheckpointMeta:
        from tapeline.security import models

        state.write(folder, taken, position, course.canvas)
        state.set_weights(shadow, {name.removeprefix("w/"): array for name, array in taken.items()})
        models.save(shadow, folder / f"model.{epochs_done}.keras")
        return meta

    job.checkpoint_later(where.global_step, write, wait=is_last)


def _position(course: Course, taken: state.Arrays) -> dict[str, Any]:
    where = course.at
    return {
        "schema": "tapeline.checkpoint/1",
        "epoch": where.epoch,
        "step_in_epoch": where.step_in_epoch,
        "global_step": where.global_step,
        "steps_per_epoch": course.steps,
        "seed": course.job.seed,
        "run": course.job.run,
        "attempt": course.job.attempt,
        "steps_per_execution": course.fingerprint["steps_per_execution"],
        "batch_size": course.batch_size,
        "asset": (course.job.spec.get("asset") or {}).get("id"),
        "fingerprint": course.fingerprint,
        "callbacks": {
            name: rule.get_state()
            for name, rule in (("early_stopping", course.early), ("smartfit", course.smart))
            if rule is not None
        },
        "monitored": {tag: value for tag, value in course.monitored.items() if math.isfinite(value)},
        "best": course.best,
        "trained_s": course.trained_s + time.monotonic() - course.began,
        "weights_digest": state.digest(taken, "w/"),
        "state_digest": state.digest(taken),
    }
