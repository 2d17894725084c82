"""How far tables and process managers are behind the log: position, lag, age, what is parked, and who moves it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from nats.aio.client import Client
from sqlalchemy import Connection, RowMapping, select

from tapeline.connection import connect, connect_as
from tapeline.database import Engine
from tapeline.errors import TapelineError
from tapeline.home import Home, find_home, read_instance
from tapeline.log import EventLog
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.metrics import MetricsStream
from tapeline.projections import positions
from tapeline.projections.parked import listed
from tapeline.projections.state import SERVED
from tapeline.replay.databases import databases
from tapeline.replay.reading import codec
from tapeline.security.keys import read_credentials

EVENTS = "EVENTS"


@dataclass(frozen=True, slots=True)
class Lag:
    """One projection or process manager: what it has not taken, and for how many seconds the oldest of that has waited.

    `lag` and `age_s` are None for a projection of METRICS when that stream was not asked.
    """

    service: str
    name: str
    version: int
    stream: str
    position: int
    lag: int | None
    age_s: float | None
    parked: int
    writer: str | None
    kind: Literal["projection", "process"] = "projection"

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "service",
        "name",
        "kind",
        "stream",
        "position",
        "lag",
        "age",
        "parked",
        "writer",
    )

    def cells(self) -> tuple[str, ...]:
        """The row of a table for people."""
        lag = "-" if self.lag is None else str(self.lag)
        age = "-" if self.age_s is None else f"{self.age_s:.1f} s"
        return (
            self.service,
            self.name,
            self.kind,
            self.stream,
            str(self.position),
            lag,
            age,
            str(self.parked),
            self.writer or "-",
        )

    def to_json(self) -> dict[str, Any]:
        """The row with stable keys."""
        return asdict(self)

    def is_over(self, lag: int | None, seconds: float | None) -> bool:
        """Whether it is farther behind than a limit allows."""
        return (lag is not None and (self.lag or 0) > lag) or (seconds is not None and (self.age_s or 0.0) > seconds)


async def lag(log: EventLog, engines: Mapping[str, Engine], *, metrics: MetricsStream | None = None) -> list[Lag]:
    """Every projection and process manager of these databases by service, and how far it is behind."""
    head = (await log.head()).position
    measured = await metrics.head() if metrics is not None else None
    found = []
    for service, engine in engines.items():
        rows, parked = await engine.read(_places)
        for row in rows:
            last = head if row["stream"] == EVENTS else measured
            behind = None if last is None else max(0, last - row["position"])
            found.append(
                Lag(
                    service, row["name"], row["version"], row["stream"], row["position"], behind,
                    0.0 if behind == 0 else await _age_s(log, metrics, row["stream"], row["position"]),
                    parked[row["name"]],
                    row["writer"],
                    # A process manager keeps no tables.
                    "projection" if row["tables"] else "process",
                )
            )  # fmt: skip
    return found


def _places(connection: Connection) -> tuple[Sequence[RowMapping], Counter[str]]:
    if not connection.dialect.has_table(connection, positions.name):
        return [], Counter()
    served = select(positions).where(positions.c.state.in_(SERVED)).order_by(positions.c.name)
    rows = connection.execute(served).mappings().all()
    return rows, Counter(one.name for one in listed(connection))


async def lag_of(home: Home | None = None) -> list[Lag]:
    """The same for an instance that runs: its own databases and its own log, read as the replay identity.

    Raises
    ------
    TapelineError
        `unavailable` when no instance runs on the home.
    """
    home = home or find_home()
    instance = read_instance(home)
    if instance is None:
        raise TapelineError(f"no instance runs on {home.root}", code="unavailable", hint="tapeline up")
    url = instance.url
    credentials = read_credentials(home.credential("replay"))
    client = await connect(credentials, url, name="replay")

    async def reading(reader: Client, /, **more: Any) -> None:
        await connect_as(reader, credentials, url, name="replay-read", **more)

    try:
        log = JetStreamLog(client, codec(), connect=reading, role="replay")
        metrics = MetricsStream(client, connect=reading, role="replay")
        async with databases(home, os.environ.get("TAPELINE_DATABASE_URL")) as engines:
            return await lag(log, engines, metrics=metrics)
    finally:
        await client.close()


async def _age_s(log: EventLog, metrics: MetricsStream | None, stream: str, position: int) -> float | None:
    stored_at: datetime | None = None
    if stream == EVENTS:
        async for commits in log.read(after=position, upto=position + 1):
            stored_at = commits[0].stored_at
    elif metrics is not None:
        # Holes are legal there: the next batch may be far.
        reading = metrics.read(after=position)
        try:
            async for many in reading:
                stored_at = many[0].stored_at
                break
        finally:
            await reading.aclose()
    return None if stored_at is None else max(0.0, (datetime.now(UTC) - stored_at).total_seconds())
