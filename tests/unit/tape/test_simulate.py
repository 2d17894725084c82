"""Synthetic tapes: one seed, one tape; what is hidden in them can be learned, and not more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tapeline.errors import TapelineError
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import Simulation, hidden_state, simulate
from tapeline.tape.view import BarGrid, OpenTape

RECORDED = "4f4bc36630c48cb3ef441b46db1c7258b2bedc5778d9831d2e097decd6b620f3"


def grid_of(tape: PreparedTape) -> BarGrid:
    return OpenTape(tape.manifest, tape.path_of).minute_grid("SIM1")


def direction(grid: BarGrid) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows whose next five minutes lie in their session, and whether the price rises over them."""
    close = grid.bars[:, 3]
    rows = np.flatnonzero(grid.session[5:] == grid.session[:-5])
    moved = close[rows + 5] != close[rows]
    return rows[moved], close[rows[moved] + 5] > close[rows[moved]]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> PreparedTape:
    return simulate(tmp_path_factory.mktemp("demo"))


def test_seed_7_gives_the_recorded_tape(demo: PreparedTape) -> None:
    assert demo.rows == 1_200_000
    assert demo.content_sha256 == RECORDED
    assert demo.manifest["synthetic"]["seed"] == 7


def test_the_hidden_state_predicts_direction_and_shows_in_trade_sizes(demo: PreparedTape) -> None:
    grid = grid_of(demo)
    rows, up = direction(grid)
    state = np.concatenate([hidden_state(Simulation(), 0, day, 390)[1:] for day in range(60)])
    assert 0.575 < ((state[rows] > 0) == up).mean() < 0.605
    half = len(rows) // 2
    size = grid.bars[rows, 6]
    threshold = np.median(size[:half])
    assert 0.555 < ((size[half:] > threshold) == up[half:]).mean() < 0.58


def test_without_signal_nothing_can_be_learned(tmp_path: Path) -> None:
    grid = grid_of(simulate(tmp_path, signal=0.0))
    rows, up = direction(grid)
    half = len(rows) // 2
    size = grid.bars[rows, 6]
    right = ((size[half:] > np.median(size[:half])) == up[half:]).mean()
    # Labels of five minutes overlap, so only a fifth of them counts as independent.
    assert abs(right - 0.5) < 3 * 0.5 / np.sqrt((len(rows) - half) / 5)


def test_more_days_never_change_earlier_ones(tmp_path: Path) -> None:
    short = simulate(tmp_path / "a", days=3, trades_per_day=500, symbols=2)
    longer = simulate(tmp_path / "b", days=6, trades_per_day=500, symbols=3)
    kept = {(day["symbol"], day["trade_date"]): day["columns"] for day in longer.manifest["days"]}
    assert all(kept[day["symbol"], day["trade_date"]] == day["columns"] for day in short.manifest["days"])
    assert len({day["columns"]["price"] for day in longer.manifest["days"]}) == 18


def test_a_tape_has_ties_odd_trades_and_three_void_ones_a_day(demo: PreparedTape) -> None:
    entry = demo.manifest["days"][0]
    from tapeline.tape.day_file import verify_day_file

    trades = verify_day_file(demo.path_of(entry["artifact"]["sha256"]), entry)
    assert 0.25 < (np.diff(trades.ts) == 0).mean() < 0.45
    assert 0.003 < (trades.flags == 4).mean() < 0.007
    assert (trades.flags == 0).sum() == 3
    assert np.array_equal(np.rint(trades.price * 100) / 100, trades.price)


@pytest.mark.parametrize("calendar", ["24/7", "XNYS"])
def test_other_calendars_work(tmp_path: Path, calendar: str) -> None:
    if calendar == "XNYS":
        pytest.importorskip("exchange_calendars")
    tape = simulate(tmp_path, days=2, trades_per_day=300, calendar=calendar, start="2024-07-03")
    assert tape.days == (["2024-07-03", "2024-07-04"] if calendar == "24/7" else ["2024-07-03", "2024-07-05"])


@pytest.mark.parametrize("wrong", [{"days": 0}, {"signal": 1.5}, {"ties": 1.0}, {"tick": 0.0}, {"start": "soon"}])
def test_impossible_parameters_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(TapelineError) as caught:
        simulate(tmp_path, **wrong)  # type: ignore[arg-type]
    assert caught.value.code in ("invalid_argument", "invalid_date")
