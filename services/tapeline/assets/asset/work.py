"""The shards of a build: opened tapes, plans, and shards computed one at a time, by whoever has a hand free."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tapeline.assets.asset import aggregate
from tapeline.assets.tape import aggregate as tape_aggregate
from tapeline.decider import Deciders
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.log.work import Work, WorkQueue, body_of, fields_of
from tapeline.logs import get_logger
from tapeline.store import ArtifactStore
from tapeline.subjects import Ref

if TYPE_CHECKING:
    # What computes is imported when the first build runs: the service is ready before numpy is.
    from tapeline.assets.components import Registry
    from tapeline.assets.plan import Plan
    from tapeline.assets.shard import ShardData
    from tapeline.tape.view import OpenTape

log = get_logger()

DEFECTS = (MemoryError, ValueError, ArithmeticError, LookupError, TypeError)
"""What a formula that is not right may raise."""
PLANS = 2
STRETCH = 8
"""Sessions of one symbol that one message names at most: neighbours share their bars."""
MESSAGES = 8
"""A build is at least so many messages, if it has as many shards."""
WAIT_S = 5.0
AGAIN_S = 5.0
GOES_ON_S = 15.0
TAPE_BYTES = 128 * 2**20
PREFIX = "builds"
KEPT_S = 7 * 24 * 3600.0
"""How long shards are kept: a build that failed, and one with another split, use them again."""


class Shards:
    """Plans of builds, and their shards in the store.

    Parameters
    ----------
    folder : private folder of the service for what may be lost
    components : gives the registry of features and labels
    """

    def __init__(
        self, *, deciders: Deciders, store: ArtifactStore, folder: Path, components: Callable[[], Registry]
    ) -> None:
        self._deciders = deciders
        self._store = store
        self._folder = folder
        self.components = components
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()
        self._planning = asyncio.Lock()
        self.hand = asyncio.Lock()
        """Held by who computes: one shard at a time in a process."""

    async def plan(self, team: str, state: aggregate.Building) -> Plan:
        """The plan of a build; the last ones are kept, with the bars that they have cut.

        Raises
        ------
        TapelineError
            `unknown_tape` when a tape is gone, and what `make_plan` refuses.
        """
        from tapeline.assets.plan import make_plan

        async with self._planning:
            key = (team, state.spec_digest)
            if key not in self._plans:
                tapes = await self.tapes(team, state)
                self._plans[key] = await asyncio.to_thread(make_plan, state.spec, tapes, self.components())
                while len(self._plans) > PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(key)
            return self._plans[key]

    def forget(self, team: str, state: aggregate.Building) -> None:
        """Let go of a plan, and of the bars that it holds."""
        self._plans.pop((team, state.spec_digest), None)

    async def done(self, team: str, plan: Plan) -> set[int]:
        """The shards of a plan that are there, by their place in it: the only truth about how far a build is."""
        names = await self._store.staged_names(_folder(team, plan))
        return {i for i, shard in enumerate(plan.shards) if shard.key in names}

    async def make(self, team: str, plan: Plan, i: int, beside: Sequence[int] = ()) -> None:
        """Compute one shard and keep it, unless it is there.

        Parameters
        ----------
        beside : shards that are to be made next, of the same symbol: those that are not there are computed with it
            and kept, too; where one of them fails, only the one asked for is made
        """
        folder = _folder(team, plan)
        async with self.hand:
            if await self._store.has_staged(f"{folder}/{plan.shards[i].key}"):
                return
            together = [i]
            for other in beside:
                if not await self._store.has_staged(f"{folder}/{plan.shards[other].key}"):
                    together.append(other)
            made = await asyncio.to_thread(_computed, plan, together)
        for number, content in made.items():
            await self._store.stage_bytes(f"{folder}/{plan.shards[number].key}", content)
            passed("asset.shard")

    async def read(self, team: str, plan: Plan, i: int) -> ShardData:
        """One shard as it was kept; one that is gone or damaged is computed again."""
        from tapeline.assets.shard import from_bytes

        key = f"{_folder(team, plan)}/{plan.shards[i].key}"
        content = await self._store.staged(key)
        if content is not None:
            try:
                return await asyncio.to_thread(from_bytes, content, plan.shards[i].key[:12])
            except TapelineError as error:
                log.warning("shard_damaged", team=team, key=key, why=error.message)
                await self._store.discard(key)
        await self.make(team, plan, i)
        return from_bytes(await self._store.staged(key) or b"", plan.shards[i].key[:12])

    async def sweep(self) -> int:
        """Remove shards that nothing has asked for in a week."""
        return await self._store.sweep(PREFIX, KEPT_S)

    async def tapes(self, team: str, state: aggregate.Building, *, with_days: bool = True) -> dict[str, OpenTape]:
        """The tapes of a recipe by id, opened.

        Parameters
        ----------
        with_days : without, days cannot be read, and their files are not fetched

        Raises
        ------
        TapelineError
            `unknown_tape` when one is gone.
        """
        from tapeline.tape.manifest import parse
        from tapeline.tape.view import OpenTape

        opened: dict[str, OpenTape] = {}
        for item in state.spec["tapes"]:
            tape = await self._deciders.state(tape_aggregate, Ref(team, "tape", item["tape"]))
            if not isinstance(tape, tape_aggregate.Tape) or tape.content_sha256 != item["content_sha256"]:
                raise TapelineError(
                    f"tape {item['tape']} is gone", code="unknown_tape", hint="import it again, then build again"
                )
            cache = self._folder / "cache"
            manifest = await self._store.local_path(tape.manifest.sha256, cache)
            files = tape.files if with_days else ()
            paths = {file.sha256: await self._store.local_path(file.sha256, cache) for file in files}
            content = parse(await asyncio.to_thread(manifest.read_bytes))
            opened[item["tape"]] = OpenTape(content, paths.__getitem__, view=state.spec["view"], cache_bytes=TAPE_BYTES)
        return opened


def _folder(team: str, plan: Plan) -> str:
    return f"{PREFIX}/{team}/{plan.digest[:32]}"


def _computed(plan: Plan, together: Sequence[int]) -> dict[int, bytes]:
    """Shards by their place in the plan, the first of them in any case."""
    from tapeline.assets.shard import compute_each, to_bytes

    plan.expect(plan.shards[i] for i in together)
    try:
        found = compute_each(plan, [plan.shards[i] for i in together])
    except (TapelineError, *DEFECTS) as error:
        if len(together) == 1:
            raise
        log.warning("shards_made_one_by_one", shards=len(together), why=f"{type(error).__name__}: {error}"[:200])
        # Whose fault it is, is found out when each is computed by itself.
        return _computed(plan, together[:1])
    return {i: to_bytes(each) for i, each in zip(together, found, strict=True)}


def messages(plan: Plan, todo: set[int]) -> list[list[int]]:
    """Shards that are to be computed as messages, each of neighbouring sessions of one symbol."""
    size = max(1, min(STRETCH, len(todo) // MESSAGES))
    made: list[list[int]] = []
    for i in sorted(todo, key=lambda i: (plan.shards[i].symbol, plan.shards[i].number)):
        last = made[-1] if made else []
        near = bool(last) and plan.shards[last[-1]].symbol == plan.shards[i].symbol
        if near and len(last) < size:
            last.append(i)
        else:
            made.append([i])
    return made


class Worker:
    """Takes parts of builds from the queue and computes their shards; any number of processes may have one."""

    def __init__(self, *, deciders: Deciders, queue: WorkQueue, shards: Shards) -> None:
        self._deciders = deciders
        self._queue = queue
        self._shards = shards

    async def run(self) -> None:
        """Work for ever; a task of the service."""
        while True:
            try:
                async with self._shards.hand:
                    # What this process would only hold, while it computes for a build of its own, others may take.
                    pass
                work = await self._queue.take(WAIT_S)
                if work is not None:
                    await self._do(work)
            except TapelineError as error:
                log.warning("worker_waits", code=error.code, why=error.message)
                await asyncio.sleep(AGAIN_S)

    async def _do(self, work: Work) -> None:
        part = fields_of(work.body)
        ref = Ref(part["team"], "asset", part["asset"])
        state = await self._deciders.state(aggregate, ref)
        if not isinstance(state, aggregate.Building) or state.spec_digest != part["spec_digest"]:
            await work.done()
            return
        try:
            async with _going_on(work):
                plan = await self._shards.plan(ref.team, state)
                for k, i in enumerate(part["shards"]):
                    await self._shards.make(ref.team, plan, i, part["shards"][k + 1 :])
            log.info("shards_made", asset=ref.id, team=ref.team, shards=len(part["shards"]))
        except TapelineError as error:
            # Who put the build together meets the same, and ends the build with it.
            log.warning("shard_refused", asset=ref.id, team=ref.team, code=error.code, why=error.message)
        except (OSError, *DEFECTS):
            log.exception("shard_broke", asset=ref.id, team=ref.team)
            await work.again(AGAIN_S)
            return
        await work.done()


@asynccontextmanager
async def _going_on(work: Work) -> AsyncIterator[None]:
    async def tell() -> None:
        while True:
            await asyncio.sleep(GOES_ON_S)
            await work.goes_on()

    telling = asyncio.ensure_future(tell())
    try:
        yield
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


async def offer(queue: WorkQueue, ref: Ref, spec_digest: str, plan: Plan, todo: set[int]) -> None:
    """Put shards into the queue for whoever has a hand free."""
    for part, shards in enumerate(messages(plan, todo)):
        body = body_of(team=ref.team, asset=ref.id, spec_digest=spec_digest, shards=shards)
        await queue.put(ref.team, ref.id, part, body)
