"""Carries builds out: one at a time, in a thread beside the event loop, gone on with after a crash.

What is to be built is on the log, and what has been built of it are the shards in the store; the builder keeps
nothing that matters. Shards are computed by this process and by all others that take from the queue; whoever
computes one, its bytes are the same. Putting them together is this process's part.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from tapeline.assets.asset import aggregate, queries
from tapeline.assets.asset.work import DEFECTS, Shards, messages, offer
from tapeline.contracts.assets import FailBuild, FailRebuild, FinishBuild, FinishRebuild
from tapeline.decider import Deciders, origin_of
from tapeline.errors import CODES, TapelineError
from tapeline.failpoints import passed
from tapeline.ids import derived_id
from tapeline.log import progress
from tapeline.log.metrics import MetricsStream
from tapeline.log.work import WorkQueue
from tapeline.logs import get_logger
from tapeline.projections import Reader
from tapeline.store import ArtifactStore
from tapeline.subjects import Ref

if TYPE_CHECKING:
    # What computes is imported when the first build runs: the service is ready before numpy is.
    from tapeline.assets.build import Built
    from tapeline.assets.plan import Plan
    from tapeline.assets.shard import ShardData

log = get_logger()

ACTOR = "service:assets"
RETRY_S = 2.0
TRIES = 5
SHARD_RETRY_S = 0.05
LOOK_S = 2.0
TOLD_EVERY_S = 0.2
TRANSIENT = frozenset({"unavailable", "timeout", "unknown_outcome", "conflict"})


Tell = Callable[[str, int, int, str], None]


class _Ended(Exception):
    """The build is no longer wanted."""


class Builder:
    """Builds what `AssetBuildRequested` asks for, and again what `AssetRebuildRequested` does.

    Parameters
    ----------
    metrics : where other processes read how far a build is
    folder : private folder for files that are not yet promoted
    queue : where other processes find shards to compute; without one all are computed here
    """

    def __init__(
        self,
        *,
        deciders: Deciders,
        store: ArtifactStore,
        assets: Reader,
        metrics: MetricsStream,
        folder: Path,
        shards: Shards,
        queue: WorkQueue | None = None,
    ) -> None:
        self._deciders = deciders
        self._store = store
        self._assets = assets
        self._metrics = metrics
        self._folder = folder
        self._shards = shards
        self._queue = queue
        self._asked: asyncio.Queue[Ref] = asyncio.Queue()
        self._waiting: set[Ref] = set()
        self._stops: dict[Ref, threading.Event] = {}
        self._progress: dict[Ref, dict[str, dict[str, Any]]] = {}

    def wake(self, ref: Ref) -> None:
        """Have an asset built; a repeat is nothing new."""
        if ref not in self._waiting:
            self._waiting.add(ref)
            self._asked.put_nowait(ref)

    def stop(self, ref: Ref) -> None:
        """End a build that was cancelled."""
        if ref in self._stops:
            self._stops[ref].set()

    def progress(self, ref: Ref) -> list[dict[str, Any]]:
        """How far a build of this process is: `{operation, value, final_value, units}`, the latest of each."""
        return list(self._progress.get(ref, {}).values())

    async def progress_of(self, ref: Ref) -> list[dict[str, Any]]:
        """How far a build is, whichever process it is in, or how far the last one was."""
        return self.progress(ref) if ref in self._progress else await progress.latest(self._metrics, ref.team, ref.id)

    async def run(self) -> None:
        """Build for ever; a task of the service. Begins with what an earlier process left unfinished."""
        await asyncio.to_thread(_emptied, self._folder)
        await self._shards.sweep()
        await self._assets.projector.wait_for(await self._assets.projector.head(), timeout_s=3600.0)
        while True:
            # A build may have been asked of another copy of the service, which wakes nobody here.
            try:
                for team, asset_id in await self._assets.at(None, queries.building):
                    self.wake(Ref(team, "asset", asset_id))
            except (TapelineError, SQLAlchemyError) as error:
                log.warning("builder_cannot_look", why=str(error)[:200])
            try:
                async with asyncio.timeout(LOOK_S):
                    ref = await self._asked.get()
            except TimeoutError:
                continue
            self._waiting.discard(ref)
            await self._carry_out(ref)

    async def _carry_out(self, ref: Ref) -> None:
        for attempt in range(TRIES):
            try:
                await self._build(ref)
                return
            except TapelineError as error:
                if error.code not in TRANSIENT or attempt == TRIES - 1:
                    log.error("build_not_ended", asset=ref.id, team=ref.team, code=error.code, error=error.message)
                    return
                log.warning("build_waits", asset=ref.id, team=ref.team, code=error.code, error=error.message)
                await asyncio.sleep(RETRY_S * (attempt + 1))

    async def _build(self, ref: Ref) -> None:
        state = await self._deciders.state(aggregate, ref)
        is_again = isinstance(state, aggregate.Ready) and state.rebuilding
        wanted = aggregate.request_of(state)
        if wanted is None or not (is_again or isinstance(state, aggregate.Building)):
            return
        led = await self._deciders.cause(aggregate, ref)
        stop = self._stops[ref] = threading.Event()
        said = self._progress[ref] = {}
        folder = self._folder / ref.id
        log.info("build_begins", asset=ref.id, team=ref.team, name=wanted.name, again=is_again)
        command: FinishBuild | FailBuild | FinishRebuild | FailRebuild
        try:
            await asyncio.to_thread(_emptied, folder)
            async with progress.told(self._metrics, ref.team, ref.id, said):
                tell = self._teller(said, stop)
                if is_again:
                    built = await self._built_again(ref, wanted, folder, tell)
                    command = FinishRebuild(data_digest=built.data_digest)
                else:
                    built = await self._built(ref, wanted, folder, tell)
                    passed("asset.assembled")
                    command = await self._finish(wanted, built)
                    passed("asset.stored")
        except _Ended:
            return
        except TapelineError as error:
            if error.code in TRANSIENT:
                raise
            command = _failure(wanted, error, is_again)
        except OSError as error:
            log.exception("build_cannot_write", asset=ref.id, team=ref.team)
            command = _failure(wanted, _unwritten(error), is_again)
        except DEFECTS as error:
            # A defect in a formula must not leave the asset building for ever.
            log.exception("build_broke", asset=ref.id, team=ref.team)
            command = _failure(wanted, _broken(error), is_again)
        finally:
            # The thread may outlive a cancelled task: it ends at its next word of progress.
            stop.set()
            self._stops.pop(ref, None)
            self._progress.pop(ref, None)
            await asyncio.to_thread(shutil.rmtree, folder, True)
        # What was asked for is in the id: the next build may end in the very same words, and has ended nevertheless.
        said_id = derived_id("build", ref.id, led.cause or "", type(command).__name__, str(command.model_dump()))
        origin = origin_of(ACTOR, said_id, cause=led.cause, correlation=led.correlation_id)
        await self._deciders.handle(aggregate, ref, command, origin)
        log.info("build_ended", asset=ref.id, team=ref.team, name=wanted.name, result=type(command).__name__)

    async def _built(self, ref: Ref, state: aggregate.Building, folder: Path, tell: Tell) -> Built:
        from tapeline.assets.build import assemble

        plan = await self._shards.plan(ref.team, state)
        tell("plan", 1, 1, "plans")
        parts = await self._shards_of(ref, state, plan, tell)
        self._shards.forget(ref.team, state)
        async with self._shards.hand:
            return await asyncio.to_thread(
                assemble,
                plan,
                parts,
                name=state.name,
                team=ref.team,
                spec_digest=state.spec_digest,
                folder=folder,
                tell=tell,
            )

    async def _built_again(self, ref: Ref, state: aggregate.Building, folder: Path, tell: Tell) -> Built:
        """The asset from nothing but its tapes: shards that are kept are not read, or they would prove themselves."""
        from tapeline.assets.build import build

        tapes = await self._shards.tapes(ref.team, state)
        async with self._shards.hand:
            return await asyncio.to_thread(
                build,
                state.spec,
                name=state.name,
                team=ref.team,
                spec_digest=state.spec_digest,
                tapes=tapes,
                folder=folder,
                components=self._shards.components(),
                tell=tell,
            )

    async def _shards_of(self, ref: Ref, state: aggregate.Building, plan: Plan, tell: Tell) -> list[ShardData]:
        """Every shard of a plan, computed here and by whoever else takes from the queue.

        Others begin at the front, this process at the end; it does not wait for what another has begun, but
        computes it too: whoever is second writes the same bytes.
        """
        done = await self._shards.done(ref.team, plan)
        total = len(plan.shards)
        tell("shards", len(done), total, "shards")
        todo = set(range(total)) - done
        if self._queue is not None and len(todo) > 1:
            try:
                await offer(self._queue, ref, state.spec_digest, plan, todo)
            except TapelineError as error:
                log.warning("build_is_alone", asset=ref.id, team=ref.team, code=error.code, why=error.message)
        told = time.monotonic()
        for i, beside in ((i, part[k + 1 :]) for part in messages(plan, todo)[::-1] for k, i in enumerate(part)):
            await self._made(ref, plan, i, beside)
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                tell("shards", len(await self._shards.done(ref.team, plan)), total, "shards")
        tell("shards", total, total, "shards")
        return [await self._shards.read(ref.team, plan, i) for i in range(total)]

    async def _made(self, ref: Ref, plan: Plan, i: int, beside: Sequence[int]) -> None:
        """Compute one shard and keep it; its fifth failure ends the build, a refusal does at once."""
        where = f"{plan.shards[i].symbol} on {plan.shards[i].date}"
        for attempt in range(1, TRIES + 1):
            try:
                await self._shards.make(ref.team, plan, i, beside)
                return
            except TapelineError as error:
                if error.code not in TRANSIENT:
                    error.data = (error.data if isinstance(error.data, dict) else {}) | {"shard": where}
                raise
            except (OSError, *DEFECTS) as error:
                log.exception("shard_broke", asset=ref.id, team=ref.team, shard=where, failure=attempt)
                if attempt == TRIES:
                    failed = _unwritten(error) if isinstance(error, OSError) else _broken(error, where)
                    failed.data = {"shard": where}
                    raise failed from error
                await asyncio.sleep(SHARD_RETRY_S * attempt)

    def _teller(self, said: dict[str, dict[str, Any]], stop: threading.Event) -> Tell:
        def tell(operation: str, value: int, final_value: int, units: str) -> None:
            if stop.is_set():
                raise _Ended
            said[operation] = {
                "operation": operation,
                "value": value,
                "final_value": final_value,
                "units": units,
            }

        return tell

    async def _finish(self, state: aggregate.Building, built: Built) -> FinishBuild:
        files: list[dict[str, Any]] = []
        for file in built.files:
            sha256, size = await self._store.put(file.path)
            files.append({"name": file.name, "size_bytes": size, "sha256": sha256})
        return FinishBuild(
            spec_digest=state.spec_digest,
            certificate=built.certificate,
            verdict=built.certificate["verdict"],
            files=files,
            rows={file.name: file.rows for file in built.files},
            datasets=built.datasets,
            features=built.features,
            labels=built.labels,
            data_digest=built.data_digest,
            stats=built.stats,
        )


def _unwritten(error: OSError) -> TapelineError:
    return TapelineError(
        f"the asset cannot be written: {error.strerror or error}",
        code="insufficient_storage",
        hint="free some disk space, then build again: what is computed is kept",
    )


def _broken(error: Exception, where: str = "") -> TapelineError:
    place = f" in {where}" if where else ""
    return TapelineError(
        f"the build broke{place}: {type(error).__name__}: {error}",
        code="internal",
        hint="a component may be at fault: the log of the assets service has the traceback",
    )


def _failure(state: aggregate.Building, error: TapelineError, is_again: bool) -> FailBuild | FailRebuild:
    code = error.code if isinstance(error.code, str) and error.code in CODES else "internal"
    if is_again:
        return FailRebuild(code=code, message=error.message, hint=error.hint)
    more = error.data if isinstance(error.data, dict) else {}
    return FailBuild(
        spec_digest=state.spec_digest,
        code=code,
        message=error.message,
        hint=error.hint,
        shard=more.get("shard"),
        certificate=more.get("certificate"),
    )


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
