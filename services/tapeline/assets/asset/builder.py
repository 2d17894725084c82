"""Carries builds out: one at a time, in a thread beside the event loop, begun again after a crash.

What is to be built is on the log; the builder keeps nothing that matters. A build is deterministic, so
beginning again gives the same bytes.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.assets.asset import aggregate, queries
from tapeline.assets.tape import aggregate as tape_aggregate
from tapeline.contracts.assets import FailBuild, FinishBuild
from tapeline.decider import Deciders, origin_of
from tapeline.errors import CODES, TapelineError
from tapeline.ids import derived_id
from tapeline.logs import get_logger
from tapeline.projections import Reader
from tapeline.store import ArtifactStore
from tapeline.subjects import Ref

if TYPE_CHECKING:
    # What computes is imported when the first build runs: the service is ready before numpy is.
    from tapeline.assets.build import Built
    from tapeline.assets.components import Registry
    from tapeline.tape.view import OpenTape

log = get_logger()

ACTOR = "service:assets"
RETRY_S = 2.0
TRIES = 5
REMEMBERED = 256
TRANSIENT = frozenset({"unavailable", "timeout", "unknown_outcome", "conflict"})


class _Ended(Exception):
    """The build is no longer wanted."""


class Builder:
    """Builds what `AssetBuildRequested` asks for.

    Parameters
    ----------
    folder : private folder for files that are not yet promoted
    components : gives the registry of features and labels
    """

    def __init__(
        self,
        *,
        deciders: Deciders,
        store: ArtifactStore,
        assets: Reader,
        folder: Path,
        components: Callable[[], Registry],
    ) -> None:
        self._deciders = deciders
        self._store = store
        self._assets = assets
        self._folder = folder
        self._components = components
        self._queue: asyncio.Queue[Ref] = asyncio.Queue()
        self._waiting: set[Ref] = set()
        self._stops: dict[Ref, threading.Event] = {}
        self._progress: OrderedDict[str, dict[str, dict[str, Any]]] = OrderedDict()

    def wake(self, ref: Ref) -> None:
        """Have an asset built; a repeat is nothing new."""
        if ref not in self._waiting:
            self._waiting.add(ref)
            self._queue.put_nowait(ref)

    def stop(self, ref: Ref) -> None:
        """End a build that was cancelled."""
        if ref in self._stops:
            self._stops[ref].set()

    def progress(self, asset_id: str) -> list[dict[str, Any]]:
        """How far a build is: `{operation, value, final_value, units}`, the latest of each operation."""
        return list(self._progress.get(asset_id, {}).values())

    async def run(self) -> None:
        """Build for ever; a task of the service. Begins with what an earlier process left unfinished."""
        await asyncio.to_thread(_emptied, self._folder)
        await self._assets.projector.wait_for(await self._assets.projector.head(), timeout_s=3600.0)
        for team, asset_id in await self._assets.at(None, queries.building):
            self.wake(Ref(team, "asset", asset_id))
        while True:
            ref = await self._queue.get()
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
        if not isinstance(state, aggregate.Building):
            return
        led = await self._deciders.cause(aggregate, ref)
        stop = self._stops[ref] = threading.Event()
        folder = self._folder / ref.id
        log.info("build_begins", asset=ref.id, team=ref.team, name=state.name)
        try:
            tapes = await self._tapes(ref.team, state)
            await asyncio.to_thread(_emptied, folder)
            built = await asyncio.to_thread(self._compute, ref, state, tapes, folder, stop)
            command: FinishBuild | FailBuild = await self._finish(state, built)
        except _Ended:
            return
        except TapelineError as error:
            if error.code in TRANSIENT:
                raise
            command = _failure(state, error)
        except (MemoryError, OSError, ValueError, ArithmeticError, LookupError, TypeError) as error:
            # A defect in a formula must not leave the asset building for ever.
            log.exception("build_broke", asset=ref.id, team=ref.team)
            broken = TapelineError(f"the build broke: {type(error).__name__}: {error}", code="internal")
            command = _failure(state, broken)
        finally:
            # The thread may outlive a cancelled task: it ends at its next word of progress.
            stop.set()
            self._stops.pop(ref, None)
            await asyncio.to_thread(shutil.rmtree, folder, True)
        command_id = derived_id("build", ref.id, state.spec_digest, type(command).__name__, str(command.model_dump()))
        origin = origin_of(ACTOR, command_id, cause=led.cause, correlation=led.correlation_id)
        await self._deciders.handle(aggregate, ref, command, origin)
        log.info("build_ended", asset=ref.id, team=ref.team, name=state.name, result=type(command).__name__)

    async def _tapes(self, team: str, state: aggregate.Building) -> dict[str, OpenTape]:
        from tapeline.tape.manifest import parse
        from tapeline.tape.view import OpenTape

        opened: dict[str, OpenTape] = {}
        for item in state.spec["tapes"]:
            tape = await self._deciders.state(tape_aggregate, Ref(team, "tape", item["tape"]))
            if not isinstance(tape, tape_aggregate.Tape) or tape.content_sha256 != item["content_sha256"]:
                raise TapelineError(
                    f"tape {item['tape']} is gone", code="unknown_tape", hint="import it again, then build again"
                )
            cache = self._folder.parent / "cache"
            manifest = await self._store.local_path(tape.manifest.sha256, cache)
            paths = {file.sha256: await self._store.local_path(file.sha256, cache) for file in tape.files}
            content = parse(await asyncio.to_thread(manifest.read_bytes))
            opened[item["tape"]] = OpenTape(content, paths.__getitem__, view=state.spec["view"], cache_bytes=0)
        return opened

    def _compute(
        self, ref: Ref, state: aggregate.Building, tapes: dict[str, OpenTape], folder: Path, stop: threading.Event
    ) -> Built:
        from tapeline.assets.build import build

        self._progress[ref.id] = {}
        while len(self._progress) > REMEMBERED:
            self._progress.popitem(last=False)
        return build(
            state.spec,
            name=state.name,
            team=ref.team,
            spec_digest=state.spec_digest,
            tapes=tapes,
            folder=folder,
            components=self._components(),
            tell=self._teller(self._progress[ref.id], stop),
        )

    def _teller(
        self, progress: dict[str, dict[str, Any]], stop: threading.Event
    ) -> Callable[[str, int, int, str], None]:
        def tell(operation: str, value: int, final_value: int, units: str) -> None:
            if stop.is_set():
                raise _Ended
            progress[operation] = {
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


def _failure(state: aggregate.Building, error: TapelineError) -> FailBuild:
    certificate = error.data.get("certificate") if isinstance(error.data, dict) else None
    code = error.code if isinstance(error.code, str) and error.code in CODES else "internal"
    return FailBuild(
        spec_digest=state.spec_digest, code=code, message=error.message, hint=error.hint, certificate=certificate
    )


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
