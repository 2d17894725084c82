"""Runs that this process trains by itself: started here, measured into a spool, and sent beside the training."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.errors import ApiException, TapelineError, UnavailableError
from tapeline.sdk import arguments, sending
from tapeline.sdk import client as clients
from tapeline.sdk.client import Client
from tapeline.sdk.projects import get_project_id
from tapeline.sdk.sending import About, Sender
from tapeline.spool.record import ABOUT, END
from tapeline.spool.writer import Spool, write_whole

if TYPE_CHECKING:
    from tapeline.sdk.runs import Run

logger = logging.getLogger("tapeline")

TEND_S = 0.1
SEND_S = 0.2
SYNC_S = 1.0
RENEW_S = 5.0
TRY_S = 5.0
"""One request of the threads beside the training; they try again by themselves."""
LONGEST_WAIT_S = 2.0
FINISH_S = 10.0
FRAMES = 50
UPLOAD_S = 120.0
"""For checkpoints that are on their way when a training ends, as long as the service answers."""


class Attachment:
    """What joins a run to this process: its lease, its spool, and the threads that look after them.

    Attributes
    ----------
    before_end : waits for what is still on its way, each for so many seconds at most, before the end is told
    """

    def __init__(self, client: Client, about: About, folder: Path, ttl_s: float) -> None:
        self.about = about
        self.folder = folder
        self.should_stop = False
        self.is_over = False
        self.before_end: list[Callable[[float], object]] = []
        # A connection of its own: what the user's code asks does not wait for points, nor they for it.
        self._client = Client(client.settings, timeout_s=TRY_S, total_s=TRY_S)
        self._of = client
        self._ttl_s = ttl_s
        self._pid = os.getpid()
        self._lock_file = os.open(folder / sending.LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        write_whole(folder / ABOUT, asdict(about))
        self.spool = Spool(folder, strict=os.environ.get("TAPELINE_STRICT_METRICS") == "1")
        self._sender = Sender(self._client, folder, about, self.spool)
        self._progress = threading.Condition()
        self._wake = threading.Event()
        self._leaving = threading.Event()
        self._renew_now = threading.Event()
        self._is_failing = False
        self._threads = [
            threading.Thread(target=work, name=f"tapeline-{name}", daemon=True)
            for name, work in (("spool", self._tend), ("metrics", self._send), ("lease", self._renew))
        ]
        for thread in self._threads:
            thread.start()
        _live.add(self)

    @property
    def is_mine(self) -> bool:
        """Whether this is the process that trains; one that was forked off is not."""
        return os.getpid() == self._pid

    # --- threads -----------------------------------------------------------------------------------

    def _tend(self) -> None:
        synced = time.monotonic()
        while not self._leaving.wait(TEND_S):
            self.spool.tend()
            if time.monotonic() - synced >= SYNC_S:
                synced = time.monotonic()
                _sync_files(self.folder)

    def _send(self) -> None:
        wait_s = SEND_S
        while not self._leaving.is_set() and not self._sender.is_lost:
            self._wake.wait(wait_s)
            self._wake.clear()
            try:
                while self._sender.step() and not self._leaving.is_set():
                    self._advanced()
                wait_s = SEND_S
                self._is_failing = False
            except TapelineError as error:
                if not self._is_failing:
                    logger.warning("metrics wait in %s: %s", self.folder, error.message)
                self._is_failing = True
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                if isinstance(error, ApiException) and error.code not in sending.FOR_NOW:
                    wait_s = LONGEST_WAIT_S
            self._advanced()

    def _advanced(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def _renew(self) -> None:
        with contextlib.ExitStack() as stack:
            heard: threading.Event | None = None
            renewed = time.monotonic()
            while not self._leaving.wait(SEND_S) and not self.is_over:
                if heard is None:
                    with contextlib.suppress(Exception):
                        heard = stack.enter_context(self._client.hints("run", self.about.run))
                is_hinted = heard is not None and heard.is_set()
                if heard is not None:
                    heard.clear()
                if is_hinted or time.monotonic() - renewed >= min(RENEW_S, self._ttl_s / 6):
                    renewed = time.monotonic()
                    with contextlib.suppress(TapelineError):
                        self._renew_once()

    def _renew_once(self) -> None:
        answer = self._client.query("runs", "renew", run=self.about.run, epoch=self.about.epoch)["answer"]
        if answer == "stop":
            self.should_stop = True
        elif answer == "fenced":
            self._take_up()

    def _take_up(self) -> None:
        """Hold the run again after a time in which nobody heard this process."""
        again = sending.taken_up(self._client, self.about)
        if again is None:
            # It was stopped, deleted, or goes on elsewhere; what is measured here is sent all the same.
            self.is_over = self.should_stop = True
            logger.warning("run %s is not this process's any more", self.about.number)
            return
        self.about = again
        with contextlib.suppress(OSError):
            write_whole(self.folder / ABOUT, asdict(again))

    def tell_progress(self, operation: str, value: float, final_value: float, units: str) -> None:
        """Say how far an operation is: the last word on it goes with the next batch of points."""
        self._sender.progress = self._sender.progress | {
            operation: {"operation": operation, "value": value, "final_value": final_value, "units": units}
        }

    # --- what the run asks --------------------------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        """Wait until the service has every point that was logged until now; False when it has not in time."""
        if not self.is_mine:
            return False
        self.spool.tend()
        wanted = self.spool.end - 1
        end = time.monotonic() + timeout
        with self._progress:
            while self._sender.upto < wanted and not self._sender.is_lost:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._wake.set()
                self._progress.wait(min(left, SEND_S))
        return not self._sender.is_lost

    def finish(self, kind: str, *, message: str = "", trace: str | None = None, wait_s: float = FINISH_S) -> bool:
        """End the attempt: send what is left while there is time, say how it ended, and leave the rest on disk.

        Says whether nothing is left.
        """
        if not self.is_mine or self._leaving.is_set():
            return False
        _live.discard(self)
        for wait in self.before_end:
            # Where nothing was answered lately, not for long.
            wait(2.0 if self._is_failing else UPLOAD_S)
        until = time.monotonic() + wait_s
        # Where nothing was answered lately, a training is not held up for it.
        self.flush(2.0 if self._is_failing else wait_s)
        self._leaving.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(TRY_S + 1)
        self.spool.close()
        end = {
            "kind": kind, "global_step": self.spool.last_step, "message": message[:8000], "traceback": trace,
            "batches": None, "points": self.spool.end - 1, "rejected": sum(self.spool.rejected.values()),
            "dropped": self.spool.dropped,
        }  # fmt: skip
        is_delivered = self._delivered(end, until)
        if is_delivered:
            shutil.rmtree(self.folder, ignore_errors=True)
            # Who asks next sees the end, which was told over another connection.
            with contextlib.suppress(TapelineError):
                self._of.wait_for(self._client.position)
        else:
            with contextlib.suppress(OSError):
                write_whole(self.folder / END, end)
            logger.warning(
                "run %s has ended, and not all it measured is sent: tapeline spool sync", self.about.number
            )  # fmt: skip
        self.is_over = True
        os.close(self._lock_file)
        # A connection that cannot even be closed in good order is no error of a training.
        with contextlib.suppress(Exception):
            self._client.close()
        return is_delivered

    def _delivered(self, end: dict[str, Any], until: float) -> bool:
        wait_s = 0.1
        # The threads are gone: this one sends on, with the rest of a place that was never filled passed over.
        sender = self._sender
        while True:
            try:
                sender.all()
                if not self.is_over and not sender.is_lost:
                    sending.finish(self._client, self.about, end | {"batches": sender.batch})
                return True
            except TapelineError:
                if time.monotonic() + wait_s > until:
                    return False
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def start(
    name: str,
    *,
    project: str = "default",
    config: dict[str, Any] | None = None,
    notes: str | None = None,
    resume: str | None = None,
    step: int | None = None,
) -> Run:
    """A run that this process trains; use it in a `with` block, whose end is the run's end.

    A clean end is `job_completed`, an error `job_failed` with its message and last frames, `KeyboardInterrupt`
    `job_terminated`; of a process that is gone the run is `job_unknown`, then `job_failed`. Where nothing names a
    server, the embedded instance is started.

    Parameters
    ----------
    resume : str, optional
        The id or number of a run that a script trained before; it goes on with its next attempt.
    step : int, optional
        The step that it goes on from: points beyond it are superseded. By default the last that was measured;
        -1 supersedes all.

    Raises
    ------
    UnavailableError
        There is no server, and none may be started.

    Examples
    --------
    >>> with start("by hand", project="examples") as run:
    ...     for i in range(3):
    ...         run.log({"loss": 1 / (i + 1)}, step=i)
    >>> run.status, run.latest()["loss"].global_step
    ('job_completed', 2)
    """
    from tapeline.sdk import measured, runs

    client = _client()
    fields: dict[str, Any] = {"host": socket.gethostname()[:100], "pid": os.getpid()}
    if resume is None:
        fields |= {"name": arguments.name("name", name), "project_id": get_project_id(project), "config": config or {}}
        fields |= arguments.given(notes=notes)
    else:
        fields |= {"run": str(resume)} | arguments.given(from_step=step)
    where = _folder(sending.root(client))
    view = client.command("runs", "start", **fields).view
    about = About(
        run=view["run_id"], number=view["number"], name=str(name), attempt=view["attempt"], epoch=view["epoch"],
        from_step=view["from_step"], team=client.team, user=client.user,
        log_id=str(client.hello().get("log_id") or ""), pid=os.getpid(),
    )  # fmt: skip
    folder = where / f"{about.run}.{about.attempt}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = runs.find(about.run, client.team)
    measured.attach(run, Attachment(client, about, folder, float(view["ttl_s"])))
    _sweep(client, where)
    return run


def current() -> Run | None:
    """The run that this process trains now, the last one that it began; None when it trains none."""
    from tapeline.sdk import measured, runs

    live = [each for each in list(_live) if each.is_mine and not each.is_over]
    if not live:
        return None
    newest = max(live, key=lambda each: each.about.run)
    run = runs.find(newest.about.run, newest.about.team)
    measured.attach(run, newest)
    return run


def _client() -> Client:
    try:
        return clients.current_client()
    except UnavailableError:
        return clients.connect(start=True)


def _folder(where: Path) -> Path:
    """A folder that spools can be written to: the usual one, or one of this process where that takes nothing."""
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = where / f".{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        made = Path(tempfile.mkdtemp(prefix="tapeline-spool-"))
        logger.warning("%s takes no points (%s); they go to %s", where, error, made)
        return made
    return where


def _sync_files(folder: Path) -> None:
    """Bring the pages of a spool to the disk itself, so that a loss of power loses a second at most."""
    for path in folder.glob("*.points"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)


_swept: set[Path] = set()


def _sweep(client: Client, where: Path) -> None:
    """Send beside the training what processes of this machine left that are gone."""
    if where in _swept or not any(not left.is_live for left in sending.listed(where)):
        return
    _swept.add(where)

    def work() -> None:
        with Client(client.settings, timeout_s=TRY_S, total_s=TRY_S) as own:
            for left in sending.listed(where):
                if not left.is_live:
                    with contextlib.suppress(TapelineError, OSError):
                        sending.sync(own, left)

    threading.Thread(target=work, name="tapeline-leftovers", daemon=True).start()


_live: weakref.WeakSet[Attachment] = weakref.WeakSet()


def ended_by(error: BaseException | None) -> dict[str, Any]:
    """How a block that was left by an error has ended, as arguments of `Attachment.finish`."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return {"kind": "completed"}
    if isinstance(error, KeyboardInterrupt):
        return {"kind": "terminated"}
    frames = traceback.TracebackException.from_exception(error)
    del frames.stack[:-FRAMES]
    return {
        "kind": "failed", "message": f"{type(error).__name__}: {error}"[:8000],
        "trace": "".join(frames.format())[-30_000:],
    }  # fmt: skip


def _at_exit() -> None:
    for each in list(_live):
        if each.is_mine:
            each.finish(**ended_by(getattr(sys, "last_value", None)))


atexit.register(_at_exit)
