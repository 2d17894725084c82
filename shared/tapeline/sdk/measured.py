"""What a run measures: logging into it from the process that trains it, and reading points, curves and columns."""

from __future__ import annotations

import base64
import builtins
import contextlib
import gc
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import PrivateAttr

from tapeline.columns import point_id
from tapeline.errors import TapelineError
from tapeline.sdk import arguments
from tapeline.sdk.kept import Kept
from tapeline.sdk.records import Metric, metric_of

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from tapeline.columns import Points
    from tapeline.sdk.attached import Attachment

logger = logging.getLogger("tapeline")

_DRAWN = 2000
"""Points that a notebook draws of a run."""
_AT_ONCE = 3
"""Pages of points that are asked for at once."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_HERE = "this run is not trained by this process; tl.start begins one that is"


def _not_started(values: Any, step: Any, phase: Any = None) -> None:
    """Logging into a run of another process: said once, and never an error."""
    if not _not_started.__dict__.get("is_told"):
        _not_started.__dict__["is_told"] = True
        logger.warning("metrics: %s", _NOT_HERE)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Points of one tag as arrays, in the order of their times.

    Attributes
    ----------
    steps : ndarray of int64
    times : ndarray of int64, microseconds since 1970
    values : ndarray of float64; ints beyond 2**53 lose their low bits here
    """

    tag: str
    steps: NDArray[np.int64]
    times: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tag!r}, {self._told()})"

    def _told(self) -> str:
        many = f"{len(self):,} points"
        return f"{many}, steps {int(self.steps.min()):,} to {int(self.steps.max()):,}" if len(self) else many


@dataclass(frozen=True, slots=True, eq=False)
class Series(Columns):
    """A curve: stored points only, in the order of its x.

    Attributes
    ----------
    exact : whether no point was left out
    count, nonfinite : how many points it was drawn from, and how many of them are NaN or infinite
    """

    exact: bool
    count: int
    nonfinite: int

    __repr__ = Columns.__repr__

    def _told(self) -> str:
        return f"{Columns._told(self)}, {'exact' if self.exact else f'of {self.count:,}'}"

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return iter(zip(self.steps.tolist(), self.values.tolist(), strict=True))


@dataclass(frozen=True)
class AttemptMetrics:
    """What is stored of one attempt's measurements, beside what its end told.

    Attributes
    ----------
    told : points that the attempt had when it ended; None while it has not said
    refused : batches that were no measurements
    is_whole : whether nothing is missing
    """

    attempt: int
    batches: int
    stored: int
    told: int | None
    refused: int
    refusal: str | None
    is_whole: bool


class Measured(Kept):
    """The part of a run that is about measurements."""

    _log: Any = PrivateAttr(default=_not_started)
    _attachment: Any = PrivateAttr(default=None)
    _seen: dict[str, builtins.list[tuple[int, float]]] = PrivateAttr(default_factory=dict)

    # --- in the process that trains -----------------------------------------------------------------

    def log(self, values: Mapping[str, Any], step: int, *, phase: str | None = None) -> None:
        """Measure: a value of each tag at a step. Raises nothing, waits for nothing.

        Values are ints, floats and bools, NaN and infinities among them, and scalars of arrays and tensors; what is
        none of these is counted, and one warning of each kind is logged. With `phase` the tags are `<phase>/<tag>`.

        Examples
        --------
        >>> from tapeline import sdk as tl
        >>> with tl.start("curve", project="examples") as run:
        ...     run.log({"loss": 0.5, "accuracy": 0.75}, step=1, phase="train")
        >>> sorted(run.latest())
        ['train/accuracy', 'train/loss']
        """
        # Not `self._log`: a private attribute costs more to find than a point to write.
        self.__pydantic_private__["_log"](values, step, phase)  # type: ignore[index]

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until the service has every point that was logged so far; False when it has not in time."""
        attachment: Attachment | None = self._attachment
        return attachment.flush(timeout) if attachment is not None else False

    def tell_progress(self, operation: str, value: float, final_value: float, units: str) -> None:
        """Say how far an operation of this process is; like `log` it raises nothing and waits for nothing."""
        attachment: Attachment | None = self._attachment
        if attachment is not None:
            attachment.tell_progress(operation, value, final_value, units)

    @property
    def should_stop(self) -> bool:
        """Whether somebody asked this run to end, or it goes on elsewhere; a training looks now and then."""
        attachment: Attachment | None = self._attachment
        return attachment is not None and attachment.should_stop

    @property
    def rejected(self) -> dict[str, int]:
        """What this process logged that was no measurement, by why."""
        attachment: Attachment | None = self._attachment
        return dict(attachment.spool.rejected) if attachment is not None else {}

    @property
    def dropped(self) -> int:
        """Points of this process that found no room."""
        attachment: Attachment | None = self._attachment
        return attachment.spool.dropped if attachment is not None else 0

    def finish(self, status: Literal["job_completed", "job_failed", "job_terminated"] = "job_completed") -> None:
        """End a run that this process trains; a `with` block does it by itself."""
        chosen = arguments.one_of("status", status, ("job_completed", "job_failed", "job_terminated"))
        self._finish(kind=chosen.removeprefix("job_"))

    def _finish(self, **how: Any) -> None:
        attachment: Attachment | None = self._attachment
        if attachment is None or not attachment.is_mine:
            return
        # The end of a training is no place to wait for, or to be stopped by, a service that is away.
        if attachment.finish(**how):
            with contextlib.suppress(TapelineError):
                self._reload()

    def _reload(self) -> None:
        """See how the run stands; what a run is more than its measurements says how."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from tapeline.sdk.attached import ended_by

        self._finish(**ended_by(error))

    # --- reading --------------------------------------------------------------------------------------

    def get_metrics(
        self,
        global_steps: builtins.list[int] | None = None,
        tags: builtins.list[str] | None = None,
        limit: int = 1000,
        created_before: datetime | None = None,
    ) -> builtins.list[Metric]:
        """Effective points, the newest first; exact."""
        name = self._named()
        wanted = arguments.count("limit", limit, 1000)
        filters = arguments.given(global_steps=arguments.ints("global_steps", global_steps))
        filters |= arguments.given(tags=arguments.texts("tags", tags))
        if wanted == 0 or arguments.matches_nothing(*filters.values()):
            return []
        filters |= arguments.given(created_before=arguments.moment("created_before", created_before))
        if wanted <= arguments.PAGE_ROWS:
            page = self._client().query("runs", "metrics", run=name, limit=wanted, **filters)
            found = [metric_of(each) for each in page["items"]]
        else:
            steps = filters.pop("global_steps", None)
            found = _metrics(name, _some(self._pages(name, **filters), wanted, steps), wanted)
        self._seen = {}
        for point in found[:_DRAWN]:
            self._seen.setdefault(point.tag, []).append((point.global_step, point.value))
        return found

    def get_all_metrics(self) -> builtins.list[Metric]:
        """All effective points; their order is not promised."""
        return self.get_metrics(limit=2**62)

    def latest(self) -> dict[str, Metric]:
        """The last effective point of every tag."""
        found: dict[str, Metric] = {}
        after: str | None = None
        while True:
            page = self._client().query("runs", "latest", run=self._named(), **arguments.given(after=after))
            found |= {point["tag"]: metric_of(point) for point in page["items"]}
            if page.get("next") is None:
                return found
            # There is no room for all in one message.
            after = page["items"][-1]["tag"]

    def get_columns(self, tag: str, *, attempt: int | Literal["all"] | None = None) -> Columns:
        """All points of a tag as arrays, in the order of their times: the effective ones, or an attempt's own."""
        from tapeline.columns import joined

        wanted = {"tags": [arguments.name("tag", tag)]} | arguments.given(attempt=attempt)
        lots = [points for _, _, points, _ in self._pages(self._named(), **wanted)]
        points = joined(reversed(lots))
        order = _order(points.times)
        if order is not None:
            points = points.take(order)
        return Columns(tag, points.steps, points.times, points.floats())

    def get_series(
        self,
        tag: str,
        points: int = 1000,
        x: Literal["step", "time"] = "step",
        start: int | datetime | None = None,
        stop: int | datetime | None = None,
        attempt: int | Literal["all"] | None = None,
    ) -> Series:
        """A curve of at most so many points of a tag, its shape kept: first, last and extremes are among them.

        Every point is one that was measured, and the same question has the same answer.

        Parameters
        ----------
        points : int
            2 to 100,000; a curve that has no more than that is given whole, and says so (`exact`).
        start, stop : int or datetime, optional
            Only x from `start` on and below `stop`: steps, or moments where `x` is "time".
        """
        from tapeline.columns import unpack

        chosen = arguments.one_of("x", x, ("step", "time"))
        most = arguments.count("points", points, 1000)
        if not 2 <= most <= 100_000:
            raise arguments.BadValue(f"points must be 2 to 100000, not {points}", hint="leave it out for 1000")
        view = self._client().query(
            "runs", "series", run=self._named(), tag=arguments.name("tag", tag), points=most, x=chosen,
            **arguments.given(start=_edge("start", start, chosen), stop=_edge("stop", stop, chosen), attempt=attempt),
        )  # fmt: skip
        found = unpack(base64.b64decode(view["body"]))
        return Series(
            tag, found.steps, found.times, found.floats(), bool(view["exact"]), int(view["count"]),
            int(view["nonfinite"]),
        )  # fmt: skip

    def verify(self) -> builtins.list[AttemptMetrics]:
        """What is stored of each attempt's measurements, beside what its end told."""
        client, name = self._client(), self._named()
        events = [
            each["details"]
            for each in arguments.paged(
                lambda size, start: dict(
                    client.query("runs", "events", run=name, limit=size, offset=start, sort="sequence:asc")
                ),
                2**31,
                0,
            )
        ]
        told: dict[int, int | None] = {}
        attempt = 1
        for details in events:
            attempt = details.get("attempt") or attempt
            if details["type"] in ("JobCompleted", "JobFailed", "JobTerminated"):
                told[attempt] = details.get("points")
        stored = {each["attempt"]: each for each in client.query("runs", "measured", run=name)["items"]}
        found = []
        for number in sorted({*told, *stored}):
            kept = stored.get(number, {"batches": 0, "points": 0, "refused": 0, "refusal": None})
            wanted = told.get(number)
            is_whole = kept["refused"] == 0 and (wanted is None or kept["points"] == wanted)
            found.append(
                AttemptMetrics(
                    number, kept["batches"], kept["points"], wanted, kept["refused"], kept["refusal"], is_whole
                )
            )
        return found

    def _pages(self, name: str, **wanted: Any) -> Iterator[tuple[str, int, Points, int | None]]:
        """Every chunk of points that is asked for, newest first, and below which time all others lie."""
        client = self._client()

        def asked(reach: int | None, until: int | None, before: int | None) -> Any:
            edges = arguments.given(reach=reach, until=until, before=before)
            return client.query("runs", "columns", run=name, **wanted, **edges)

        # The service makes pages while the ones before are taken apart here.
        with ThreadPoolExecutor(_AT_ONCE) as ahead:
            edges: deque[tuple[int | None, int | None, int | None]] = deque([(None, None, None)])
            coming = deque([ahead.submit(asked, *edges[0])])
            # It takes as long to load as a page to come.
            import numpy  # noqa: F401

            while edges:
                page = coming.popleft().result()
                _, until, _ = edges.popleft()
                following: int | None = page["next"]
                if following is not None:
                    # The edges of what follows are told now, or more than was thought lies before the next one.
                    coming.clear()
                    told = [following, *page.get("ahead", ()), until]
                    edges.extendleft(reversed([(*each, page.get("before")) for each in pairwise(told)]))
                while len(coming) < min(_AT_ONCE, len(edges)):
                    coming.append(ahead.submit(asked, *edges[len(coming)]))
                reach = until if following is None else min(following, page.get("before") or following)
                yield from self._chunks(page, reach)

    def _chunks(self, page: Any, reach: int | None) -> Iterator[tuple[str, int, Points, int | None]]:
        from tapeline.columns import unpack

        last = len(page["chunks"]) - 1
        for i, chunk in enumerate(page["chunks"]):
            points = unpack(base64.b64decode(chunk["body"]))
            yield chunk["tag"], chunk["attempt"], points, reach if i == last else None


def attach(run: Measured, attachment: Attachment) -> None:
    """Join a run to what measures it in this process."""
    run._attachment = attachment
    run._log = attachment.spool.log


def _edge(name: str, value: Any, x: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        if x != "time":
            raise arguments.BadValue(f"{name} is a moment, and x is steps", hint='write a step, or x="time"')
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return (aware - _EPOCH) // timedelta(microseconds=1)
    if isinstance(value, bool) or not isinstance(value, int):
        raise arguments.BadType(
            f"{name} must be an int or a datetime, not {type(value).__name__}", hint="write a step or a moment"
        )
    return value


Lot = tuple[str, int, Any]


def _some(
    chunks: Iterator[tuple[str, int, Points, int | None]], wanted: int, steps: builtins.list[int] | None
) -> builtins.list[Lot]:
    """Chunks that hold the newest points wanted, and perhaps more."""
    import numpy as np

    lots: builtins.list[Lot] = []
    have = 0
    for tag, attempt, points, reach in chunks:
        chosen = points if steps is None else points.take(np.isin(points.steps, steps))
        lots.append((tag, attempt, chosen))
        have += len(chosen)
        # Whatever is still to come is older than this.
        if reach is not None and have >= wanted and sum(int((lot.times > reach).sum()) for _, _, lot in lots) >= wanted:
            break
    return lots


def _order(times: NDArray[np.int64]) -> NDArray[np.intp] | None:
    """What sorts some times; None when they are sorted."""
    import numpy as np

    return None if bool((np.diff(times) > 0).all()) else np.argsort(times, kind="stable")


def _metrics(run_id: str, lots: builtins.list[Lot], limit: int) -> builtins.list[Metric]:
    """Points as objects, newest first.

    Column by column: a step of the interpreter for each field of a million objects would take most of the time.
    What the service checked is not checked again.
    """
    import numpy as np

    from tapeline.columns import joined
    from tapeline.objects import moments
    from tapeline.trusted import trusted_rows

    if not lots:
        return []
    everything = joined(points for _, _, points in lots)
    owner = np.repeat(np.arange(len(lots)), [len(points) for _, _, points in lots])
    order = np.argsort(-everything.times, kind="stable")[:limit]
    kept, owners = everything.take(order), owner[order]
    was_on = gc.isenabled()
    # Nothing here refers to itself, and to look for that would take as long as all the rest.
    gc.disable()
    try:
        fields = {
            "id": _ids(run_id, kept.times),
            "created_at": moments(kept.times),
            "run_id": run_id,
            "global_step": kept.steps.tolist(),
            "tag": _each([tag for tag, _, _ in lots], owners),
            "value": kept.values(),
            "job_id": _each([f"{run_id}.{attempt}" for _, attempt, _ in lots], owners),
        }
        return trusted_rows(Metric, fields, len(kept))
    finally:
        if was_on:
            gc.enable()


def _each(texts: builtins.list[str], owners: NDArray[np.int64]) -> builtins.list[str] | str:
    """The text of each point by the lot that it comes from; one where all have the same."""
    if len(set(texts)) == 1:
        return texts[0]
    return [texts[place] for place in owners.tolist()]


def _ids(run_id: str, times: NDArray[np.int64]) -> builtins.list[str]:
    """The ids of points by their times, as `point_id` gives them."""
    from tapeline.objects import texts

    high = times >> 48
    if len(times) and int(high.min()) == int(high.max()):
        # The first half changes every nine years.
        return texts(point_id(run_id, int(times[0]))[:-12], times)
    return [point_id(run_id, time_us) for time_us in times.tolist()]


__all__ = ["AttemptMetrics", "Columns", "Measured", "Series", "attach"]
