"""How far the build of an asset is, told to every copy of the service: batches of METRICS that hold progress alone.

Each batch has the latest word of every operation, so the last one is all that a reader needs. A build that another
process goes on with is the asset's next attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tapeline.errors import TapelineError
from tapeline.log.metrics import MetricsStream
from tapeline.logs import get_logger

log = get_logger()

EVERY_S = 0.5
FIELDS = ("operation", "value", "final_value", "units")

Operations = Mapping[str, dict[str, Any]]
"""The latest `{operation, value, final_value, units}` of each operation; filled by who does the work."""


def body_of(asset: str, attempt: int, batch: int, operations: Operations) -> bytes:
    """The bytes of a batch that holds no measurement."""
    progress = [{field: each[field] for field in FIELDS} for each in list(operations.values())]
    return msgspec.msgpack.encode(
        {"run": asset, "attempt": attempt, "batch": batch, "epoch": 0, "last_us": 0, "progress": progress}
    )


def operations_of(body: bytes) -> list[dict[str, Any]]:
    """What a batch tells, operation by operation.

    Raises
    ------
    TapelineError
        `log_damaged` for what is no batch.
    """
    try:
        found = msgspec.msgpack.decode(body)["progress"]
        return [{field: each[field] for field in FIELDS} for each in found]
    except (msgspec.MsgspecError, LookupError, TypeError) as error:
        raise TapelineError(f"the progress of a build cannot be read: {error}", code="log_damaged") from error


async def latest(metrics: MetricsStream, team: str, asset: str) -> list[dict[str, Any]]:
    """What was told last of the build of an asset; nothing when none was, or the broker does not say."""
    try:
        found = await metrics.tail(team, asset)
        return [] if found is None else operations_of(found.body)
    except TapelineError as error:
        # Progress is a courtesy: the asset is answered without it.
        log.warning("progress_unknown", asset=asset, team=team, code=error.code, why=error.message)
        return []


@asynccontextmanager
async def told(metrics: MetricsStream, team: str, asset: str, operations: Operations) -> AsyncIterator[None]:
    """Tell the progress of a build while the block runs, at most twice a second, and its last word at the end."""
    sender = _Sender(metrics, team, asset, operations)
    telling = asyncio.ensure_future(sender.run())
    try:
        yield
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        await sender.send()


class _Sender:
    def __init__(self, metrics: MetricsStream, team: str, asset: str, operations: Operations) -> None:
        self._metrics = metrics
        self._team = team
        self._asset = asset
        self._operations = operations
        self._said: list[dict[str, Any]] = []
        self._attempt = 0
        self._batch = 1

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self.send()

    async def send(self) -> None:
        now = [dict(each) for each in list(self._operations.values())]
        if now == self._said:
            return
        try:
            if not self._attempt:
                before = await self._metrics.tail(self._team, self._asset)
                self._attempt = 1 if before is None else before.attempt + 1
            body = body_of(self._asset, self._attempt, self._batch, {each["operation"]: each for each in now})
            await self._metrics.append(self._team, self._asset, self._attempt, self._batch, body)
        except TapelineError as error:
            # The number is used again: a batch that was stored all the same is known by it.
            log.warning("progress_not_told", asset=self._asset, team=self._team, code=error.code, why=error.message)
            return
        self._said = now
        self._batch += 1
