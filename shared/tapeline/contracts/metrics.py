"""The published language of measurements that users send and read, and of runs that a user's own script trains.

Points travel as columns: base64 of the bytes that `tapeline.columns` packs.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tapeline.contracts.message import Command, Notes, Query, Text255, View
from tapeline.contracts.records import RunName

if TYPE_CHECKING:
    from tapeline.columns import Points

ATTACHED = "attached:"
"""How the device of a run begins that a user's own process trains."""


def packed_text(points: Points, body: bytes | None = None) -> str:
    """Points as they travel; `body` are their bytes where somebody has them."""
    from tapeline.columns import pack

    return base64.b64encode(pack(points) if body is None else body).decode()


# --- runs that a user's own script trains ---------------------------------------------------------


class StartRun(Command):
    """Sent by a user's process that trains by itself: a new run, or a new attempt of one that it trained before.

    With `run`, the run goes on as its next attempt; `from_step` is the step that it goes on from, beyond which
    earlier points are superseded: None for the last that was measured. With `attempt` too, the process has been
    away for longer than its lease and takes the same attempt up again.
    """

    name: Text255 | None = None
    project_id: str = Field(default="default", min_length=1, max_length=63)
    config: dict[str, Any] = Field(default_factory=dict)
    notes: Notes | None = None
    run: RunName | None = None
    attempt: int | None = Field(default=None, ge=1)
    from_step: int | None = Field(default=None, ge=-1, le=2**53)
    host: str = Field(default="", max_length=100)
    pid: int = Field(default=0, ge=0)


class StartedView(View):
    """The lease of a run that the caller trains: it lasts `ttl_s` from each renewal."""

    run_id: str
    number: int
    attempt: int
    epoch: int
    ttl_s: float
    from_step: int


class RenewRun(Query):
    """Sent by a process that trains a run by itself, every 5 s."""

    run: str = Field(min_length=1, max_length=64)
    epoch: int = Field(ge=1)


class RenewedRunView(View):
    """`ok`, `stop` when somebody asked the run to end, or `fenced` when the lease is over."""

    answer: Literal["ok", "stop", "fenced"]
    grace_s: float | None = None


class FinishRun(Command):
    """Sent by a process that trains a run by itself: how it ended."""

    run: str = Field(min_length=1, max_length=64)
    epoch: int = Field(ge=1)
    kind: Literal["completed", "failed", "terminated"]
    global_step: int = Field(default=0, ge=0)
    message: str = Field(default="", max_length=8192)
    traceback: str | None = Field(default=None, max_length=32_768)
    batches: int | None = Field(default=None, ge=0)
    points: int | None = Field(default=None, ge=0)
    rejected: int = Field(default=0, ge=0)
    dropped: int = Field(default=0, ge=0)


# --- measurements ---------------------------------------------------------------------------------


class PackedColumn(View):
    """The points of one tag."""

    tag: str
    body: str


class AppendBatch(Command):
    """Sent by a process that trains a run by itself: records of its spool, as batch 1, 2, 3, ... of the attempt.

    `first` and `last` are the records that it covers: the reply to a sender that has forgotten where it was says
    so. `crc` is the CRC-32 of the columns' bytes. A batch counts after the lease too, as long as the attempt is
    the sender's; `is_last` when nothing follows.
    """

    run: str = Field(min_length=1, max_length=64)
    attempt: int = Field(ge=1)
    epoch: int = Field(ge=1)
    batch: int = Field(ge=1)
    first: int = Field(ge=1)
    last: int = Field(ge=0)
    columns: list[PackedColumn] = Field(default_factory=list, max_length=10_000)
    progress: list[dict[str, Any]] = Field(default_factory=list, max_length=64)
    crc: int = 0
    is_last: bool = False


class StoredView(View):
    """The highest batch of the attempt without a hole before it that is stored, and the last record in it."""

    batch: int
    upto: int


class ReadColumns(Query):
    """Sent by a user to read a run's points as columns, newest first.

    `reach` and `before` are the `next` and the `before` of the page that comes first. With `until` the page ends
    there: pages between places that an `ahead` told may be asked for at once.
    """

    run: RunName
    tags: list[str] | None = None
    attempt: int | Literal["all"] | None = None
    created_before: datetime | None = None
    reach: int | None = None
    before: int | None = None
    until: int | None = None


class ChunkView(View):
    """Some points of one tag of one attempt, in the order of their times."""

    tag: str
    attempt: int
    body: str


class ColumnsView(View):
    """A page of points; the whole of a tag is the chunks of all pages. `next` is None on the last page.

    `ahead` are the places where pages after the next one begin, newest first, as far as they are known: the pages from
    `next` to the first, from the first to the second, and so on, together with all that lies below the last.
    """

    chunks: list[ChunkView]
    next: int | None = None
    before: int | None = None
    ahead: list[int] = Field(default_factory=list)


class ReadSeries(Query):
    """Sent by a user to draw a curve: at most `points` of a tag's points, its shape kept."""

    run: RunName
    tag: str = Field(min_length=1, max_length=250)
    points: int = Field(default=1000, ge=2, le=100_000)
    x: Literal["step", "time"] = "step"
    start: int | None = None
    stop: int | None = None
    attempt: int | Literal["all"] | None = None


class SeriesView(View):
    """A curve: stored points only, by `x`; `exact` when none was left out.

    `count` is how many points it was drawn from, `nonfinite` how many of them are NaN or infinite.
    """

    tag: str
    exact: bool
    count: int
    nonfinite: int
    body: str


class AttemptMetricsView(View):
    """What is stored of one attempt's measurements."""

    attempt: int
    batches: int
    points: int
    refused: int
    refusal: str | None = None
    is_sealed: bool


class ListAttempts(Query):
    """Sent by a user to see what is stored of each attempt's measurements."""

    run: RunName


class MetricView(View):
    """One measurement; NaN and infinities travel as the strings "NaN", "Infinity", "-Infinity"."""

    id: str
    created_at: datetime
    run_id: str
    global_step: int
    tag: str
    value: float | int | Literal["NaN", "Infinity", "-Infinity"]
    job_id: str | None = None


class ListMetrics(Query):
    """Sent by a user to read a run's points, newest first; `attempt` gives one attempt's raw points."""

    run: RunName
    global_steps: list[int] | None = None
    tags: list[str] | None = None
    limit: int = Field(default=1000, ge=0, le=1000)
    created_before: datetime | None = None
    attempt: int | Literal["all"] | None = None


class LatestMetrics(Query):
    """Sent by a user to read the last effective value of every tag of a run; of so many that they are cut off,
    those `after` a tag."""

    run: RunName
    after: str | None = Field(default=None, max_length=250)
