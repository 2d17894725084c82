"""What an agent has to say of one run in one lease epoch: one queue, sent strictly in order.

Because reports and metrics share the queue, a checkpoint is reported only after every measurement before it
is stored: a run that resumes from it has no hole in its series.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tapeline.columns import count_of, joined, pack, unpack
from tapeline.contracts.agents import AppendMetrics, Lease, MetricsView, Report, ReportKind, ReportView
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.logs import get_logger
from tapeline.trainer.journal import Journal
from tapeline.trainer.requests import Requests

logger = get_logger()

POINTS_PER_BATCH = 4096
BATCH_EVERY_S = 0.25
LOST = frozenset({"fenced", "not_found"})
"""Answers that mean: this agent no longer holds the run."""


@dataclass(slots=True)
class _Report:
    kind: ReportKind
    data: dict[str, Any]
    settled: Callable[[TapelineError | None], None] | None = None


@dataclass(slots=True)
class _Batch:
    number: int
    columns: dict[str, list[bytes]] = field(default_factory=dict)
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: int = 0
    is_last: bool = False

    def packed(self) -> list[dict[str, Any]]:
        """The columns as they are sent."""
        found = []
        for tag, bodies in self.columns.items():
            body = bodies[0] if len(bodies) == 1 else pack(joined(map(unpack, bodies)))
            found.append({"tag": tag, "body": base64.b64encode(body).decode()})
        return found


class Fenced(Exception):
    """The service says that this agent does not hold the run in this epoch."""


class Outbox:
    """Reports (journaled before they are sent) and measurements of one hold."""

    def __init__(self, requests: Requests, journal: Journal, lease: Lease) -> None:
        self._requests = requests
        self._journal = journal
        self._lease = lease
        self._queue: deque[_Report | _Batch] = deque()
        self._delivered: list[_Report] = []
        self._unconfirmed: dict[int, _Batch] = {}
        self._wake = asyncio.Event()
        self._closed = False
        self.batches = 0
        self.points = 0
        if not journal.records:
            journal.append({"t": "lease", "lease": lease.model_dump(mode="json", exclude={"spec", "files"})})
        for record in journal.records:
            if record["t"] == "report":
                self._queue.append(_Report(record["kind"], record["data"]))
            elif record["t"] in ("answered", "refused"):
                done = self._queue.popleft()
                if record["t"] == "answered" and isinstance(done, _Report):
                    self._delivered.append(done)

    @property
    def is_empty(self) -> bool:
        """Whether everything was answered."""
        return not self._queue

    def report(
        self,
        kind: ReportKind,
        data: dict[str, Any] | None = None,
        settled: Callable[[TapelineError | None], None] | None = None,
    ) -> None:
        """Say that something happened; on disk when this returns. `settled` hears the answer."""
        data = data or {}
        self._journal.append({"t": "report", "kind": kind, "data": data})
        passed("agent.journaled")
        self._queue.append(_Report(kind, data, settled))
        self._wake.set()

    def measure(self, columns: list[tuple[str, bytes]]) -> None:
        """Add measurements: the packed points of each tag."""
        batch = self._tail()
        for tag, body in columns:
            batch.columns.setdefault(tag, []).append(body)
            count = count_of(body)
            batch.points += count
            self.points += count
        self._wake.set()

    def seal(self) -> None:
        """Nothing more will be measured: what was is compacted with its last batch."""
        if self.batches:
            last = self._queue[-1] if self._queue else None
            if not isinstance(last, _Batch):
                self.batches += 1
                last = _Batch(self.batches)
                self._queue.append(last)
            last.is_last = True
            self._wake.set()

    def progress(self, said: dict[str, Any]) -> None:
        """Add the newest progress of one operation."""
        self._tail().progress[said["operation"]] = said
        self._wake.set()

    def close(self) -> None:
        """Nothing more will be said; `run` ends when all is answered."""
        self._closed = True
        self._wake.set()

    def rebase(self, lease: Lease, journal: Journal) -> None:
        """Go on under another epoch with what was not answered under the old one."""
        self._lease = lease
        self._delivered = []
        journal.append({"t": "lease", "lease": lease.model_dump(mode="json", exclude={"spec", "files"})})
        for item in self._queue:
            if isinstance(item, _Report):
                journal.append({"t": "report", "kind": item.kind, "data": item.data})
        self._journal = journal

    async def run(self) -> None:
        """Send until closed and empty.

        Raises
        ------
        Fenced
            When the run is no longer held.
        """
        while True:
            while self._queue:
                item = self._queue[0]
                if isinstance(item, _Batch):
                    # Measurements gather for a moment while nothing waits behind them.
                    if len(self._queue) == 1 and not self._closed and item.points < POINTS_PER_BATCH:
                        await self._pause(item)
                    self._queue.popleft()
                    await self._send_batch(item)
                else:
                    await self._send_report(item)
                    self._queue.popleft()
            if self._closed:
                return
            self._wake.clear()
            await self._wake.wait()

    async def _pause(self, item: _Batch) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + BATCH_EVERY_S
        while not self._closed and self._queue[-1] is item and item.points < POINTS_PER_BATCH:
            left = until - loop.time()
            if left <= 0:
                return
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                return

    def _tail(self) -> _Batch:
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _Batch) and last.points < POINTS_PER_BATCH:
            return last
        self.batches += 1
        batch = _Batch(self.batches)
        self._queue.append(batch)
        return batch

    async def _send_report(self, item: _Report) -> None:
        try:
            await self._deliver(item, len(self._delivered) + 1)
        except TapelineError as error:
            if error.code in LOST:
                raise Fenced(error.message) from error
            logger.warning("report_refused", run=self._lease.run, kind=item.kind, code=error.code, why=error.message)
            self._journal.append({"t": "refused", "code": str(error.code)}, sync=False)
            if item.settled is not None:
                item.settled(error)
            return
        passed("agent.reported")
        self._delivered.append(item)
        self._journal.append({"t": "answered"}, sync=False)
        if item.settled is not None:
            item.settled(None)

    async def _deliver(self, item: _Report, seq: int) -> None:
        try:
            await self._requests.until_answered("report", self._message(item, seq), ReportView)
        except TapelineError as error:
            expected = _expected(error)
            if expected is None or not 1 <= expected < seq:
                raise
            # The service knows less than it answered: say it again from there.
            for known in range(expected, seq):
                message = self._message(self._delivered[known - 1], known)
                await self._requests.until_answered("report", message, ReportView)
            await self._requests.until_answered("report", self._message(item, seq), ReportView)

    def _message(self, item: _Report, seq: int) -> Report:
        lease = self._lease
        return Report(
            command_id=f"{lease.run}-e{lease.epoch}-s{seq}",
            team=lease.team,
            run=lease.run,
            epoch=lease.epoch,
            seq=seq,
            kind=item.kind,
            data=item.data,
        )

    async def _send_batch(self, item: _Batch) -> None:
        self._unconfirmed[item.number] = item
        first = item.number
        for _ in range(3):
            stored = await self._append(range(first, item.number + 1))
            for number in [number for number in self._unconfirmed if number <= stored]:
                del self._unconfirmed[number]
            if not self._unconfirmed:
                return
            first = min(self._unconfirmed)

    async def _append(self, numbers: range) -> int:
        stored = 0
        for number in numbers:
            batch = self._unconfirmed[number]
            lease = self._lease
            command = AppendMetrics(
                command_id=f"{lease.run}-e{lease.epoch}-m{number}",
                team=lease.team,
                run=lease.run,
                attempt=lease.attempt,
                epoch=lease.epoch,
                batch=number,
                columns=batch.packed(),
                progress=list(batch.progress.values()),
                is_last=batch.is_last,
            )
            try:
                view = await self._requests.until_answered("append_metrics", command, MetricsView)
            except TapelineError as error:
                if error.code in LOST:
                    raise Fenced(error.message) from error
                expected = _expected(error)
                if expected is not None:
                    return expected - 1
                logger.warning("metrics_refused", run=lease.run, batch=number, code=error.code, why=error.message)
                return number
            stored = view.batch
        return stored


def _expected(error: TapelineError) -> int | None:
    """Where the service wants to be resumed, when the refusal is a `gap`."""
    if error.code != "gap" or not isinstance(error.data, dict):
        return None
    expected = error.data.get("expected")
    return expected if isinstance(expected, int) else None
