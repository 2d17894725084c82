"""What a blueprint sees of its run: config, files, metrics, progress, checkpoints, the wish to stop.

def train(job: Job) -> None:
    state = job.restore()
    job.started(global_step=0, steps_per_epoch=None, training_epochs=None)
    for step in job.steps(total):
        job.metric("train/loss", loss, step)
        if job.checkpoint_due(step):
            with job.checkpoint(step) as folder:
                save(folder)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.spool.writer import Spool
from tapeline.trainer import pipe

FLUSH_EVERY_S = 0.2
ALIVE_EVERY_S = 5.0
PROGRESS_EVERY_S = 0.4
SPOOL = "spool"
"""Where in its folder a child measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a blueprint ended: where it was, and whether it was told to stop before its end."""

    global_step: int
    training_epochs: int = 0
    stopped: bool = False
    stopped_early: bool = False
    best: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class CheckpointMeta:
    """What a checkpoint says of itself besides its files."""

    training_epoch: int = 0
    monitored: dict[str, float] = field(default_factory=dict)
    weights_digest: str = ""
    state_digest: str = ""


class Job:
    """One attempt of a run, inside its child process."""

    def __init__(self, spec: dict[str, Any], writer: pipe.Writer, folder: Path) -> None:
        self.spec = spec
        self.config: dict[str, Any] = dict(spec.get("config") or {})
        self.run: str = str(spec["run"])
        self.attempt: int = int(spec["attempt"])
        self.seed: int = int(spec.get("seed") or 0)
        self.folder = folder
        self.ignores_stop = False
        self._writer = writer
        self._stop = threading.Event()
        self._now = threading.Event()
        self._lock = threading.Lock()
        # The agent reads it: measurements take no part in what is said over the pipe.
        self._spool = Spool(folder / SPOOL)
        self._last_step = 0
        self._progress_at: dict[str, float] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._cadence: dict[str, Any] = self.config.get("checkpoint") or {}
        self._checkpoint_at = time.monotonic()
        self._checkpoint_step = -1
        self._in_flight: set[str] = set()
        self._writing: threading.Thread | None = None
        self._write_error: BaseException | None = None
        self._closed = threading.Event()
        self._beat = threading.Thread(target=self._keep_alive, name="beat", daemon=True)
        self._beat.start()

    # --- files ------------------------------------------------------------------------------------

    def asset(self) -> dict[str, Path]:
        """The asset's files by name, read-only."""
        folder = self.folder / "asset"
        return {path.name: path for path in sorted(folder.iterdir())} if folder.is_dir() else {}

    def restore(self) -> Path | None:
        """The folder of the checkpoint to go on from; None for a start from nothing."""
        folder = self.folder / "resume"
        return folder if folder.is_dir() else None

    # --- telling ----------------------------------------------------------------------------------

    def started(
        self,
        *,
        global_step: int,
        training_epochs: int | None,
        steps_per_epoch: int | None,
        resume: str = "none",
        differs: list[str] | None = None,
        fingerprint: dict[str, Any] | None = None,
        parameters: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Say that training begins now."""
        self._last_step = global_step
        self._checkpoint_at = time.monotonic()
        self._checkpoint_step = global_step
        self._writer.send(
            "started",
            pid=os.getpid(),
            resume=resume,
            differs=differs or [],
            fingerprint=fingerprint or {},
            global_step=global_step,
            training_epochs=training_epochs,
            steps_per_epoch=steps_per_epoch,
            parameters=parameters,
            details=details or {},
        )

    def metric(self, tag: str, value: float, step: int) -> None:
        """Measure: `value` of `tag` at an absolute step. Waits for nothing; a killed child loses none."""
        self._spool.log({tag: value}, step)

    def progress(self, operation: str, value: float, final_value: float, units: str) -> None:
        """Say how far an operation is; at most twice a second each, its end always."""
        said = {"operation": operation, "value": value, "final_value": final_value, "units": units}
        now = time.monotonic()
        with self._lock:
            is_due = value >= final_value or now - self._progress_at.get(operation, -1e9) >= PROGRESS_EVERY_S
            if is_due:
                self._progress_at[operation] = now
                self._progress.pop(operation, None)
            else:
                self._progress[operation] = said
        if is_due:
            self._writer.send("progress", **said)

    def step(self, global_step: int) -> None:
        """Note the step that was just done."""
        self._last_step = global_step

    def log(self, text: str, level: str = "info") -> None:
        """Write one line for the operator."""
        self._writer.send("log", level=level, text=text[:4096])

    def steps(self, total: int, *, start: int = 0) -> Iterator[int]:
        """The steps from `start + 1` to `total`, ending at a stop, with progress told."""
        for step in range(start + 1, total + 1):
            if self.should_stop():
                return
            yield step
            self.step(step)
            self.progress("train", step, total, "steps")

    # --- stopping ---------------------------------------------------------------------------------

    def should_stop(self) -> bool:
        """Whether the run is to end at the next boundary."""
        return self._stop.is_set() and not self.ignores_stop

    @property
    def checkpoint_step(self) -> int:
        """The step of the newest checkpoint that was begun, or that this attempt started from."""
        return self._checkpoint_step

    def ask_to_stop(self) -> None:
        """Called when the agent says `stop`."""
        self._stop.set()

    def ask_for_checkpoint(self) -> None:
        """Called when the agent says `checkpoint_now`."""
        self._now.set()

    def settle(self, checkpoint_id: str) -> None:
        """Called when the agent has done with a checkpoint, kept or refused."""
        with self._lock:
            self._in_flight.discard(checkpoint_id)
        shutil.rmtree(self._checkpoint_folder(checkpoint_id), ignore_errors=True)

    # --- checkpoints ------------------------------------------------------------------------------

    def checkpoint_due(self, step: int) -> bool:
        """Whether a checkpoint by time, by steps or by wish is due now, and none is on its way."""
        every_steps = self._cadence.get("every_steps")
        every_seconds = self._cadence.get("every_seconds", 60)
        is_due = (
            self._now.is_set()
            or (every_steps is not None and step // every_steps > self._checkpoint_step // every_steps)
            or (every_seconds is not None and time.monotonic() - self._checkpoint_at >= every_seconds)
        )
        return is_due and step != self._checkpoint_step and not self.checkpoint_in_flight()

    def checkpoint_in_flight(self) -> bool:
        """Whether a checkpoint is being written or not yet answered by the agent."""
        if self._write_error is not None:
            raise self._write_error
        with self._lock:
            return bool(self._in_flight)

    @contextmanager
    def checkpoint(self, step: int, meta: CheckpointMeta | None = None) -> Iterator[Path]:
        """A folder to write one checkpoint into; it is whole when the block ends without an error."""
        meta = meta or CheckpointMeta()
        self._join_writing()
        checkpoint_id = self._begin(step)
        partial = self._partial_folder(checkpoint_id)
        yield partial
        self._finish(checkpoint_id, step, partial, meta)

    def checkpoint_later(self, step: int, write: Callable[[Path], CheckpointMeta], *, wait: bool = False) -> None:
        """Write a checkpoint in a thread from state that was copied already; `wait` for it to be whole."""
        self._join_writing()
        checkpoint_id = self._begin(step)

        def work() -> None:
            try:
                partial = self._partial_folder(checkpoint_id)
                self._finish(checkpoint_id, step, partial, write(partial))
            except BaseException as error:
                self._write_error = error

        self._writing = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._writing.start()
        if wait:
            self._join_writing()

    def _begin(self, step: int) -> str:
        checkpoint_id = f"a{self.attempt}-s{step:09d}"
        with self._lock:
            self._in_flight.add(checkpoint_id)
        self._now.clear()
        self._checkpoint_at = time.monotonic()
        self._checkpoint_step = step
        self._flush()
        self._writer.send("checkpoint_begin", id=checkpoint_id, step=step)
        passed("checkpoint.begun")
        return checkpoint_id

    def _checkpoint_folder(self, checkpoint_id: str) -> Path:
        return self.folder / "checkpoints" / checkpoint_id

    def _partial_folder(self, checkpoint_id: str) -> Path:
        folder = self.folder / "checkpoints" / f"{checkpoint_id}.partial"
        folder.mkdir(parents=True)
        return folder

    def _finish(self, checkpoint_id: str, step: int, partial: Path, meta: CheckpointMeta) -> None:
        files = []
        for path in sorted(partial.iterdir()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            files.append({"name": path.name, "size_bytes": path.stat().st_size, "sha256": sha256})
        if not files:
            raise TapelineError(f"checkpoint {checkpoint_id} has no files", code="invalid", hint="write at least one")
        folder = self._checkpoint_folder(checkpoint_id)
        partial.rename(folder)
        parent = os.open(folder.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
        passed("checkpoint.written")
        self._writer.send(
            "checkpoint",
            id=checkpoint_id,
            step=step,
            training_epoch=meta.training_epoch,
            files=files,
            monitored={tag: pipe.number(value) for tag, value in meta.monitored.items()},
            weights_digest=meta.weights_digest,
            state_digest=meta.state_digest,
        )

    def _join_writing(self) -> None:
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._write_error is not None:
            raise self._write_error

    # --- the end ----------------------------------------------------------------------------------

    def stopping(self, cause: str = "stop") -> None:
        """Say that the last checkpoint begins, or that the child leaves."""
        self._writer.send("stopping", cause=cause)

    def finish(self) -> None:
        """Wait for what is being written and say the last metrics and progress."""
        self._join_writing()
        self.close()

    def close(self) -> None:
        """Say the last metrics and progress; what is being written is left alone."""
        self._closed.set()
        self._flush()

    def _keep_alive(self) -> None:
        said_at = time.monotonic()
        while not self._closed.wait(FLUSH_EVERY_S):
            try:
                self._flush()
                if time.monotonic() - said_at >= ALIVE_EVERY_S:
                    said_at = time.monotonic()
                    self._writer.send("alive", step=self._last_step)
            except BrokenPipeError:
                return

    def _flush(self) -> None:
        # Values that are on a device are read here, and the next file is made ready.
        self._spool.tend()
        with self._lock:
            now = time.monotonic()
            due = [
                self._progress.pop(name)
                for name in list(self._progress)
                if self._closed.is_set() or now - self._progress_at.get(name, -1e9) >= PROGRESS_EVERY_S
            ]
            for said in due:
                self._progress_at[said["operation"]] = now
        for said in due:
            self._writer.send("progress", **said)
