"""The child process: one attempt of one run. `python -I -m tapeline.trainer.child`.

It has no credentials and no bus: two pipes to its agent, a private folder, read-only input files. When the
agent's end of the pipe closes, it is gone.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.trainer import blueprints, pipe, sandbox
from tapeline.trainer.job import Job

REASONS = {"asset_refused", "lookahead_refused", "fingerprint_refused", "validation", "nan_loss"}


class Ears:
    """A thread that hears the agent; what it says before the job exists is kept for the job."""

    def __init__(self, descriptor: int) -> None:
        self.starts: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._file = os.fdopen(descriptor, "rb")
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._early: list[dict[str, Any]] = []
        threading.Thread(target=self._listen, name="ears", daemon=True).start()

    def attach(self, job: Job) -> None:
        """Hand everything to this job from now on."""
        with self._lock:
            self._job = job
            early, self._early = self._early, []
        for line in early:
            _tell(job, line)

    def _listen(self) -> None:
        # The agent is gone, or talks nonsense: nobody may train on a lease that nobody renews.
        try:
            self._hear()
        finally:
            os._exit(1)

    def _hear(self) -> None:
        decoder = pipe.Decoder(pipe.FROM_AGENT)
        for raw in self._file:
            line = decoder.decode(raw)
            if line["kind"] in ("start", "prepare"):
                self.starts.put(line)
                continue
            with self._lock:
                job = self._job
                if job is None:
                    self._early.append(line)
            if job is not None:
                _tell(job, line)


def _tell(job: Job, line: dict[str, Any]) -> None:
    match line["kind"]:
        case "stop":
            job.ask_to_stop()
        case "checkpoint_now":
            job.ask_for_checkpoint()
        case "checkpoint_kept" | "checkpoint_refused":
            job.settle(str(line["id"]))


def versions() -> dict[str, str]:
    """Versions of what trains, from package metadata: nothing is imported."""
    found = {}
    for name in ("tapeline", "keras", "tensorflow", "tensorflow_cpu", "jax", "torch", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def reason_of(error: BaseException) -> str:
    """The typed reason of the end that an error stands for."""
    if isinstance(error, TapelineError):
        if error.code in REASONS:
            return str(error.code)
        if error.code in ("invalid", "unsupported", "canvas_invalid", "no_asset", "unknown_feature", "unknown_label"):
            return "validation"
        if error.code == "timeout":
            return "timeout"
        if error.code == "insufficient_storage":
            return "disk_full"
        if error.code == "corrupt":
            return "asset_refused"
    if isinstance(error, MemoryError):
        return "oom_host"
    if isinstance(error, OSError) and error.errno == 28:
        return "disk_full"
    if type(error).__name__ == "ResourceExhaustedError":
        return "oom_device"
    return "exit_code"


def main() -> int:
    """Hear one start line, train, say how it ended; 0 for a good end, 1 for a failure."""
    sandbox.enter()
    reading, writing = (int(text) for text in os.environ.pop("TAPELINE_PIPE").split(","))
    writer = pipe.Writer(writing)
    ears = Ears(reading)
    folder = Path.cwd()
    writer.send("hello", pid=os.getpid(), backend=os.environ.get("KERAS_BACKEND", ""), versions=versions())
    line = ears.starts.get()
    while line["kind"] == "prepare":
        blueprints.prepare(str(line["blueprint"]))
        line = ears.starts.get()
    spec = json.loads((folder / str(line["spec"])).read_bytes())
    passed("child.started")
    job = Job(spec, writer, folder)
    ears.attach(job)
    return _train(job, writer, blueprints.find(str(spec["blueprint"]["name"])))


def _train(job: Job, writer: pipe.Writer, train: Callable[[Job], Any]) -> int:
    try:
        done = train(job)
        job.finish()
        passed("child.trained")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        text = "".join(traceback.format_exception(error))
        print(text, file=sys.stderr, flush=True)
        job.close()
        writer.send(
            "failed",
            type=type(error).__name__,
            message=str(error)[:4000],
            traceback=text[-12_000:],
            reason=reason_of(error),
        )
        return 1
    writer.send(
        "done",
        global_step=done.global_step,
        training_epochs=done.training_epochs,
        stopped=done.stopped,
        stopped_early=done.stopped_early,
        best=done.best,
    )
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Every line is written and every checkpoint handed over; tearing a backend down takes seconds.
    os._exit(code)
