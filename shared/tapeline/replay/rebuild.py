"""Rebuild the tables from the log, and compare them row by row with what they were."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, select, table, text

from tapeline.database import Engine
from tapeline.errors import TapelineError
from tapeline.home import Home, find_home, holder
from tapeline.projections import positions, reset
from tapeline.replay.databases import databases

WAIT_S = 60.0
ROUNDS = 3
SHOWN = 20
_CHECK_S = 0.05
Dump = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of one projection: its rows before and after at one position, and what differs."""

    service: str
    name: str
    position: int
    before: int
    rows: int
    seconds: float
    differences: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether the tables are equal to the last row."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """The report with stable keys."""
        return asdict(self) | {"equal": self.equal}


def rebuild(home: Home | None = None, name: str = "all", *, timeout_s: float = WAIT_S) -> list[Rebuilt]:
    """Empty the tables of an instance's projections and let them be filled from the log again.

    The running services fill them; queries meanwhile wait or are answered `behind`.

    Parameters
    ----------
    name : str
        A projection, or `all`.
    timeout_s : float
        How long one projection may take.

    Raises
    ------
    TapelineError
        `not_found` for a name that no database has, `unavailable` when no instance runs or the tables are
        not back in time, `conflict` when the log moves so fast that no two states can be compared.
    """
    home = home or find_home()
    if holder(home) is None:
        raise TapelineError(f"no instance runs on {home.root}", code="unavailable", hint="tapeline up")

    async def work() -> list[Rebuilt]:
        async with databases(home, os.environ.get("TAPELINE_DATABASE_URL")) as engines:
            return await rebuild_tables(engines, name, timeout_s=timeout_s)

    return asyncio.run(work())


async def rebuild_tables(
    engines: Mapping[str, Engine], name: str = "all", *, timeout_s: float = WAIT_S
) -> list[Rebuilt]:
    """The same for databases by service; their projectors must be running."""
    chosen = []
    known = []
    for service, engine in engines.items():
        tables = await engine.read(_tables)
        known += list(tables)
        chosen += [(service, engine, each, tables[each]) for each in tables if name in ("all", each)]
    if not chosen:
        raise TapelineError(
            f"no projection is named {name!r}", code="not_found", hint=f"projections are: {', '.join(sorted(known))}"
        )
    # Together: each waits for its own projector, which looks at its tables once a second.
    work = [_rebuilt(service, engine, found, tables, timeout_s) for service, engine, found, tables in chosen]
    return sorted(await asyncio.gather(*work), key=lambda each: (each.service, each.name))


async def names_of(engines: Mapping[str, Engine]) -> dict[str, str]:
    """The projections of these databases, each with the key of its database."""
    found: dict[str, str] = {}
    for service, engine in engines.items():
        found |= dict.fromkeys(await engine.read(_tables), service)
    return found


def _tables(connection: Connection) -> dict[str, list[str]]:
    """The tables of each projection of a database."""
    if not connection.dialect.has_table(connection, positions.name):
        return {}
    rows = connection.execute(select(positions.c.name, positions.c.tables).order_by(positions.c.name))
    return {row.name: row.tables for row in rows}


def dump(connection: Connection, tables: Sequence[str]) -> Dump:
    """The rows of tables as canonical JSON, sorted: equal tables give equal dumps."""
    found: Dump = {}
    for name in sorted(tables):
        rows = connection.execute(select(text("*")).select_from(table(name))).mappings()
        found[name] = sorted(
            json.dumps(dict(row), sort_keys=True, separators=(",", ":"), default=_canonical) for row in rows
        )
    return found


async def _rebuilt(service: str, engine: Engine, name: str, tables: list[str], timeout_s: float) -> Rebuilt:
    began = time.monotonic()
    for _ in range(ROUNDS):
        # A dump reads several tables: in one transaction with the position, or it would mix two states.
        position, before = await engine.write(lambda connection: _emptied(connection, name, tables))
        try:
            async with asyncio.timeout(timeout_s):
                await _until(engine, name, position)
        except TimeoutError as error:
            raise TapelineError(
                f"the tables of {name} are not back at position {position} after {timeout_s:g} s",
                code="unavailable",
                hint="tapeline status; what is missing is filled in as the service reads on",
            ) from error
        reached, after = await engine.read(lambda c: (_position(c, name), dump(c, tables)))
        if reached == position:
            return Rebuilt(
                service, name, position, _count(before), _count(after), round(time.monotonic() - began, 3),
                differences(before, after),
            )  # fmt: skip
    raise TapelineError(
        f"the log moves while the tables of {name} are rebuilt", code="conflict", hint="repeat it when less is going on"
    )


async def _until(engine: Engine, name: str, position: int) -> None:
    while True:
        if await engine.read(lambda connection: _position(connection, name)) >= position:
            return
        await asyncio.sleep(_CHECK_S)


def _emptied(connection: Connection, name: str, tables: list[str]) -> tuple[int, Dump]:
    position, before = _position(connection, name), dump(connection, tables)
    reset(connection, name)
    return position, before


def _position(connection: Connection, name: str) -> int:
    found = connection.scalar(select(positions.c.position).where(positions.c.name == name))
    return int(found or 0)


def differences(before: Dump, after: Dump) -> list[str]:
    """What two dumps do not share, in words, at most 20 lines a table."""
    found = []
    for name in sorted({*before, *after}):
        old, new = Counter(before.get(name, [])), Counter(after.get(name, []))
        found += [f"{name}: missing {row}" for row in sorted((old - new).elements())[:SHOWN]]
        found += [f"{name}: added {row}" for row in sorted((new - old).elements())[:SHOWN]]
    return found


def _count(found: Dump) -> int:
    return sum(map(len, found.values()))


def _canonical(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
