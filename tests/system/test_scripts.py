"""What scripts do beside `tl.start`: the Keras callback, and metrics to and from TensorBoard."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline import sdk as tl
from tapeline.cli.app import run as run_verb
from tapeline.home import Home

ROWS = np.linspace(0, 1, 64, dtype="float32").reshape(32, 2)


def model() -> Any:
    import keras

    entry = keras.Input((2,))
    made = keras.Model(entry, keras.layers.Dense(1)(entry), name="small")
    made.compile(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5)), "mse")
    return made


def fit(made: Any, epochs: int, *callbacks: Any) -> None:
    made.fit(ROWS, ROWS.sum(1), batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=list(callbacks))


def steps_of(run: tl.Run, tag: str) -> list[int]:
    return sorted(point.global_step for point in run.get_metrics(tags=[tag]))


def test_a_fit_is_logged_and_goes_on_at_its_step(shared_home: Home) -> None:
    made = model()
    with tl.start("fitted", project="scripts") as run:
        fit(made, 2, tl.keras.Logger(run, "batch", "a/", batch_size=8))
        fit(made, 1, tl.keras.Logger(run, 2))
    assert run.status == "job_completed"
    assert steps_of(run, "a/loss") == list(range(1, 9))
    assert steps_of(run, "loss") == [10, 12]
    assert steps_of(run, "a/epoch/loss") == [4, 8]
    last = run.latest()
    assert last["epoch/loss"].global_step == 12
    assert last["a/lr"].value == pytest.approx(0.1 * 0.5 ** (8 / 4))
    assert last["a/speed/samples_per_s"].value == pytest.approx(8 * last["a/speed/steps_per_s"].value)
    assert last["system/memory_bytes"].value > 1e6
    assert [(each.operation, each.value, each.final_value) for each in run.progress or ()] == [
        ("batches", 4, 4), ("epochs", 1, 1)
    ]  # fmt: skip


class Stops(BaseException):
    """What ends a training at an epoch, as a crash does."""


def dropping() -> Any:
    import keras

    keras.utils.set_random_seed(7)
    entry = keras.Input((2,))
    hidden = keras.layers.Dropout(0.5)(keras.layers.Dense(8, "relu")(entry))
    made = keras.Model(entry, keras.layers.Dense(1)(hidden), name="dropping")
    made.compile("adam", "mse")
    return made


def test_a_fit_that_stopped_goes_on_to_the_bit(shared_home: Home, tmp_path: Path) -> None:
    import keras

    def waits() -> Any:
        return keras.callbacks.EarlyStopping("loss", patience=50)

    with tl.start("whole", project="scripts") as whole:
        unbroken = dropping()
        early = waits()
        fit(unbroken, 5, tl.keras.Logger(whole, "batch"), early)

    def crash(epoch: int, logs: Any) -> None:
        if epoch == 2:
            raise Stops

    broken = dropping()
    with pytest.raises(Stops), tl.start("broken", project="scripts") as run:  # noqa: PT012
        kept = tl.keras.Checkpointer(run, monitor="loss", keep_best=0, callbacks=[first := waits()])
        stop = keras.callbacks.LambdaCallback(on_epoch_begin=crash)
        fit(broken, 5, tl.keras.Logger(run, "batch"), kept, first, stop)
    assert run.status == "job_failed"
    [checkpoint] = run.get_checkpoints(statuses=["complete"])
    assert (checkpoint.global_step, checkpoint.training_epoch, checkpoint.attempt) == (8, 2, 1)
    assert sorted(file["name"] for file in checkpoint.files or []) == ["model.keras", "position.json", "state.npz"]
    tl.download_checkpoint(str(checkpoint.id), str(tmp_path))
    assert (tmp_path / "model.keras").stat().st_size > 1000

    again = dropping()
    with tl.start("broken", resume=run.id) as resumed:
        goes_on = tl.keras.Checkpointer(resumed, monitor="loss", callbacks=[second := waits()])
        fit(again, 5, tl.keras.Logger(resumed, "batch"), second, goes_on)
    assert goes_on.resumed is not None
    assert goes_on.resumed.id == checkpoint.id
    assert (resumed.status, resumed.attempt) == ("job_completed", 2)
    assert steps_of(resumed, "loss") == list(range(1, 21))
    curves = [each.get_columns("loss").values.tolist() for each in (whole, resumed)]
    assert curves[0] == curves[1]
    for one, other in zip(unbroken.get_weights(), again.get_weights(), strict=True):
        assert (one == other).all()
    assert (second.best, second.wait) == (early.best, early.wait)
    assert resumed.get_global_steps_with_checkpoints()[-1] == 20


def test_a_checkpointer_keeps_the_newest_and_the_best(shared_home: Home) -> None:
    import keras

    losses = iter([3.0, 1.0, 2.0, 4.0])

    class Judge(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["score"] = next(losses)

    with tl.start("judged", project="scripts") as run:
        fit(model(), 4, Judge(), tl.keras.Checkpointer(run, monitor="score"))
    assert run.get_global_steps_with_checkpoints() == [8, 16]
    best = run.get_checkpoints(global_steps=[8])[0]
    assert best.monitored is not None
    assert best.monitored["score"] == 1.0


@pytest.mark.parametrize(
    "wrong",
    [{"every": 0}, {"every": "step"}, {"mode": "less"}, {"keep_last": 0}, {"keep_best": -1}, {"every": True}],
    ids=str,
)
def test_a_checkpointer_says_what_it_takes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        tl.keras.Checkpointer(**wrong)


def test_without_a_run_one_is_begun_and_named_after_the_model(shared_home: Home) -> None:
    logger = tl.keras.Logger()
    fit(model(), 1, logger)
    found = tl.Run.from_id(str(logger.run.id))  # type: ignore[union-attr]
    assert (found.name, found.status) == ("small", "job_completed")
    with tl.start("mine") as run:
        logger = tl.keras.Logger()
        fit(model(), 1, logger)
        assert logger.run is not None
        assert logger.run.id == run.id
    assert run.latest()["epoch/loss"].global_step == 4


def test_a_stop_request_ends_the_fit(shared_home: Home) -> None:
    import keras

    class Asked(keras.callbacks.Callback):  # type: ignore[misc]
        epochs = 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.epochs += 1
            if epoch == 0:
                tl.Run.from_id(str(run.id)).stop()
            while not run.should_stop and epoch == 0:
                run.flush(0.1)

    asked = Asked()
    with tl.start("stopped", project="scripts") as run:
        fit(model(), 50, tl.keras.Logger(run), asked)
    assert asked.epochs == 2
    assert run.status == "job_terminated"


@pytest.mark.parametrize("frequency", ["step", 0, True, -1])
def test_a_wrong_frequency_is_refused(frequency: Any) -> None:
    with pytest.raises(ValueError, match="log_freq"):
        tl.keras.Logger(log_freq=frequency)


def points(run: tl.Run) -> list[tuple[Any, ...]]:
    return sorted(
        (each.tag, each.global_step, struct.pack("<d", each.value), type(each.value), each.created_at)
        for each in run.get_all_metrics()
    )


def test_metrics_go_to_tensorboard_and_come_back_equal_and_once(
    shared_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tl.start("curve", project="boards") as run:
        for step in range(5000):
            run.log({"loss": 1 / (step + 1), "rows": step * 10**12}, step)
        run.log({"odd": float("nan")}, 7)
        run.log({"odd": float("-inf")}, 8)
    first = tl.interop.export_tensorboard(run, tmp_path / "board" / "one")
    assert tl.interop.export_tensorboard(str(run.number), tmp_path / "board" / "one") == first
    (made,) = tl.interop.import_tensorboard(tmp_path / "board", "again", "boards")
    assert (made.points, made.passed_over, made.torn) == (10_002, 0, 0)
    assert (made.run.name, made.run.status) == ("again/one", "job_completed")
    assert points(made.run) == points(run)
    (same,) = tl.interop.import_tensorboard(tmp_path / "board", "again", "boards")
    assert same.run.id == made.run.id
    assert tl.count_runs(project_ids=["boards"]) == 2
    first.write_bytes(first.read_bytes()[:-5])
    (torn,) = tl.interop.import_tensorboard(tmp_path / "board", "again", "boards")
    assert (torn.points, torn.torn, torn.run.id != made.run.id) == (10_001, 1, True)
    assert run_verb(["export", "tensorboard", str(run.number), str(tmp_path / "cli"), "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["path"]).parent == tmp_path / "cli"
    assert run_verb(["import", "tensorboard", str(tmp_path / "cli"), "--name", "by-cli", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["points"] == 10_002
    with pytest.raises(FileNotFoundError, match="no event file"):
        tl.interop.import_tensorboard(tmp_path / "nothing")
