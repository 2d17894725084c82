"""Build the tables from the log again, beside those that are served, and show them in their place."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, func, select

from tapeline.clock import SystemClock
from tapeline.database import Engine, make_engine, physical, sqlite_url
from tapeline.decider import Deciders
from tapeline.errors import TapelineError
from tapeline.home import Home, find_home
from tapeline.log import EventLog
from tapeline.log.metrics import MetricsStream
from tapeline.projections import Projector
from tapeline.projections.building import Builder
from tapeline.projections.state import active, known, suffix
from tapeline.replay.reading import codec, opened_with_metrics
from tapeline.replay.still import refuse
from tapeline.replay.world import builds
from tapeline.service import ARCHIVES, Platform
from tapeline.store import LocalStore

SHOWN = 20
WAIT_S = 30.0
_LOOK_S = 0.02
Dump = dict[str, list[str]]
Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of one projection: its new generation, its rows before and after, and what differs.

    `differences` is empty where nothing was compared; `equal` is None then.
    """

    service: str
    name: str
    generation: int
    position: int
    before: int
    rows: int
    seconds: float
    shown: bool
    compared: bool = False
    differences: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool | None:
        """Whether the tables are equal to the last row, where they were compared."""
        return not self.differences if self.compared else None

    def to_json(self) -> dict[str, Any]:
        """The report with stable keys."""
        return asdict(self) | {"equal": self.equal}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to rebuild; see `rebuild`."""

    version: int | None = None
    compare: bool = False
    keep: int = 1
    switch: bool = True
    back: bool = False


def rebuild(
    home: Home | None = None,
    name: str = "all",
    *,
    into: str | None = None,
    version: int | None = None,
    compare: bool = False,
    keep: int = 1,
    switch: bool = True,
    back: bool = False,
    told: Told | None = None,
) -> list[Rebuilt]:
    """Build projections of an instance from its log, beside the tables that are served, and show them.

    The instance may run: its queries are answered all the while, from the old tables until the new ones
    have all that these have. What was killed on the way goes on where it was.

    Parameters
    ----------
    name : str
        A projection, or `all`.
    into : str
        Another database; may hold `{service}`.
    version : int
        The version of the projection that is meant; refused when this code has another.
    compare : bool
        Whether to compare the rows of both at one position.
    keep : int
        How many generations to keep of those that were shown before.
    switch : bool
        Whether to show what was built; if not, the next rebuild goes on with it.
    back : bool
        Go back to the generation that was shown before, once it has what came since.
    told : callable
        Called with the projection, the position and the end, as the build goes on.

    Raises
    ------
    TapelineError
        `not_found` for a name that no service has, `conflict` while another rebuilds the same, or when what its
        tables tell of was purged from METRICS; `unavailable` when there is no log, `log_mismatch` for tables of
        another log.
    """
    found_home = home or find_home()
    options = Options(version=version, compare=compare, keep=keep, switch=switch, back=back)

    async def work() -> list[Rebuilt]:
        async with (
            opened_with_metrics(found_home) as (log, metrics),
            _projectors(found_home, log, metrics, into) as there,
        ):
            if not (into and compare):
                return await rebuild_projectors(there, name, options, told=told)
            async with _projectors(found_home, log, metrics, None) as here:
                return await rebuild_projectors(there, name, options, told=told, against=here)

    return asyncio.run(work())


@asynccontextmanager
async def _projectors(
    home: Home, log: EventLog, metrics: MetricsStream, into: str | None
) -> AsyncIterator[dict[str, Sequence[Projector]]]:
    """The projectors of every installed service by service, none of which runs."""
    clock, decoder = SystemClock(), codec()
    log_id = (await log.head()).log_id
    url = into or os.environ.get("TAPELINE_DATABASE_URL")

    async def unheard(subject: str, body: bytes) -> None:
        refuse(0)

    found: dict[str, Sequence[Projector]] = {}
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tapeline-rebuild-")))
        for name, build in builds().items():
            engine = make_engine((url or sqlite_url(home.db / f"{name}.db")).format(service=name))
            stack.push_async_callback(engine.dispose)
            (work / name).mkdir()
            platform = Platform(
                log=log,
                log_id=log_id,
                codec=decoder,
                metrics=metrics,
                deciders=Deciders(log, decoder, clock),
                engine=engine,
                store=LocalStore(home.store),
                clock=clock,
                publish=unheard,
                home=work / name,
                standard=name == ARCHIVES,
            )
            found[name] = build(platform).projectors
        yield found


async def rebuild_projectors(
    projectors: Mapping[str, Sequence[Projector]],
    name: str = "all",
    options: Options | None = None,
    *,
    told: Told | None = None,
    against: Mapping[str, Sequence[Projector]] | None = None,
) -> list[Rebuilt]:
    """The same for projectors by service, which need not run; `against` has those to compare with."""
    options = options or Options()
    chosen = [(service, one) for service, many in projectors.items() for one in many if name in ("all", one.name)]
    if not chosen:
        names = sorted(one.name for many in projectors.values() for one in many)
        raise TapelineError(
            f"no projection is named {name!r}", code="not_found", hint=f"projections are: {', '.join(names)}"
        )
    others = {one.name: one for many in (against or {}).values() for one in many}
    return [
        await _rebuilt(service, one, options, told, others.get(one.name, one))
        for service, one in sorted(chosen, key=lambda each: (each[0], each[1].name))
    ]


async def _rebuilt(
    service: str, projector: Projector, options: Options, told: Told | None, against: Projector
) -> Rebuilt:
    began = time.monotonic()
    folds, name = projector.projection.version, projector.name
    if options.version not in (None, folds):
        raise TapelineError(
            f"this code folds version {folds} of {name}, not {options.version}",
            code="invalid",
            hint="run the version of tapeline whose tables are wanted",
        )
    before = await against.engine.read(lambda connection: _rows(connection, against))
    builder = Builder(projector, None if told is None else lambda position, end: told(name, position, end))
    if before is not None and options.switch and not options.back and (lost := await projector.source.missing()):
        raise TapelineError(
            f"{lost} messages of {projector.source.stream} were purged: tables of {name} that are built from it would "
            f"lack what the ones that are served have of them",
            code="conflict",
            hint="keep the tables that are served; --no-switch builds the others beside them",
        )
    # To be compared, both must come to rest at one position: the new one is the one that can wait.
    compared = options.compare and before is not None
    await builder.build(before[0] if compared and before is not None else None, back=options.back)
    differing = await _compared(builder, projector, against) if compared else []
    generation = builder.generation.known.generation
    if options.switch:
        await builder.switch(keep=options.keep)
    else:
        await builder.leave()
    rows = await projector.engine.read(lambda connection: _count(connection, projector, generation))
    return Rebuilt(
        service, name, generation, builder.generation.position, before[1] if before else 0, rows,
        round(time.monotonic() - began, 3), options.switch, compared, differing,
    )  # fmt: skip


async def _compared(builder: Builder, projector: Projector, against: Projector) -> list[str]:
    deadline = time.monotonic() + WAIT_S
    while True:
        found = await against.engine.read(lambda connection: _dumped(connection, against))
        if found is not None and found[0] >= builder.generation.position:
            break
        if time.monotonic() > deadline:
            raise TapelineError(
                f"the tables of {projector.name} stand at {found[0] if found else 0}, before what was built of them",
                code="unavailable",
                hint="tapeline status; rebuild without --compare",
            )
        await asyncio.sleep(_LOOK_S)
    position, old = found
    await builder.catch_up(position)
    number = builder.generation.known.generation
    new = await projector.engine.read(lambda connection: dump(connection, projector.projection.tables, number))
    return differences(old, new)


def _rows(connection: Connection, projector: Projector) -> tuple[int, int] | None:
    """The position and the number of rows of what is served."""
    served = active(connection, projector.name)
    if served is None:
        return None
    return served.position, sum(
        connection.scalar(select(func.count()).select_from(physical(table, suffix(served.generation)))) or 0
        for table in projector.projection.tables
        if table.name in served.tables
    )


def _count(connection: Connection, projector: Projector, generation: int) -> int:
    return sum(
        connection.scalar(select(func.count()).select_from(physical(table, suffix(generation)))) or 0
        for table in projector.projection.tables
    )


def _dumped(connection: Connection, projector: Projector) -> tuple[int, Dump] | None:
    served = active(connection, projector.name)
    if served is None:
        return None
    tables = [table for table in projector.projection.tables if table.name in served.tables]
    return served.position, dump(connection, tables, served.generation)


async def names_of(engines: Mapping[str, Engine]) -> dict[str, str]:
    """The projections of these databases, each with the key of its database."""
    found: dict[str, str] = {}
    for service, engine in engines.items():
        found |= dict.fromkeys((each.name for each in await engine.read(known)), service)
    return found


def dump(connection: Connection, tables: Sequence[Table], generation: int) -> Dump:
    """The rows of a generation's tables as canonical JSON, sorted: equal tables give equal dumps."""
    found: Dump = {}
    for table in tables:
        rows = connection.execute(select(physical(table, suffix(generation)))).mappings()
        found[table.name] = sorted(
            json.dumps(dict(row), sort_keys=True, separators=(",", ":"), default=_canonical) for row in rows
        )
    return found


def differences(before: Dump, after: Dump) -> list[str]:
    """What two dumps do not share, in words, at most 20 lines a table."""
    found = []
    for name in sorted({*before, *after}):
        old, new = Counter(before.get(name, [])), Counter(after.get(name, []))
        found += [f"{name}: missing {row}" for row in sorted((old - new).elements())[:SHOWN]]
        found += [f"{name}: added {row}" for row in sorted((new - old).elements())[:SHOWN]]
    return found


def _canonical(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
