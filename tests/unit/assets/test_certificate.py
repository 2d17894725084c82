"""Planted leaks are caught, named and refused; causal features pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.build import Built, build
from tapeline.assets.component import Columns, Component, FeatureParams, LabelParams
from tapeline.assets.components import BUILT_IN, registry
from tapeline.assets.view import View, newest
from tapeline.errors import TapelineError
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.view import open_tape

Formula = Callable[[View, Any], NDArray[np.float64]]


def leaky(name: str, compute: Formula, warmup: int = 1) -> Component:
    return Component(
        id=name,
        kind="feature",
        version=1,
        params=FeatureParams,
        warmup_bars=lambda params: warmup,
        columns=lambda params: Columns((1,), (name,)),
        compute=compute,
        doc="a planted leak",
    )


def closes(view: View, params: Any) -> NDArray[np.float64]:
    return view.grid(params.unit, params.size).bars[:, 3]


def unshifted(view: View, params: Any) -> NDArray[np.float64]:
    """The bar that still runs at the sample's time."""
    close, past = closes(view, params), view.past(params.unit, params.size)
    return close[np.minimum(past, len(close) - 1)][:, None]


def global_z_score(view: View, params: Any) -> NDArray[np.float64]:
    """Mean and deviation of the whole tape."""
    close = closes(view, params)
    z = (close - close.mean()) / (close.std() or 1.0)
    return newest(z, view.past(params.unit, params.size), 0)[:, None]


def centred(view: View, params: Any) -> NDArray[np.float64]:
    """An average with as many bars after as before."""
    close = closes(view, params)
    mean = np.convolve(close, np.ones(5) / 5, mode="same") if len(close) >= 5 else close
    return newest(mean, view.past(params.unit, params.size), 0)[:, None]


def forward_return(view: View, params: Any) -> NDArray[np.float64]:
    """The label itself."""
    close, past = closes(view, params), view.past(params.unit, params.size)
    later = np.minimum(past + 5, len(close) - 1)
    return (close[later] / close[np.maximum(past - 1, 0)] - 1)[:, None]


def whole_tape_maximum(view: View, params: Any) -> NDArray[np.float64]:
    """A scale that knows the future."""
    close = closes(view, params)
    return newest(close / close.max(), view.past(params.unit, params.size), 0)[:, None]


def backfilled(view: View, params: Any) -> NDArray[np.float64]:
    """Empty bars take the close of the next bar with trades."""
    grid = view.grid(params.unit, params.size)
    close = grid.bars[:, 3].copy()
    for i in range(len(close) - 2, -1, -1):
        if i % 7 == 0:
            close[i] = close[i + 1]
    return newest(close, view.past(params.unit, params.size), 0)[:, None]


def cumulative(view: View, params: Any) -> NDArray[np.float64]:
    """Causal, but it needs all of history: on-balance volume from the first bar."""
    bars = view.grid(params.unit, params.size).bars
    signed = np.sign(np.diff(bars[:, 3], prepend=bars[:1, 3])) * bars[:, 5]
    return newest(np.cumsum(signed), view.past(params.unit, params.size), 0)[:, None]


LEAKS = (unshifted, global_z_score, centred, forward_return, whole_tape_maximum, backfilled)


def cut(tape: PreparedTape, folder: Path, *more: Component, seed: int = 0, **spec: Any) -> Built:
    """Build an asset whose features are the components given."""
    components = registry(*more)
    names = [each.id for each in more if each.kind == "feature"]
    wanted: dict[str, Any] = {
        "tapes": ["demo"],
        "features": [{"name": f"KURT_{name}", "component": name} for name in names],
        "labels": [{"name": "up", "component": "updown", "params": {"horizon": 5 + seed}}],
    } | spec
    known = KnownTape("t1", "demo", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), "SIM")
    resolved = resolve(parse(wanted), [known], components)
    return build(
        resolved.spec,
        name="demo",
        team="contoso",
        spec_digest=resolved.digest,
        tapes={"t1": open_tape(tape.manifest, tape.path_of)},
        folder=folder,
        components=components,
        tell=lambda *progress: None,
    )


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__)
def test_a_leak_fails_the_build_and_is_named(prepared: PreparedTape, tmp_path: Path, leak: Formula) -> None:
    with pytest.raises(TapelineError) as refused:
        cut(prepared, tmp_path, leaky(leak.__name__, leak))
    error = refused.value
    assert error.code == "leak_found"
    assert error.message.startswith(f"feature 'KURT_{leak.__name__}' column 0 changed at 2024-01-")
    assert "when data from 2024-01-" in error.message
    failure = error.data["failure"]
    assert failure["time"] <= failure["cut"]
    assert failure["values"][0] != failure["values"][1]
    verdicts = {check["name"]: check["verdict"] for check in error.data["certificate"]["checks"]}
    assert verdicts["causality"] == "failed"
    assert list(tmp_path.iterdir()) == []


def test_a_leak_is_found_whatever_the_cuts_are(prepared: PreparedTape, tmp_path: Path) -> None:
    for seed in range(5):
        with pytest.raises(TapelineError, match="KURT_unshifted"):
            cut(prepared, tmp_path, leaky("unshifted", unshifted), seed=seed)


def test_a_feature_that_needs_all_history_fails_truncation_alone(prepared: PreparedTape, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match="needs more than its 20 bars of history") as refused:
        cut(prepared, tmp_path, leaky("cumulative", cumulative, warmup=20))
    verdicts = {check["name"]: check["verdict"] for check in refused.value.data["certificate"]["checks"]}
    assert (verdicts["causality"], verdicts["truncation"]) == ("passed", "failed")


def test_a_label_that_reads_past_its_t1_is_found(prepared: PreparedTape, tmp_path: Path) -> None:
    def compute(view: View, params: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        grid, past = view.grid("min", 1), view.past("min", 1)
        later = np.minimum(past + 5, len(grid.end) - 1)
        y = (grid.bars[later, 3] > grid.bars[np.maximum(past - 1, 0), 3]).astype(np.float64)[:, None]
        return y, grid.end[np.minimum(past + 1, len(grid.end) - 1)]

    lying = Component(
        id="lying",
        kind="label",
        version=1,
        params=LabelParams,
        warmup_bars=lambda params: 1,
        columns=lambda params: Columns((1,), ("up",), ("binary",)),
        compute=compute,
        doc="says that it ends before it does",
    )
    with pytest.raises(TapelineError, match=r"label 'lie' at .* says that it read up to") as refused:
        cut(
            prepared,
            tmp_path,
            lying,
            features=["log_return_1min"],
            labels=[{"name": "lie", "component": "lying"}],
        )
    assert refused.value.code == "leak_found"


def test_every_registered_feature_passes(prepared: PreparedTape, tmp_path: Path) -> None:
    short = {"name": "rsi_2", "component": "rsi", "params": {"n": 2}}
    names = [name for name, each in BUILT_IN.items() if each["component"] not in ("updown", "rsi")]
    z = {"name": "z", "component": "bars", "params": {"count": 10, "norm": "zscore_window", "unit": "min", "size": 5}}
    built = cut(prepared, tmp_path, features=[*names, short, z])
    checks = {check["name"]: check for check in built.certificate["checks"]}
    assert [checks[name]["verdict"] for name in ("causality", "truncation", "label_time", "split", "fit_range")] == [
        "passed"
    ] * 5
    assert checks["causality"]["numbers"]["cuts"] >= 30
    assert set(built.certificate["components"]) >= {"bars/1", "rsi/1", "session_fraction/1", "updown/1"}
    assert {each["check"] for each in built.certificate["not_run"]} == {3, 6, 9, 10}
