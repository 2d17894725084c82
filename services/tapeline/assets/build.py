"""The build: from a resolved spec and open tapes to checked files. A function of its arguments, and nothing else.

No clock, host or user enters; the same spec on the same tapes gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import SCHEMA as FILE_SCHEMA
from tapeline.asset_files import TRAIN
from tapeline.assets import certificate as certify
from tapeline.assets import layout, stats
from tapeline.assets.causality import verdicts
from tapeline.assets.certificate import Check
from tapeline.assets.component import Instance
from tapeline.assets.components import Registry
from tapeline.assets.edges import too_good
from tapeline.assets.indexing import Places, places
from tapeline.assets.plan import Plan, make_plan
from tapeline.assets.samples import Samples, joined, nothing, one_after_another, together
from tapeline.assets.shard import ShardData, compute_each
from tapeline.assets.soundness import merged_gaps, soundness, universe
from tapeline.assets.split import DROPPED, Parts, assign, must_have_rows
from tapeline.assets.uniqueness import overlap, uniqueness
from tapeline.errors import TapelineError
from tapeline.tape.view import OpenTape

INDEX_BYTES = 8
BESIDE, BESIDE_BYTES = 32, 64 * 2**20
"""Shards, and bytes of their trades, that are computed in one go: enough that calls cost nothing and the columns of
the trades fill the lanes in which they are hashed, few enough that progress is told."""
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
    """Cut an asset and write its files into a folder, all in this thread.

    Parameters
    ----------
    spec : a resolved spec
    tapes : the tapes that it names, by id

    Raises
    ------
    TapelineError
        What `make_plan`, `compute` and `assemble` refuse.
    """
    plan = make_plan(spec, tapes, components)
    tell("plan", 1, 1, "plans")
    return carried_out(plan, name=name, team=team, spec_digest=spec_digest, folder=folder, tell=tell)


def carried_out(plan: Plan, *, name: str, team: str, spec_digest: str, folder: Path, tell: Tell) -> Built:
    """Compute the shards of a plan one after another, and put them together; see `build`."""
    parts: list[ShardData] = []
    for stretch in plan.stretches(BESIDE, BESIDE_BYTES):
        plan.expect(stretch)
        parts += compute_each(plan, stretch)
        tell("shards", len(parts), len(plan.shards), "shards")
    return assemble(plan, parts, name=name, team=team, spec_digest=spec_digest, folder=folder, tell=tell)


def assemble(
    plan: Plan, parts: Sequence[ShardData], *, name: str, team: str, spec_digest: str, folder: Path, tell: Tell
) -> Built:
    """Put the shards of a plan together: split, check, and write the files into a folder.

    Parameters
    ----------
    parts : what each shard gives, in the order of the plan

    Raises
    ------
    TapelineError
        `leak_found` when a check of the certificate fails, with the certificate in `data`; `empty_range`,
        `too_few_sessions`.
    """
    spec, features, labels = plan.spec, list(plan.features), list(plan.labels)
    symbols = list(plan.symbols)
    of_symbol = _of_symbols(plan, parts)
    samples, symbol = joined([_of_one_symbol(of_symbol[each], plan) for each in symbols])
    _must_have_samples(samples, [*features, *labels])
    ends, embargo = samples.t1.max(axis=1), spec["split"]["embargo_ns"]
    split = assign(samples.t0, ends, samples.session, plan.opens, plan.of_session, embargo)
    must_have_rows(split)
    kept = split.part != DROPPED
    stored, part, codes = samples.take(kept), split.part[kept], symbol[kept]
    own = _uniqueness(stored, part, codes)
    if spec["uniqueness"]:
        stored = replace(stored, weight=(stored.weight * own).astype(np.float32))
    contents = _contents(stored, part, codes, places(plan, parts, stored, codes))
    learnt = stored.take(np.flatnonzero(part == TRAIN))
    fitted = stats.of_train(learnt.features, learnt.labels, labels) | {"fitted": stats.of_fits(features, plan.train)}
    attributes = {"schema": FILE_SCHEMA, "team": team, "name": name, "spec_digest": spec_digest}
    meta = {"spec": dict(spec), "stats": fitted, "columns": _columns(features, labels)}
    with ThreadPoolExecutor(1) as beside:
        # Hashing and writing let go of the interpreter: both go on while the checks are made.
        digest = beside.submit(layout.data_digest, [each.hashed for each in contents])
        written = beside.submit(
            _write, folder, name, attributes | ({"lookahead": "true"} if plan.ahead else {}), contents, meta, symbols,
            tell,
        )  # fmt: skip
        try:
            proof = _checked(plan, parts, samples, split, stored, learnt, part, codes, own, fitted, tell)
            files = written.result()
        except BaseException:
            # Whoever is refused finds no file.
            wait([written])
            for each in contents:
                (folder / _file_name(name, each)).unlink(missing_ok=True)
            raise
    return Built(
        files=files,
        datasets=[each.name for each in (*features, *labels)],
        features={each.name: list(each.columns.shape) for each in features},
        labels={each.name: list(each.columns.types) for each in labels},
        data_digest=digest.result(),
        stats=fitted | {"rows": _counts(part), "dropped": dict(samples.dropped), "filled": dict(samples.filled)},
        certificate=proof,
    )


def _checked(
    plan: Plan,
    parts: Sequence[ShardData],
    samples: Samples,
    split: Parts,
    stored: Samples,
    learnt: Samples,
    part: NDArray[np.uint8],
    codes: NDArray[np.uint16],
    own: NDArray[np.float64],
    fitted: Mapping[str, Any],
    tell: Tell,
) -> dict[str, Any]:
    """The certificate.

    Parameters
    ----------
    samples : all of them; `stored` are those that are left by the split, `learnt` those of train
    own : uniqueness of each stored sample
    fitted : the statistics of the train rows
    """
    spec, features, labels, symbols = plan.spec, list(plan.features), list(plan.labels), list(plan.symbols)
    of_symbol = _of_symbols(plan, parts)
    in_train = np.flatnonzero(part == TRAIN)
    with_fits = [each for each in features if each.fitted]
    first, last = spec["range"]["from"], spec["range"]["to"]
    calendar_dates = sorted({date for each in plan.symbols.values() for date in each.tape.trade_dates})
    checks = [
        *_experiments(plan, parts, samples),
        certify.split(samples, split, spec["split"]["embargo_ns"], features),
        overlap(own[in_train], is_weighed=spec["uniqueness"]),
        certify.fit_range(fitted, stored.features, part, with_fits, plan.train),
        soundness(
            stored,
            codes,
            part,
            fitted,
            {each: merged_gaps(found.gaps for found in of_symbol[each]) for each in symbols},
            plan.days,
            [date for date in calendar_dates if first <= date <= last],
            plan.bar,
        ),
        too_good(learnt.features, learnt.labels, labels, codes[in_train], learnt.session),
        universe(
            stored,
            codes,
            part,
            [(each, [day for found in of_symbol[each] for day in found.traded]) for each in symbols],
            plan.days,
        ),
    ]
    checks = certify.allowed(checks) if plan.ahead else checks
    proof = certify.certificate(checks, [*features, *labels], symbols, lookahead=plan.ahead)
    tell("check", len(checks), len(checks), "checks")
    if proof["verdict"] == "failed":
        failure = next(check.failure for check in sorted(checks, key=lambda each: each.number) if check.failure)
        raise TapelineError(
            certify.message_of(failure),
            code="leak_found",
            hint="a feature may use complete bars before its time only; see the certificate",
            data={"certificate": proof, "failure": failure},
        )
    return proof


def _of_symbols(plan: Plan, parts: Sequence[ShardData]) -> dict[str, list[ShardData]]:
    found: dict[str, list[ShardData]] = {symbol: [] for symbol in plan.symbols}
    for shard, each in zip(plan.shards, parts, strict=True):
        found[shard.symbol].append(each)
    return found


def _of_one_symbol(parts: Sequence[ShardData], plan: Plan) -> Samples:
    if parts:
        return one_after_another([part.samples for part in parts])
    return nothing(plan.features, plan.labels)


def _experiments(plan: Plan, parts: Sequence[ShardData], samples: Samples) -> list[Check]:
    """Checks 1 to 4 over what the experiments of all shards found, symbol by symbol in order of time."""
    order = sorted(range(len(parts)), key=lambda i: (plan.shards[i].symbol, plan.shards[i].date))
    offsets, before = [], dict.fromkeys(plan.symbols, 0)
    for i in order:
        offsets.append(before[plan.shards[i].symbol] + parts[i].first)
        before[plan.shards[i].symbol] += parts[i].n_times
    return verdicts([parts[i].found for i in order], samples.features, len(plan.labels), offsets)


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


def _must_have_samples(samples: Samples, instances: list[Instance]) -> None:
    """Refuse a build without a sample, and name the feature or label that leaves none."""
    if len(samples.t0):
        return
    worst = max(instances, key=lambda each: samples.dropped.get(each.name, 0))
    rows = sum(samples.dropped.values())
    if worst.component.kind == "label":
        hint = "the data, or the session, ends before its horizon does: use a shorter horizon, or a longer range"
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


@dataclass(frozen=True, slots=True, eq=False)
class _Content:
    """What one file will hold."""

    ending: str
    rows: int
    datasets: Mapping[str, NDArray[Any] | layout.Indexed]
    index: layout.Columns
    grids: layout.Columns

    @property
    def hashed(self) -> tuple[str, layout.Columns]:
        """What the digest of the data covers."""
        return self.ending, {
            **{key: each.past if isinstance(each, layout.Indexed) else each for key, each in self.datasets.items()},
            **{f"_index/{key}": values for key, values in self.index.items()},
            **{f"_grid/{key}": values for key, values in self.grids.items()},
        }


def _contents(stored: Samples, part: NDArray[np.uint8], codes: NDArray[np.uint16], windows: Places) -> list[_Content]:
    """What each file will hold; of the samples nothing is copied that lies together."""
    columns = {**stored.features, **stored.labels}
    row_bytes = sum(INDEX_BYTES if name in windows.past else values[:1].nbytes for name, values in columns.items())
    made: list[_Content] = []
    for ending, rows in layout.file_rows(part, row_bytes):
        indexed, grids = windows.of(rows)
        chosen = together(rows)
        datasets = {key: indexed[key] if key in indexed else values[chosen] for key, values in columns.items()}
        index: dict[str, NDArray[Any]] = {
            "t0": stored.t0[chosen],
            "t1": stored.t1[chosen],
            "symbol": codes[chosen],
            "session": stored.session[chosen].astype(np.int32),
            "part": part[chosen],
            "sample_weight": stored.weight[chosen],
        }
        made.append(_Content(ending, len(rows), datasets, index, grids))
    return made


def _file_name(name: str, content: _Content) -> str:
    return f"{name}_{content.ending}.h5"


def _write(
    folder: Path,
    name: str,
    attributes: dict[str, str],
    contents: Sequence[_Content],
    meta: dict[str, Any],
    symbols: list[str],
    tell: Tell,
) -> list[BuiltFile]:
    files: list[BuiltFile] = []
    done, total = 0, sum(each.rows for each in contents)
    for each in contents:
        file_name = _file_name(name, each)
        layout.write(
            folder / file_name,
            attributes={**attributes, "file": file_name, "rows": each.rows},
            datasets=each.datasets,
            index=each.index,
            meta=meta,
            symbols=symbols,
            grids=each.grids,
        )
        files.append(BuiltFile(file_name, folder / file_name, each.rows))
        done += each.rows
        tell("assemble", done, total, "rows")
    return files
