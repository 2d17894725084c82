"""The build: from a resolved spec and open tapes to checked files. A function of its arguments, and nothing else.

No clock, host or user enters; the same spec on the same tapes gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import SCHEMA as FILE_SCHEMA
from tapeline.asset_files import TRAIN
from tapeline.assets import certificate as certify
from tapeline.assets import layout, stats
from tapeline.assets.asset.spec import instances_of
from tapeline.assets.component import Instance
from tapeline.assets.components import Registry
from tapeline.assets.samples import Samples, joined, make, sample_times
from tapeline.assets.split import DROPPED, Parts, assign, session_parts
from tapeline.assets.view import DAY_NS, UNIT_NS, Market
from tapeline.errors import TapelineError
from tapeline.tape.trades import join, none
from tapeline.tape.view import OpenTape

LIMIT_BYTES = 50 * 1024**3
Tell = Callable[[str, int, int, str], None]
"""Called with `(operation, value, final_value, units)`; may raise to end the build."""


@dataclass(frozen=True, slots=True)
class BuiltFile:
    """A file that was written: its name, where it lies, and how many samples it holds."""

    name: str
    path: Path
    rows: int


@dataclass(frozen=True, slots=True)
class Built:
    """A finished build: files, and what they hold."""

    files: list[BuiltFile]
    datasets: list[str]
    features: dict[str, list[int]]
    labels: dict[str, list[str]]
    data_digest: str
    stats: dict[str, Any]
    certificate: dict[str, Any]


def build(
    spec: Mapping[str, Any],
    *,
    name: str,
    team: str,
    spec_digest: str,
    tapes: Mapping[str, OpenTape],
    folder: Path,
    components: Registry,
    tell: Tell,
) -> Built:
    """Cut an asset and write its files into a folder.

    Parameters
    ----------
    spec : a resolved spec
    tapes : the tapes that it names, by id

    Raises
    ------
    TapelineError
        `leak_found` when a check of the certificate fails, with the certificate in `data`; `empty_range`,
        `too_few_sessions`, `too_large`, `tape_corrupt`.
    """
    features = instances_of(spec["features"], components)
    labels = instances_of(spec["labels"], components)
    markets, days = _markets(spec, tapes, features, tell)
    unit, size = spec["sampling"]["unit"], spec["sampling"]["size"]
    tell("plan", 1, 1, "plans")
    parts_of = []
    for done, market in enumerate(markets):
        parts_of.append(make(market, features, labels, unit, size, days, spec["missing"]))
        tell("shards", done + 1, len(markets), "shards")
    samples, symbol = joined(parts_of)
    if len(samples.t0) == 0:
        raise TapelineError(
            "no sample has every feature and label",
            code="empty_range",
            hint="use a longer range, shorter windows or a shorter horizon",
        )
    parts = _split(spec, samples, markets, days)
    kept = parts.part != DROPPED
    stored, part, codes = samples.take(kept), parts.part[kept], symbol[kept]
    train = np.flatnonzero(part == TRAIN)
    if len(train) == 0:
        raise TapelineError(
            "no row is left to train on after the split", code="too_few_sessions", hint="use a longer range"
        )
    fitted = stats.of_train(
        {key: values[train] for key, values in stored.features.items()},
        {key: values[train] for key, values in stored.labels.items()},
        labels,
    )
    checks = [
        certify.split(samples, parts, spec["split"]["embargo_ns"]),
        certify.fit_range(fitted, stored.features, part),
        certify.soundness(stored, codes, part, fitted),
    ]
    subjects = [certify.Subject(market, *sample_times(market, unit, size, days)) for market in markets]
    checks += certify.causality(subjects, features, labels, spec_digest, tell)
    proof = certify.certificate(checks, [*features, *labels], [market.symbol for market in markets])
    if proof["verdict"] == "failed":
        failure = next(check.failure for check in sorted(checks, key=lambda each: each.number) if check.failure)
        raise TapelineError(
            certify.message_of(failure),
            code="leak_found",
            hint="a feature may use complete bars before its time only; see the certificate",
            data={"certificate": proof, "failure": failure},
        )
    files, digest = _write(
        folder,
        name,
        {"schema": FILE_SCHEMA, "team": team, "name": name, "spec_digest": spec_digest},
        stored,
        part,
        codes,
        {"spec": dict(spec), "stats": fitted, "columns": _columns(features, labels)},
        [market.symbol for market in markets],
        tell,
    )
    return Built(
        files=files,
        datasets=[each.name for each in (*features, *labels)],
        features={each.name: list(each.columns.shape) for each in features},
        labels={each.name: list(each.columns.types) for each in labels},
        data_digest=digest,
        stats=fitted | {"rows": _counts(part), "dropped": dict(samples.dropped)},
        certificate=proof,
    )


def _counts(part: NDArray[np.uint8]) -> dict[str, int]:
    return {name: int((part == number).sum()) for number, name in enumerate(("train", "validation", "test"))}


def _columns(features: list[Instance], labels: list[Instance]) -> dict[str, Any]:
    return {
        each.name: {
            "kind": each.component.kind,
            "shape": list(each.columns.shape),
            "names": list(each.columns.names),
            "types": list(each.columns.types),
        }
        for each in (*features, *labels)
    }


def _markets(
    spec: Mapping[str, Any], tapes: Mapping[str, OpenTape], features: list[Instance], tell: Tell
) -> tuple[list[Market], dict[str, int]]:
    """The markets of all symbols, sorted, and the trade dates of the build with their numbers."""
    first, last = spec["range"]["from"], spec["range"]["to"]
    wanted = sorted((symbol, item["tape"]) for item in spec["tapes"] for symbol in item["symbols"])
    read: dict[str, tuple[OpenTape, list[str]]] = {}
    inside: set[str] = set()
    for symbol, tape_id in wanted:
        tape = tapes[tape_id]
        dates = tape.days(symbol)
        within = [date for date in dates if first <= date <= last]
        before = [date for date in dates if date < first]
        reach = _warmup_days(tape, within, features) if within else 0
        read[symbol] = (tape, [*before[len(before) - min(reach, len(before)) :], *within])
        inside.update(within)
    total, done = sum(len(dates) for _, dates in read.values()), 0
    _check_size(spec, read, features)
    markets = []
    for symbol, (tape, dates) in read.items():
        trades, segments, numbers = [], [], []
        for number, date in enumerate(dates):
            trades.append(tape.trades(symbol, date))
            rows = tape.segments(date)
            segments.append(rows)
            numbers += [number] * len(rows)
            done += 1
            tell("read", done, total, "days")
        markets.append(
            Market(
                symbol,
                join(trades) if trades else none(),
                np.ascontiguousarray(np.concatenate([*segments, np.empty((0, 2), np.int64)])),
                np.array(numbers, np.int64),
                tuple(dates),
            )
        )
    return markets, {date: number for number, date in enumerate(sorted(inside))}


def _warmup_days(tape: OpenTape, within: list[str], features: list[Instance]) -> int:
    """How many trade dates before the first are read, so that the first sample has its history."""
    segments = tape.segments(within[0])
    session_ns = max(int((segments[:, 1] - segments[:, 0]).sum()), 1)
    needed = 0
    for each in features:
        width = UNIT_NS[each.params.unit] * each.params.size
        per_day = 1 if width >= DAY_NS else max(1, session_ns // width)
        needed = max(needed, -(-each.warmup_bars // per_day) + 1)
    return needed


def _check_size(spec: Mapping[str, Any], read: Mapping[str, Any], features: list[Instance]) -> None:
    width = UNIT_NS[spec["sampling"]["unit"]] * spec["sampling"]["size"]
    row = sum(4 * int(np.prod(each.columns.shape)) for each in features)
    rows = sum(
        int((tape.segments(date)[:, 1] - tape.segments(date)[:, 0]).sum()) // width + 1
        for tape, dates in read.values()
        for date in dates
    )
    if rows * row > LIMIT_BYTES:
        raise TapelineError(
            f"the asset would hold about {rows * row >> 30} GiB, the limit is {LIMIT_BYTES >> 30}",
            code="too_large",
            hint="sample less often, or use shorter windows",
        )


def _split(spec: Mapping[str, Any], samples: Samples, markets: list[Market], days: Mapping[str, int]) -> Parts:
    opens = np.full(len(days), np.iinfo(np.int64).max, np.int64)
    for market in markets:
        for number, (low, _) in zip(market.session.tolist(), market.segments.tolist(), strict=True):
            day = days.get(market.dates[number])
            if day is not None:
                opens[day] = min(int(opens[day]), low)
    of_session = session_parts(list(days), dict(spec["split"]))
    embargo = spec["split"]["embargo_ns"]
    return assign(samples.t0, samples.t1.max(axis=1), samples.session, opens, of_session, embargo)


def _write(
    folder: Path,
    name: str,
    attributes: dict[str, str],
    stored: Samples,
    part: NDArray[np.uint8],
    codes: NDArray[np.uint16],
    meta: dict[str, Any],
    symbols: list[str],
    tell: Tell,
) -> tuple[list[BuiltFile], str]:
    columns = {**stored.features, **stored.labels}
    row_bytes = sum(values[:1].nbytes for values in columns.values())
    files: list[BuiltFile] = []
    hashed: list[tuple[str, layout.Columns]] = []
    done = 0
    for ending, rows in layout.file_rows(part, row_bytes):
        file_name = f"{name}_{ending}.h5"
        datasets = {key: values[rows] for key, values in columns.items()}
        index: dict[str, NDArray[Any]] = {
            "t0": stored.t0[rows],
            "t1": stored.t1[rows],
            "symbol": codes[rows],
            "session": stored.session[rows].astype(np.int32),
            "part": part[rows],
            "sample_weight": np.ones(len(rows), np.float32),
        }
        layout.write(
            folder / file_name,
            attributes={**attributes, "file": file_name, "rows": len(rows)},
            datasets=datasets,
            index=index,
            meta=meta,
            symbols=symbols,
        )
        files.append(BuiltFile(file_name, folder / file_name, len(rows)))
        hashed.append((ending, {**datasets, **{f"_index/{key}": values for key, values in index.items()}}))
        done += len(rows)
        tell("assemble", done, len(part), "rows")
    return files, layout.data_digest(hashed)
