"""One run in one lease epoch, from the granted lease to the last answered report.

The lease ends here before it ends at the service: its age counts from the sending of the last renewal that
was answered. At two thirds of the ttl the child is paused, at the ttl it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tapeline.clock import Clock
from tapeline.contracts.agents import Lease, Reclaim, Renewed, Stage, StageFile, StageView
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.logs import get_logger
from tapeline.spool.reader import SpoolReader
from tapeline.store.protocol import ArtifactStore
from tapeline.trainer import ending, sandbox
from tapeline.trainer.job import SPOOL
from tapeline.trainer.journal import Journal
from tapeline.trainer.launch import Child
from tapeline.trainer.outbox import POINTS_PER_BATCH, Fenced, Outbox
from tapeline.trainer.requests import Requests

logger = get_logger()

MEASURE_EVERY_S = 0.2

Cause = Literal["lease_lost", "fenced", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the agent waits for a child, in seconds."""

    start_timeout_s: float = 180.0
    stall_timeout_s: float = 600.0
    term_to_kill_s: float = 1.0
    shutdown_grace_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every hold of an agent works with."""

    requests: Requests
    store: ArtifactStore
    clock: Clock
    journals: Path
    cache: Path
    take_child: Callable[[str, str, str], Awaitable[Child]]
    patience: Patience


class Hold:
    """A run that this agent holds."""

    def __init__(self, lease: Lease, tools: Tools, *, sent_at: float) -> None:
        self.lease = lease
        self._tools = tools
        self._renewed_at = sent_at
        self._journal = Journal.open(tools.journals / f"{lease.run}.{lease.epoch}.journal")
        self._outbox = Outbox(tools.requests, self._journal, lease)
        self._child: Child | None = None
        self._facts = ending.Facts()
        self._lost: asyncio.Future[Cause] = asyncio.get_running_loop().create_future()
        self._is_paused = False
        self._has_ended = bool(self._journal.records[1:])
        self._uploads: set[asyncio.Task[None]] = set()
        self._kill_at: float | None = None
        self._killer: asyncio.Task[None] | None = None
        self._spec_sent_at: float | None = None
        self._heard_at = tools.clock.monotonic()
        self._spool: SpoolReader | None = None
        self._measured = 0

    @property
    def state(self) -> str:
        """`running`, or `ended` when only reports are left to deliver."""
        return "ended" if self._has_ended else "running"

    @property
    def is_lost(self) -> bool:
        """Whether the lease is gone."""
        return self._lost.done()

    # --- what the agent tells ---------------------------------------------------------------------

    def renewed(self, sent_at: float, answer: Renewed) -> None:
        """Take the answer to a renewal that was sent at `sent_at` on the monotonic clock."""
        if answer.answer == "fenced":
            self.lose("fenced")
            return
        self._renewed_at = max(self._renewed_at, sent_at)
        if self._is_paused and self._child is not None:
            self._is_paused = False
            self._heard_at = self._tools.clock.monotonic()
            self._child.signal(signal.SIGCONT)
            logger.info("child_resumed", run=self.lease.run, epoch=self.lease.epoch)
        if answer.answer == "stop":
            self.stop(answer.grace_s if answer.grace_s is not None else 600.0, answer.reason or "user")

    def stop(self, grace_s: float, reason: str) -> None:
        """Ask the child to stop, and kill it when the grace is over; a later stop only shortens the grace."""
        if self._has_ended:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        if self._kill_at is not None and deadline >= self._kill_at:
            return
        is_first = self._kill_at is None
        self._kill_at = deadline
        if self._killer is not None:
            self._killer.cancel()
        self._killer = asyncio.create_task(self._kill_after_grace(grace_s))
        if is_first:
            self._facts.stop_reason = reason
            if self._spec_sent_at is not None and self._child is not None:
                self._child.send("stop", grace_s=grace_s, purpose=reason)
            if reason != "agent_shutdown":
                self._outbox.report("terminate_requested")

    def lose(self, cause: Cause) -> None:
        """The lease is gone: the child is killed at once, and what it did is not reported any more."""
        if not self._lost.done():
            self._lost.set_result(cause)
            logger.warning("lease_lost", run=self.lease.run, epoch=self.lease.epoch, cause=cause)
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    # --- the whole course -------------------------------------------------------------------------

    async def run(self) -> None:
        """Train, report, and return when all is answered or the lease is gone."""
        watch = asyncio.create_task(self._watch())
        deliver = asyncio.create_task(self._deliver())
        work = asyncio.create_task(self._work())
        try:
            either: set[asyncio.Future[Any]] = {work, self._lost}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self.is_lost:
                # The child is being killed; its end is awaited so that the device is really free.
                await work
                if self._lost.result() == "lease_lost":
                    self._outbox.report("lease_lost")
                    self._outbox.close()
                    await asyncio.wait({deliver}, timeout=self.lease.ttl_s / 2)
                return
            await work
            self._outbox.close()
            await deliver
        finally:
            for task in (watch, deliver, work, self._killer, *self._uploads):
                if task is not None:
                    task.cancel()
            if self._child is not None:
                await self._child.kill()
            if self._outbox.is_empty or self.is_lost:
                self._journal.remove()
            else:
                self._journal.close()

    async def deliver_only(self) -> None:
        """Deliver what the journal of an earlier process still holds; there is no child any more."""
        self._outbox.close()
        try:
            await self._deliver()
        finally:
            if self._outbox.is_empty or self.is_lost:
                self._journal.remove()
            else:
                self._journal.close()

    async def _work(self) -> None:
        try:
            end = await self._train()
        except TapelineError as error:
            end = ending.of_error(error)
        if self.is_lost:
            return
        self._has_ended = True
        await self._uploaded()
        if end.kind in ("completed", "failed", "terminated"):
            end.data["batches"] = self._outbox.batches
            end.data["points"] = self._outbox.points
        if end.kind == "terminated":
            end.data["checkpoint_id"] = self._facts.kept_checkpoint
        self._outbox.report(end.kind, end.data)
        logger.info("child_ended", run=self.lease.run, epoch=self.lease.epoch, kind=end.kind, **end.brief())

    async def _train(self) -> ending.End:
        spec = self.lease.spec
        backend = str(spec.get("config", {}).get("backend") or "auto")
        blueprint = str(spec.get("blueprint", {}).get("name", ""))
        backend = "tensorflow" if backend == "auto" else backend
        child = await self._tools.take_child(self.lease.device, backend, blueprint)
        self._child = child
        await self._bring_files(child.folder)
        if self.is_lost:
            await child.kill()
            return ending.of_lost()
        (child.folder / "start.json").write_text(json.dumps(spec))
        child.send("start", spec="start.json")
        self._spec_sent_at = self._heard_at = self._tools.clock.monotonic()
        if self._facts.stop_reason is not None:
            child.send("stop", grace_s=0, purpose=self._facts.stop_reason)
        hearing = asyncio.create_task(self._hear(child))
        measuring = asyncio.create_task(self._keep_measuring(child))
        exit_code = await child.wait()
        # A grandchild could hold the pipe open; what the child itself said is read long before this.
        done, _ = await asyncio.wait({hearing}, timeout=5)
        if not done:
            hearing.cancel()
            child.signal(signal.SIGKILL)
        measuring.cancel()
        self._measure(child, is_final=True)
        self._outbox.seal()
        return ending.decide(self._facts, exit_code, child.output())

    # --- what the child measures -------------------------------------------------------------------

    async def _keep_measuring(self, child: Child) -> None:
        while True:
            await asyncio.sleep(MEASURE_EVERY_S)
            self._measure(child)

    def _measure(self, child: Child, *, is_final: bool = False) -> None:
        """Take over what the child has measured since the last time."""
        folder = child.folder / SPOOL
        if self._spool is None:
            if folder.is_symlink() or not folder.is_dir():
                return
            self._spool = SpoolReader(folder)
        while True:
            try:
                read = self._spool.read(self._measured + 1, POINTS_PER_BATCH, is_final=is_final)
            except (OSError, TapelineError) as error:
                # The folder is the child's: what it did to it is its own loss.
                logger.warning("metrics_unreadable", run=self.lease.run, why=str(error)[:200])
                return
            if read.last < read.first:
                return
            self._outbox.measure(read.columns)
            self._measured = read.last
            self._spool.forget(read.last)

    async def _bring_files(self, folder: Path) -> None:
        folders = {"asset": folder / "asset", "checkpoint": folder / "resume"}
        for file in self.lease.files:
            target = folders.get(str(file["role"]))
            if target is None:
                continue
            target.mkdir(mode=0o700, exist_ok=True)
            path = await self._tools.store.local_path(str(file["sha256"]), self._tools.cache)
            name = StageFile(name=file["name"], size_bytes=file["size_bytes"], sha256=file["sha256"]).name
            if path.stat().st_size != int(file["size_bytes"]):
                raise TapelineError(
                    f"{name} has {path.stat().st_size} bytes where {file['size_bytes']} were promised", code="corrupt"
                )
            (target / name).symlink_to(path)

    # --- what the child says ----------------------------------------------------------------------

    async def _hear(self, child: Child) -> None:
        try:
            async for line in child.lines():
                self._take(child, line)
        except (TapelineError, KeyError, TypeError, ValueError) as error:
            self._facts.protocol = str(error)[:400]
            child.signal(signal.SIGKILL)

    def _take(self, child: Child, line: dict[str, Any]) -> None:
        kind = line["kind"]
        if kind != "alive" or line["step"] != self._facts.last_step:
            self._heard_at = self._tools.clock.monotonic()
        match kind:
            case "started":
                self._facts.has_started = True
                self._facts.last_step = int(line["global_step"])
                fields = (
                    "pid", "resume", "differs", "fingerprint", "global_step", "training_epochs", "steps_per_epoch",
                    "parameters", "details",
                )  # fmt: skip
                data = {name: line[name] for name in fields} | {"sandbox": sandbox.LEVEL}
                self._outbox.report("started", data, self._started)
            case "progress":
                said = {name: line[name] for name in ("operation", "value", "final_value", "units")}
                self._outbox.progress(said)
            case "alive":
                self._facts.last_step = int(line["step"])
            case "checkpoint_begin":
                # What it measured before this is told before this.
                self._measure(child)
                self._outbox.report("checkpoint_begun", {"checkpoint_id": line["id"], "global_step": int(line["step"])})
            case "checkpoint":
                task = asyncio.create_task(self._upload(child, line))
                self._uploads.add(task)
                task.add_done_callback(self._uploads.discard)
            case "stopping":
                if self._facts.stop_reason not in (None, "agent_shutdown"):
                    self._outbox.report("terminating")
            case "done":
                self._facts.done = line
                self._facts.last_step = int(line["global_step"])
            case "failed":
                self._facts.failed = line
            case "log":
                logger.info("child_said", run=self.lease.run, level_said=line.get("level"), text=line.get("text"))
            case "hello":
                logger.debug("child_hello", run=self.lease.run, pid=line.get("pid"))

    def _started(self, refusal: TapelineError | None) -> None:
        if refusal is not None:
            # The run is in no state to begin; this attempt is over and the service knows why.
            self.lose("refused")

    async def _upload(self, child: Child, line: dict[str, Any]) -> None:
        lease = self.lease
        checkpoint_id = str(line["id"])
        try:
            files = [StageFile.model_validate(file) for file in line["files"]]
            stage = Stage(
                command_id=f"{lease.run[:20]}-e{lease.epoch}-{checkpoint_id}"[:64],
                team=lease.team, run=lease.run, epoch=lease.epoch, checkpoint_id=checkpoint_id, files=files,
            )  # fmt: skip
            view = await self._tools.requests.until_answered("stage", stage, StageView)
            for file in files:
                path = child.folder / "checkpoints" / checkpoint_id / file.name
                if path.is_symlink():
                    raise TapelineError(f"{file.name} of {checkpoint_id} is a link", code="invalid")
                await self._tools.store.stage_file(f"{view.prefix.rstrip('/')}/{file.name}", path)
        except (TapelineError, OSError, ValueError) as error:
            logger.warning("checkpoint_refused", run=lease.run, checkpoint=checkpoint_id, why=str(error))
            if isinstance(error, TapelineError) and error.code == "fenced":
                self.lose("fenced")
            child.send("checkpoint_refused", id=checkpoint_id)
            return
        passed("checkpoint.staged")
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settled(refusal: TapelineError | None) -> None:
            if refusal is None:
                self._facts.kept_checkpoint = checkpoint_id
            child.send("checkpoint_kept" if refusal is None else "checkpoint_refused", id=checkpoint_id)
            if not answered.done():
                answered.set_result(None)

        data = {
            "checkpoint_id": checkpoint_id,
            "global_step": int(line["step"]),
            "training_epoch": int(line["training_epoch"]),
            "files": [file.model_dump() for file in files],
            "monitored": {tag: value for tag, value in line["monitored"].items() if not isinstance(value, str)},
            "weights_digest": str(line["weights_digest"]),
            "state_digest": str(line["state_digest"]),
        }
        self._outbox.report("checkpoint", data, settled)
        await answered

    async def _uploaded(self) -> None:
        while self._uploads and not self.is_lost:
            either: set[asyncio.Future[Any]] = {*self._uploads, self._lost}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    # --- deadlines --------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        try:
            await self._outbox.run()
        except Fenced:
            if self._has_ended and await self._reclaim():
                await self._deliver()
                return
            self.lose("fenced")
        except Exception:
            # What cannot be said cannot be held either: the service will see the lease end.
            logger.exception("delivery_failed", run=self.lease.run, epoch=self.lease.epoch)
            self.lose("refused")

    async def _reclaim(self) -> bool:
        """Whether the ended run was granted once more, so that its end can be told."""
        lease = self.lease
        command = Reclaim(command_id=f"{lease.run}-e{lease.epoch}-r", team=lease.team, run=lease.run, epoch=lease.epoch)
        try:
            granted = await self._tools.requests.until_answered("reclaim", command, Lease)
        except TapelineError as error:
            logger.info("reclaim_refused", run=lease.run, epoch=lease.epoch, code=error.code)
            return False
        journal = Journal.open(self._tools.journals / f"{granted.run}.{granted.epoch}.journal")
        self._outbox.rebase(granted, journal)
        self._journal.remove()
        self._journal = journal
        self.lease = granted
        self._renewed_at = self._tools.clock.monotonic()
        return True

    async def _watch(self) -> None:
        patience = self._tools.patience
        ttl_s = self.lease.ttl_s
        config = self.lease.spec.get("config") or {}
        stall_s = float(config.get("stall_timeout_s") or patience.stall_timeout_s)
        while True:
            await asyncio.sleep(min(0.25, ttl_s / 60))
            child = self._child
            if self._has_ended or child is None or self.is_lost:
                continue
            now = self._tools.clock.monotonic()
            age = now - self._renewed_at
            if age >= ttl_s:
                self._facts.killed = "lease_lost"
                self.lose("lease_lost")
            elif age >= ttl_s * 2 / 3:
                if not self._is_paused:
                    self._is_paused = True
                    logger.warning("child_paused", run=self.lease.run, age_s=round(age, 1))
                    child.signal(signal.SIGSTOP)
            elif self._spec_sent_at is not None and self._facts.killed is None:
                if not self._facts.has_started and now - self._spec_sent_at >= patience.start_timeout_s:
                    self._kill(child, "start_timeout")
                elif now - self._heard_at >= stall_s:
                    self._kill(child, "stalled")

    def _kill(self, child: Child, why: ending.Killed) -> None:
        self._facts.killed = why
        child.signal(signal.SIGKILL)

    async def _kill_after_grace(self, grace_s: float) -> None:
        await asyncio.sleep(grace_s)
        child = self._child
        if child is None or not child.is_alive:
            return
        self._facts.killed = "grace"
        child.signal(signal.SIGTERM)
        # A paused group takes SIGTERM only when it goes on.
        child.signal(signal.SIGCONT)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                asyncio.shield(asyncio.ensure_future(child.wait())), self._tools.patience.term_to_kill_s
            )
        child.signal(signal.SIGKILL)
