"""From a spool to the service: batch after batch, each once, from wherever it knows that it is.

What was stored is known to the service alone: a sender that begins, or has lost count, is told where to go on.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import shutil
import socket
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.errors import ApiException, TapelineError
from tapeline.spool.reader import Read, SpoolReader, is_alive, told
from tapeline.spool.record import ABOUT, END

if TYPE_CHECKING:
    from tapeline.sdk.client import Client
    from tapeline.spool.writer import Spool

BATCH_POINTS = 4096
BURST_POINTS = 16_384
"""Of what has piled up, larger batches are sent rather than more of them."""
BATCH_BYTES = 384 * 1024
FOR_NOW = frozenset({"unavailable", "timeout", "insufficient_storage", "rate_limited", "behind", "internal", "corrupt"})
"""What passes: the same batch is sent again a moment later."""
LOCK = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Whose points a spool holds."""

    run: str
    number: int
    name: str
    attempt: int
    epoch: int
    from_step: int
    team: str
    user: str
    log_id: str
    pid: int

    @classmethod
    def of(cls, folder: Path) -> About | None:
        """What a spool says of itself; None when it says nothing whole."""
        found = told(folder / ABOUT)
        if found is None:
            return None
        try:
            return cls(**found)
        except TypeError:
            return None


class Sender:
    """Sends the records of one spool.

    Attributes
    ----------
    batch, upto : how far the service is, as far as is known here
    torn : places that held no whole record
    is_lost : whether the service knows nothing of the run any more
    progress : how far each operation is, to be told with the next batch
    """

    def __init__(self, client: Client, folder: Path, about: About, spool: Spool | None = None) -> None:
        self._client = client
        self._about = about
        self._reader = SpoolReader(folder, spool)
        self._spool = spool
        self.batch = 0
        self.upto = self._reader.first - 1
        self.torn = 0
        self.points = 0
        self.is_lost = False
        self.progress: dict[str, dict[str, Any]] = {}
        self._is_sealed = False
        self._fitting = BURST_POINTS

    def step(self, *, is_final: bool = False) -> bool:
        """Send one batch, if there is one; says whether there may be more.

        Raises
        ------
        ApiException
            No answer, or one that passes: the same is sent by the next step.
        """
        end = self._spool.end if self._spool is not None else None
        read = self._read(end, is_final)
        is_last = False
        if read.last < read.first:
            if self._is_sealed or not (is_final or self.progress):
                return False
            is_last = is_final
        crc, columns = 0, []
        for tag, body in read.columns:
            crc = zlib.crc32(body, crc)
            columns.append({"tag": tag, "body": base64.b64encode(body).decode()})
        about = self._about
        told, self.progress = self.progress, {}
        try:
            view = self._client.command(
                "runs", "append_metrics", run=about.run, attempt=about.attempt, epoch=about.epoch,
                batch=self.batch + 1, first=self.upto + 1, last=read.last, columns=columns, crc=crc, is_last=is_last,
                progress=list(told.values()),
            ).view  # fmt: skip
        except ApiException as error:
            self.progress = told | self.progress
            if error.code == "not_found":
                self.is_lost = True
                return False
            place = _place(error)
            if place is None:
                raise
            self.batch, self.upto = place
            return True
        self._is_sealed = is_last
        self.torn += read.torn
        self.points += read.points
        self.batch, self.upto = int(view["batch"]), max(self.upto, int(view["upto"]))
        self._reader.forget(self.upto)
        return True

    def _read(self, end: int | None, is_final: bool) -> Read:
        """The next records, as many as one message takes."""
        waiting = BATCH_POINTS if end is None else end - self.upto - 1
        most = min(BURST_POINTS if waiting > 2 * BATCH_POINTS else BATCH_POINTS, self._fitting)
        before = self._reader.last_us
        while True:
            read = self._reader.read(self.upto + 1, most, end=end, is_final=is_final)
            size = sum(len(body) + len(tag) + 32 for tag, body in read.columns)
            if most == 1 or size <= BATCH_BYTES:
                if size < BATCH_BYTES // 2:
                    self._fitting = min(2 * self._fitting, BURST_POINTS)
                return read
            # With many tags a few points are a large message, and so will the next ones be.
            most = self._fitting = max(1, most * BATCH_BYTES * 9 // (size * 10))
            self._reader.last_us = before

    def all(self) -> None:
        """Send everything that a spool holds which nobody writes to any more."""
        while self.step(is_final=True):
            pass


def _place(error: ApiException) -> tuple[int, int] | None:
    """Where the service wants to be gone on with, when that is what it says."""
    if error.code != "gap" or not isinstance(error.data, dict):
        return None
    data = error.data.get("error", error.data)
    data = data.get("data", data) if isinstance(data, dict) else {}
    expected, upto = data.get("expected"), data.get("upto")
    return (expected - 1, upto) if isinstance(expected, int) and isinstance(upto, int) else None


# --- spools on this machine -------------------------------------------------------------------------


def root(client: Client | None = None) -> Path:
    """Where this user's spools lie: `TAPELINE_SPOOL`, or `spool` in the folder of the instance."""
    from tapeline.home import find_home

    if given := os.environ.get("TAPELINE_SPOOL"):
        return Path(given)
    home = client.settings.home if client is not None else None
    return (home or find_home()).root / "spool"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a spool against others who would send it; False when somebody else does."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A spool on this machine."""

    folder: Path
    about: About
    bytes: int
    is_live: bool
    has_end: bool


def listed(where: Path) -> list[Left]:
    """The spools of a folder; those of processes that are there too."""
    found = []
    for folder in sorted(where.iterdir()) if where.is_dir() else ():
        about = About.of(folder) if folder.is_dir() else None
        if about is not None:
            has_end = (folder / END).exists()
            found.append(
                Left(
                    folder=folder, about=about, bytes=SpoolReader(folder).size, has_end=has_end,
                    is_live=is_alive(about.pid) and not has_end and _is_held(folder),
                )
            )  # fmt: skip
    return found


def _is_held(folder: Path) -> bool:
    with held(folder) as is_mine:
        return not is_mine


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What became of a spool: its points that were sent now, torn places, and whether all of it is delivered."""

    left: Left
    points: int
    torn: int
    done: bool
    why: str = ""


def sync(client: Client, left: Left) -> Synced:
    """Send what a dead process left in its spool, say how it ended, and remove it once all is delivered."""
    about, folder = left.about, left.folder
    with held(folder) as is_mine:
        if not is_mine:
            return Synced(left=left, points=0, torn=0, done=False, why="its process is there and sends it")
        if about.team != client.team or about.log_id != client.hello().get("log_id"):
            return Synced(left=left, points=0, torn=0, done=False, why=f"it belongs to team {about.team} elsewhere")
        sender = Sender(client, folder, about)
        try:
            sender.all()
            if (end := told(folder / END)) is not None and not sender.is_lost:
                finish(client, about, end)
        except TapelineError as error:
            return Synced(left=left, points=sender.points, torn=sender.torn, done=False, why=error.message)
        shutil.rmtree(folder, ignore_errors=True)
        why = "the run is gone" if sender.is_lost else ""
        return Synced(left=left, points=sender.points, torn=sender.torn, done=True, why=why)


def finish(client: Client, about: About, end: dict[str, Any]) -> None:
    """Say how an attempt ended; one whose lease was lost meanwhile is taken up again for that.

    An attempt that is over for another reason stays as it is.
    """
    try:
        client.command("runs", "finish", run=about.run, epoch=about.epoch, **end)
    except ApiException as error:
        if error.code not in ("fenced", "conflict", "not_found"):
            raise
        if error.code == "fenced" and (again := taken_up(client, about)) is not None:
            client.command("runs", "finish", run=about.run, epoch=again.epoch, **end)


def taken_up(client: Client, about: About) -> About | None:
    """The attempt under a new lease, after a time in which nobody heard its process; None when it is over."""
    try:
        view = client.command(
            "runs", "start", run=about.run, attempt=about.attempt, from_step=about.from_step,
            host=socket.gethostname()[:100], pid=about.pid,
        ).view  # fmt: skip
    except ApiException as error:
        if error.code in ("conflict", "not_found", "fenced"):
            return None
        raise
    return replace(about, epoch=int(view["epoch"]))
