"""One child process of the supervisor: what it is, and the loop that keeps it running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from tapeline.embedded.tail import tail
from tapeline.errors import TapelineError
from tapeline.logs import get_logger
from tapeline.readiness import LINE, VARIABLE

State = Literal["starting", "ready", "waiting", "failed", "stopped"]
_LAUNCH = Path(__file__).with_name("launch.py")
_LOG_BYTES = 8 * 1024 * 1024
log = get_logger()


@dataclass(frozen=True, slots=True)
class Restart:
    """When a dead child is started again.

    The wait doubles from `first_wait_s` to `longest_wait_s` and falls back after `healthy_after_s` of
    service. `give_up_after` starts within `within_s` that never became ready end it; none tries for ever.
    """

    first_wait_s: float = 0.1
    longest_wait_s: float = 60.0
    healthy_after_s: float = 60.0
    give_up_after: int | None = None
    within_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A row of the table of children.

    Without `probe` the child is ready when it writes its line (`tapeline.readiness.tell_ready`); with one,
    when it answers true. `watch` runs while the child is ready, and returning ends the child: it is for a
    process that lives but does not serve. Arguments and environment never hold a secret.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready_timeout_s: float = 30.0
    stop_grace_s: float = 10.0
    restart: Restart = field(default_factory=Restart)
    prepare: Callable[[], None] | None = None
    probe: Callable[[int], Awaitable[bool]] | None = None
    watch: Callable[[int], Awaitable[str]] | None = None


class Child:
    """A child process, started again whenever it ends until it is stopped."""

    def __init__(self, spec: ChildSpec, logs: Path, on_change: Callable[[], None]) -> None:
        self.spec = spec
        self.state: State = "stopped"
        self.pid: int | None = None
        self.created: float | None = None
        self.starts = 0
        self.reason: str | None = None
        self.log_file = logs / f"{spec.name}.log"
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the process and keep it running; returns at once."""
        self._loop = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")
        self._loop.add_done_callback(lambda _: self._changed.set())

    async def wait_ready(self, timeout_s: float, tries: int) -> None:
        """Wait until the child is ready.

        Raises
        ------
        TapelineError
            `unavailable`, with the last lines of its log, when it was not ready in time, gave up, or ended
            so many times before it was ready.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.state != "ready":
                    if self.state == "failed" or (self.state == "waiting" and self.starts >= tries):
                        raise self._not_ready(self.reason or "it ended")
                    if self._loop is not None and self._loop.done():
                        self._loop.result()
                        raise self._not_ready("it was stopped")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise self._not_ready(f"not ready after {timeout_s:.0f} s") from None

    async def stop(self, grace_s: float | None = None) -> None:
        """End the process: SIGTERM, then SIGKILL after its grace; and do not start it again."""
        self._stopping.set()
        await self._end(self.spec.stop_grace_s if grace_s is None else grace_s)
        if self._loop is not None:
            await self._loop
        self._become("stopped", self.reason)

    @property
    def kept(self) -> asyncio.Task[None] | None:
        """The task that keeps the process running; it ends when the child is stopped or given up."""
        return self._loop

    async def _keep(self) -> None:
        rule = self.spec.restart
        wait_s = rule.first_wait_s
        failed: deque[float] = deque()
        while not self._stopping.is_set():
            served_s = await self._once()
            if self._stopping.is_set():
                return
            now = time.monotonic()
            if served_s is None and rule.give_up_after is not None:
                failed.append(now)
                while failed and now - failed[0] > rule.within_s:
                    failed.popleft()
                if len(failed) >= rule.give_up_after:
                    self._become("failed", f"{len(failed)} starts without becoming ready; the last: {self.reason}")
                    log.error("child_stays_down", child=self.spec.name, reason=self.reason)
                    return
            if served_s is not None and served_s >= rule.healthy_after_s:
                wait_s = rule.first_wait_s
            log.warning("child_ended", child=self.spec.name, reason=self.reason, starts_again_in_s=round(wait_s, 3))
            self._become("waiting", self.reason)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            wait_s = min(rule.longest_wait_s, wait_s * 2)

    async def _once(self) -> float | None:
        """Run the process once; for how many seconds it served, none when it never became ready."""
        reader, writer = os.pipe()
        try:
            if self.spec.prepare is not None:
                self.spec.prepare()
            with _open_log(self.log_file) as output:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *self.spec.argv,
                    stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                    env={**self.spec.env, VARIABLE: str(writer)}, pass_fds=(writer,),
                    # Its own group: Ctrl-C in a terminal reaches the supervisor alone, which keeps the order.
                    process_group=0,
                )  # fmt: skip
        except (OSError, TapelineError) as error:
            os.close(reader)
            os.close(writer)
            self.reason = f"it could not be started: {error}"
            self.starts += 1
            return None
        os.close(writer)
        process = self._process
        self.starts += 1
        self.pid = process.pid
        self.created = _created(process.pid)
        self._become("starting", None)
        ended = asyncio.ensure_future(process.wait())
        if self._stopping.is_set():
            # It was stopped while the process was being made, when there was none to end yet.
            await self._end(0)
        try:
            if not await self._became_ready(process, ended, reader):
                return None
            since = time.monotonic()
            self._become("ready", None)
            log.info("child_ready", child=self.spec.name, pid=process.pid, start=self.starts)
            unwell = await self._until_end(process, ended)
            self.reason = unwell or _ending(process.returncode)
            return time.monotonic() - since
        finally:
            self.pid = self.created = None
            self._process = None

    async def _became_ready(self, process: asyncio.subprocess.Process, ended: asyncio.Future[int], reader: int) -> bool:
        ready = asyncio.ensure_future(self._ready(process.pid, reader))
        awaited: set[asyncio.Future[Any]] = {ready, ended}
        await asyncio.wait(awaited, timeout=self.spec.ready_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not ended.done() and ready.exception() is None:
            return True
        ready.cancel()
        (outcome,) = await asyncio.gather(ready, return_exceptions=True)
        if ended.done():
            self.reason = f"{_ending(process.returncode)} before it was ready"
        elif isinstance(outcome, Exception):
            self.reason = str(outcome)
        else:
            self.reason = f"not ready after {self.spec.ready_timeout_s:.0f} s"
        await self._end(self.spec.stop_grace_s)
        await ended
        return False

    async def _ready(self, pid: int, reader: int) -> None:
        pipe = os.fdopen(reader, "rb", buffering=0)
        if self.spec.probe is not None:
            pipe.close()
            # Polled: the server has no way to tell that it is ready.
            while not await self.spec.probe(pid):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), pipe
        )
        try:
            said = await stream.readline()
        finally:
            transport.close()
        if said != LINE:
            # The pipe ended without the line: the process is ending, or closed it and will never be ready.
            await asyncio.get_running_loop().create_future()

    async def _until_end(self, process: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> str | None:
        if self.spec.watch is None:
            await ended
            return None
        watching = asyncio.ensure_future(self.spec.watch(process.pid))
        awaited: set[asyncio.Future[Any]] = {watching, ended}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            return None
        unwell: str = watching.result()
        log.error("child_unwell", child=self.spec.name, reason=unwell)
        await self._end(self.spec.stop_grace_s)
        await ended
        return unwell

    async def _end(self, grace_s: float) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            # A stopped process (SIGSTOP) would keep the signal for later.
            process.send_signal(signal.SIGCONT)
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            log.warning("child_killed", child=self.spec.name, after_s=grace_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _become(self, state: State, reason: str | None) -> None:
        self.state = state
        self.reason = reason
        self._changed.set()
        self._on_change()

    def _not_ready(self, why: str) -> TapelineError:
        last = tail(self.log_file, 5)
        said = f": {last}" if last else ""
        return TapelineError(
            f"the process {self.spec.name} did not start: {why}{said}",
            code="unavailable",
            hint=f"look into {self.log_file}",
        )


def _open_log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def _created(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def _ending(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    return f"it ended with exit code {returncode}"
