"""The build: from a resolved spec and open tapes to checked files. A function of its arguments, and nothing else.

No clock, host or user enters; the same spec on the same tapes gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import SCHEMA as FILE_SCHEMA
from tapeline.asset_files import TRAIN
from tapeline.assets import certificate as certify
from tapeline.assets import layout, stats
from tapeline.assets.asset.instances import instances_of
from tapeline.assets.causality import Subject, causality
from tapeline.assets.component import Instance
from tapeline.assets.components import Registry
from tapeline.assets.edges import too_good
from tapeline.assets.samples import Samples, joined, make
from tapeline.assets.sampling import Times, sample_times
from tapeline.assets.soundness import soundness, universe
from tapeline.assets.split import DROPPED, assign, must_have_rows, session_opens, session_parts
from tapeline.assets.uniqueness import overlap, uniqueness
from tapeline.assets.view import DAY_NS, UNIT_NS, Market, Unit
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
    markets, days = _markets(spec, tapes, [*features, *labels], tell)
    sampling, ahead = spec["sampling"], bool(spec.get("allow_lookahead"))
    opens = session_opens(markets, days)
    of_session = session_parts(list(days), dict(spec["split"]))
    train = _train_markets(markets, opens, of_session)
    features = [each.fit(train) for each in features]
    tell("plan", 1, 1, "plans")

    def times_of(market: Market) -> Times:
        return sample_times(market, sampling, days, spec["calendar"])

    parts_of = []
    for done, market in enumerate(markets):
        parts_of.append(make(market, features, labels, times_of(market), spec["missing"], ahead=ahead))
        tell("shards", done + 1, len(markets), "shards")
    samples, symbol = joined(parts_of)
    _must_have_samples(samples, [*features, *labels])
    embargo = spec["split"]["embargo_ns"]
    parts = assign(samples.t0, samples.t1.max(axis=1), samples.session, opens, of_session, embargo)
    must_have_rows(parts)
    kept = parts.part != DROPPED
    stored, part, codes = samples.take(kept), parts.part[kept], symbol[kept]
    own = _uniqueness(stored, part, codes)
    if spec["uniqueness"]:
        stored = replace(stored, weight=(stored.weight * own).astype(np.float32))
    in_train = np.flatnonzero(part == TRAIN)
    learnt = stored.take(in_train)
    fitted = stats.of_train(learnt.features, learnt.labels, labels) | {"fitted": stats.of_fits(features, train)}
    with_fits = [each for each in features if each.fitted]
    tape_dates = sorted({date for tape in tapes.values() for date in tape.trade_dates})
    first, last = spec["range"]["from"], spec["range"]["to"]
    bar: tuple[Unit, int] = ("min", 1) if sampling["kind"] == "at_times" else (sampling["unit"], sampling["size"])
    checks = [
        certify.split(samples, parts, embargo),
        overlap(own[in_train], is_weighed=spec["uniqueness"]),
        certify.fit_range(fitted, stored.features, part, with_fits, train),
        soundness(
            stored, codes, part, fitted, markets, days, [date for date in tape_dates if first <= date <= last], bar
        ),
        too_good(learnt.features, learnt.labels, labels, codes[in_train], learnt.session),
        universe(stored, codes, part, markets, days),
    ]
    subjects = [
        Subject(
            market,
            *times_of(market),
            sampled=None if sampling["kind"] != "cusum" else lambda other: times_of(other)[0],
            ahead=ahead,
        )
        for market in markets
    ]
    checks += causality(subjects, features, labels, spec_digest, tell)
    checks = certify.allowed(checks) if ahead else checks
    symbols = [market.symbol for market in markets]
    proof = certify.certificate(checks, [*features, *labels], symbols, lookahead=ahead)
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
        {"schema": FILE_SCHEMA, "team": team, "name": name, "spec_digest": spec_digest}
        | ({"lookahead": "true"} if ahead else {}),
        stored,
        part,
        codes,
        {"spec": dict(spec), "stats": fitted, "columns": _columns(features, labels)},
        symbols,
        tell,
    )
    return Built(
        files=files,
        datasets=[each.name for each in (*features, *labels)],
        features={each.name: list(each.columns.shape) for each in features},
        labels={each.name: list(each.columns.types) for each in labels},
        data_digest=digest,
        stats=fitted | {"rows": _counts(part), "dropped": dict(samples.dropped), "filled": dict(samples.filled)},
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
    spec: Mapping[str, Any], tapes: Mapping[str, OpenTape], instances: list[Instance], tell: Tell
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
        reach = _warmup_days(tape, symbol, within, instances) if within else 0
        read[symbol] = (tape, [*before[len(before) - min(reach, len(before)) :], *within])
        inside.update(within)
    total, done = sum(len(dates) for _, dates in read.values()), 0
    _check_size(spec, read, [each for each in instances if each.component.kind == "feature"])
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


def _warmup_days(tape: OpenTape, symbol: str, within: list[str], instances: list[Instance]) -> int:
    """How many trade dates before the first are read, so that the first sample has its history."""
    needed = 0
    for each in instances:
        if each.component.kind == "label" and each.warmup_bars <= 1:
            continue
        per_day = _bars_a_day(tape, symbol, within[0], each.params.unit, each.params.size)
        sessions = each.component.sessions(each.params) or 0
        needed = max(needed, -(-each.warmup_bars // per_day) + 1, sessions + 1)
    return needed


def _bars_a_day(tape: OpenTape, symbol: str, date: str, unit: str, size: int) -> int:
    if unit == "tick":
        return max(1, len(tape.trades(symbol, date).ts) // size)
    segments = tape.segments(date)
    session_ns = max(int((segments[:, 1] - segments[:, 0]).sum()), 1)
    width = UNIT_NS[unit] * size
    return 1 if width >= DAY_NS else max(1, session_ns // width)


def _check_size(spec: Mapping[str, Any], read: Mapping[str, Any], features: list[Instance]) -> None:
    sampling = spec["sampling"]
    row = sum(4 * int(np.prod(each.columns.shape)) for each in features)
    if sampling["kind"] == "at_times":
        rows = sum(len(dates) for _, dates in read.values()) * len(sampling["times"])
    else:
        rows = sum(
            _bars_a_day(tape, symbol, date, sampling["unit"], sampling["size"]) + 1
            for symbol, (tape, dates) in read.items()
            for date in dates
        )
    if rows * row > LIMIT_BYTES:
        raise TapelineError(
            f"the asset would hold about {rows * row >> 30} GiB, the limit is {LIMIT_BYTES >> 30}",
            code="too_large",
            hint="sample less often, or use shorter windows",
        )


def _train_markets(markets: list[Market], opens: NDArray[np.int64], of_session: NDArray[np.uint8]) -> dict[str, Market]:
    """By symbol the market with the train sessions and nothing else: what features may be fitted on."""
    later = np.flatnonzero(of_session != TRAIN)
    stop = int(opens[later[0]]) if len(later) else int(np.iinfo(np.int64).max)
    return {market.symbol: market.within(int(opens[0]), stop) for market in markets}


def _must_have_samples(samples: Samples, instances: list[Instance]) -> None:
    """Refuse a build without a sample, and name the feature or label that leaves none."""
    if len(samples.t0):
        return
    worst = max(instances, key=lambda each: samples.dropped.get(each.name, 0))
    rows = sum(samples.dropped.values())
    if worst.component.kind == "label":
        hint = f"the data ends before its horizon does, or its session: {worst.component.doc}; use a shorter horizon"
    else:
        hint = f"it needs {worst.warmup_bars} bars of history; use a longer range or a shorter window"
    raise TapelineError(
        f"no sample has every feature and label: {worst.component.kind} {worst.name!r} leaves out "
        f"{samples.dropped.get(worst.name, 0)} of {rows} rows",
        code="empty_range",
        hint=hint if rows else "the range has no bar to sample at; use another sampling",
        data={"dropped": dict(samples.dropped)},
    )


def _uniqueness(stored: Samples, part: NDArray[np.uint8], codes: NDArray[np.uint16]) -> NDArray[np.float64]:
    """The uniqueness of each row among those of its own part: train knows nothing of what comes later."""
    own = np.ones(len(part))
    for which in np.unique(part):
        rows = np.flatnonzero(part == which)
        own[rows] = uniqueness(stored.t0[rows], stored.t1[rows].max(axis=1), codes[rows])
    return own


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
            "sample_weight": stored.weight[rows],
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
