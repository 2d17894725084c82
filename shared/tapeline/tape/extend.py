"""More days for a tape: a new tape that names its parent and shares the parent's day files by content.

The new tape's digest is the one that importing all files at once would give: it speaks of numbers, not of history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.tape import manifest as manifests
from tapeline.tape.imports import import_tape
from tapeline.tape.manifest import Manifest
from tapeline.tape.options import ImportOptions
from tapeline.tape.prepared import PreparedTape, Progress, written
from tapeline.tape.sessions import Calendar, Segment, trade_dates

# What the days of one tape have in common; the parent says it.
SHARED = ("calendar", "close_grace_s", "extended", "currency", "tick_size", "allow_nonpositive", "conditions")


def extend_tape(
    parent: Manifest,
    paths: Sequence[str | Path],
    format: str = "auto",
    *,
    symbol: str | None = None,
    out_dir: Path,
    options: ImportOptions | None = None,
    progress: Progress | None = None,
) -> PreparedTape:
    """The tape of a parent's days and those of the files; `out_dir` holds only the new day files.

    Calendar, hours, currency, tick size and eligibility are the parent's. A day that the parent has with the
    same trades is shared; symbols may be new.

    Raises
    ------
    TapelineError
        `conflict` for a day that the parent has with other trades, for an option that differs from the
        parent's, and for a symbol whose whole volumes would meet fractions; what `import_tape` raises.
    """
    if parent["synthetic"] is not None:
        raise TapelineError(
            "a synthetic tape is not extended", code="conflict", hint="simulate one with more --days: the first stay"
        )
    chosen = _as_parent(parent, options or ImportOptions())
    kinds = {str(each["symbol"]): str(each["volume_kind"]) for each in parent["symbols"]}
    part = import_tape(
        paths,
        format,
        symbol=symbol,
        out_dir=out_dir,
        options=chosen,
        progress=progress,
        fractions=[name for name, kind in kinds.items() if kind == "float64"],
    )
    for each in part.manifest["symbols"]:
        name = str(each["symbol"])
        if kinds.get(name, each["volume_kind"]) != each["volume_kind"]:
            raise TapelineError(
                f"the volumes of {name} are whole numbers in the tape and fractions in the new days",
                code="conflict",
                hint="import all files together as a new tape",
            )
    if parent["aggregated"] != part.manifest["aggregated"]:
        raise TapelineError(
            "one of the tape and the new files holds aggregated trades, the other does not",
            code="conflict",
            hint="import the files as a tape of their own",
        )
    added = _added(parent, part.manifest)
    made = _joined(parent, part.manifest, added)
    digests = {day["artifact"]["sha256"] for day in added}
    return PreparedTape(
        folder=out_dir,
        manifest=made,
        manifest_file=written(out_dir, made),
        files=[file for file in part.files if file.sha256 in digests],
    )


def _as_parent(parent: Manifest, options: ImportOptions) -> ImportOptions:
    """The options with what the parent says; an option given otherwise is refused."""
    first = parent["symbols"][0]
    eligibility = parent["eligibility"]
    told = {name: first[name] for name in SHARED if name != "conditions"}
    told["conditions"] = tuple((int(a), int(b)) for a, b in eligibility) if isinstance(eligibility, list) else ()
    plain = ImportOptions()
    for name, known in told.items():
        given = getattr(options, name)
        if given not in (getattr(plain, name), known):
            raise TapelineError(
                f"{name} of the tape is {known!r}, not {given!r}",
                code="conflict",
                hint="leave the option out: days of one tape share it",
            )
    return replace(options, **told)


def _added(parent: Manifest, part: Manifest) -> list[dict[str, Any]]:
    """The days that the parent does not have; one that it has otherwise is refused."""
    added = []
    for day in part["days"]:
        known = manifests.day_of(parent, str(day["symbol"]), str(day["trade_date"]))
        if known is None:
            added.append(day)
        elif known["columns"] != day["columns"]:
            raise TapelineError(
                f"the tape has {day['symbol']} {day['trade_date']} already, with other trades "
                f"({known['rows']:,} there, {day['rows']:,} new)",
                code="conflict",
                hint="a tape never changes: import all files together as a new one",
            )
    return added


def _joined(parent: Manifest, part: Manifest, added: list[dict[str, Any]]) -> Manifest:
    days = [*parent["days"], *added]
    symbols = {str(each["symbol"]): each for each in (*part["symbols"], *parent["symbols"])}
    sessions = _sessions(parent, part)
    traded = {str(day["trade_date"]) for day in days}
    report = dict(part["report"]) | {
        "missing_days": [day for day in trade_dates(sessions) if day not in traded],
        "days_added": len(added),
        "days_shared": len(parent["days"]),
    }
    return manifests.make(
        symbols=list(symbols.values()),
        days=days,
        sessions=sessions,
        report=report,
        eligibility=parent["eligibility"],
        aggregated=bool(parent["aggregated"]),
        parent=str(parent["content_sha256"]),
    )


def _sessions(parent: Manifest, part: Manifest) -> tuple[Segment, ...]:
    """The parent's sessions as they are, and the calendar's before and after them up to the new days."""
    known, more = manifests.sessions_of(parent), manifests.sessions_of(part)
    first, last = known[0].trade_date, known[-1].trade_date
    symbol = parent["symbols"][0]
    calendar = Calendar(str(symbol["calendar"]), int(symbol["close_grace_s"]), symbol["extended"])
    before: tuple[Segment, ...] = ()
    after: tuple[Segment, ...] = ()
    if more[0].trade_date < first:
        before = calendar.sessions(date.fromisoformat(more[0].trade_date), _next(first, -1))
    if more[-1].trade_date > last:
        after = calendar.sessions(_next(last, 1), date.fromisoformat(more[-1].trade_date))
    return (*before, *known, *after)


def _next(day: str, step: int) -> date:
    return date.fromisoformat(day) + timedelta(days=step)
