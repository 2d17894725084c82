"""Taking batches in: gapless per attempt, once each, fenced by the lease epoch."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

from tapeline.clock import Clock
from tapeline.contracts.agents import AppendMetrics
from tapeline.errors import TapelineError
from tapeline.log import Conflict
from tapeline.log.metrics import MetricsMessage
from tapeline.logs import get_logger
from tapeline.runs.metrics import batch as batches

log = get_logger()

REMEMBERED_RUNS = 10_000
TRIES = 5


class Metrics(Protocol):
    """The stream of measurements; `tapeline.log.metrics.MetricsStream` is the real one."""

    async def append(
        self, team: str, run: str, attempt: int, batch: int, body: bytes, *, expected: int | None = None
    ) -> int: ...

    async def tail(self, team: str, run: str) -> MetricsMessage | None: ...

    async def head(self) -> int: ...

    async def missing(self) -> int: ...

    def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[MetricsMessage], None]: ...


@dataclass(slots=True)
class _Tail:
    """Where a run's measurements end."""

    position: int = 0
    attempt: int = 0
    batch: int = 0
    last_us: int = 0

    def expected(self, attempt: int) -> int:
        return self.batch + 1 if attempt == self.attempt else 1


class Intake:
    """Stores the batches that agents send.

    Attributes
    ----------
    position : where the last batch that was stored here lies in METRICS; 0 before the first
    """

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self.position = 0
        self._tails: OrderedDict[tuple[str, str], _Tail] = OrderedDict()
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def take(self, request: AppendMetrics) -> int:
        """Store a batch and give the highest one without a hole before it.

        A batch that cannot be right is stored empty with its refusal, so that numbers stay gapless.

        Raises
        ------
        TapelineError
            `gap` with the expected number; `conflict` for an attempt that is over.
        """
        key = (request.team, request.run)
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        async with lock:
            for _ in range(TRIES):
                tail = await self._tail(key)
                if request.attempt == tail.attempt and request.batch <= tail.batch:
                    return tail.batch
                expected = tail.expected(request.attempt)
                if request.attempt < tail.attempt or request.batch != expected:
                    # Another copy of the service may have stored what is missing here.
                    self._tails.pop(key, None)
                    tail = await self._tail(key)
                    expected = tail.expected(request.attempt)
                if request.attempt == tail.attempt and request.batch <= tail.batch:
                    return tail.batch
                if request.attempt < tail.attempt:
                    raise TapelineError(
                        f"attempt {request.attempt} of run {request.run} is over; attempt {tail.attempt} measures now",
                        code="conflict",
                        hint="drop the batch",
                    )
                if request.batch != expected:
                    raise TapelineError(
                        f"expected batch {expected} of attempt {request.attempt}, got {request.batch}",
                        code="gap",
                        hint=f"send again from {expected}",
                        data={"expected": expected},
                    )
                made = self._made(request, tail.last_us)
                try:
                    position = await self._metrics.append(
                        *key, request.attempt, request.batch, batches.encode(made), expected=tail.position
                    )
                except Conflict:
                    self._tails.pop(key, None)
                    continue
                self.position = max(self.position, position)
                self._tails[key] = _Tail(position, request.attempt, request.batch, made.last_us)
                return request.batch
        raise TapelineError(f"the measurements of run {request.run} moved {TRIES} times", code="unavailable")

    def _made(self, request: AppendMetrics, last_us: int) -> batches.Batch:
        now_ns = int(self._clock.now().timestamp() * 1e9)
        made = batches.Batch(
            run=request.run, attempt=request.attempt, batch=request.batch, epoch=request.epoch, last_us=last_us
        )
        try:
            made.columns, made.last_us = batches.timed(batches.parse(request.columns), last_us)
            made.progress = batches.progress_of(request.progress, now_ns)
        except TapelineError as error:
            log.warning("metrics_refused", run=request.run, batch=request.batch, why=error.message)
            made.columns, made.progress, made.last_us = [], [], last_us
            made.refused = error.message
        return made

    async def _tail(self, key: tuple[str, str]) -> _Tail:
        tail = self._tails.get(key)
        if tail is None:
            found = await self._metrics.tail(*key)
            if found is None:
                tail = _Tail()
            else:
                stored = batches.decode(found.body)
                tail = _Tail(found.position, found.attempt, found.batch, stored.last_us)
            self._tails[key] = tail
            while len(self._tails) > REMEMBERED_RUNS:
                self._tails.popitem(last=False)
        self._tails.move_to_end(key)
        return tail


class MetricsSource:
    """The batches of every run, for a projector; its positions are those of METRICS, not of the log."""

    stream = "METRICS"

    def __init__(self, metrics: Metrics, log_id: str) -> None:
        self._metrics = metrics
        self._log_id = log_id

    async def identity(self) -> str:
        return self._log_id

    async def head(self) -> int:
        return await self._metrics.head()

    def aggregate(self, event: MetricsMessage) -> str:
        return f"{event.team}/run/{event.run}"

    async def load(self, aggregate: str, upto: int) -> list[MetricsMessage]:
        return [one async for many in self._metrics.read(upto=upto) for one in many if self.aggregate(one) == aggregate]

    async def missing(self) -> int:
        return await self._metrics.missing()

    async def read(self, after: int, upto: int | None = None) -> AsyncGenerator[tuple[int, list[MetricsMessage]], None]:
        async for many in self._metrics.read(after=after, upto=upto, follow=upto is None):
            yield many[-1].position, many
