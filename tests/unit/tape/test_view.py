"""Views and bar grids of an opened tape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tapeline.errors import TapelineError
from tapeline.tape.imports import import_tape
from tapeline.tape.options import ImportOptions
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.view import OpenTape


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> PreparedTape:
    return simulate(tmp_path_factory.mktemp("tape"), days=5, trades_per_day=2000)


@pytest.fixture
def opened(tape: PreparedTape) -> OpenTape:
    return OpenTape(tape.manifest, tape.path_of)


def test_a_minute_grid_covers_every_session(opened: OpenTape) -> None:
    grid = opened.minute_grid("SIM1")
    assert grid.bars.shape == (5 * 390, 8)
    assert grid.trade_dates == opened.days("SIM1")
    assert (grid.end_ns - grid.start_ns == 60_000_000_000).all()
    assert (np.diff(grid.session) >= 0).all()
    assert np.bincount(grid.session).tolist() == [390] * 5
    assert grid.bars[:, 4].sum() == len(opened.all_trades("SIM1"))


def test_wider_units_hold_the_same_trades(opened: OpenTape) -> None:
    minutes = opened.minute_grid("SIM1").bars
    for unit, size, rows in (("min", 5, 390), ("hour", 1, 35), ("sec", 30, 3900), ("day", 1, 5), ("day", 2, 3)):
        found = opened.minute_grid("SIM1", unit, size)
        assert len(found) == rows
        for column, fold in ((4, np.sum), (5, np.sum), (7, np.max), (1, np.max), (2, np.min)):
            assert fold(found.bars[:, column]) == fold(minutes[:, column])
        assert found.bars[-1, 3] == minutes[-1, 3]


def test_a_grid_can_be_a_range_of_days(opened: OpenTape) -> None:
    days = opened.days("SIM1")
    part = opened.minute_grid("SIM1", first=days[1], last=days[2])
    assert part.trade_dates == days[1:3]
    assert np.array_equal(part.bars, opened.minute_grid("SIM1").bars[390 : 3 * 390])


def test_void_trades_are_in_no_view(tape: PreparedTape) -> None:
    views = [OpenTape(tape.manifest, tape.path_of, view=view).all_trades("SIM1") for view in ("regular", "all")]
    assert [len(trades) for trades in views] == [tape.rows - 15] * 2


def test_trades_are_read_only_and_read_once(tape: PreparedTape) -> None:
    asked: list[str] = []

    def path_of(digest: str) -> Path:
        asked.append(digest)
        return tape.path_of(digest)

    opened = OpenTape(tape.manifest, path_of)
    day = opened.days("SIM1")[0]
    trades = opened.trades("SIM1", day)
    assert opened.trades("SIM1", day) is trades
    assert len(asked) == 1
    with pytest.raises(ValueError, match="read-only"):
        trades.price[0] = 1.0
    small = OpenTape(tape.manifest, path_of, cache_bytes=1)
    asked.clear()
    for each in [day, small.days("SIM1")[1], day]:
        small.trades("SIM1", each)
    assert len(asked) == 3


def test_views_show_trades_of_their_hours(tmp_path: Path) -> None:
    stamps = ["07:00", "09:30", "15:59:59.999", "16:00", "18:00"]
    path = tmp_path / "a.csv"
    path.write_text("ts,px,qty\n" + "".join(f"2024-01-02 {s},{k + 1},1\n" for k, s in enumerate(stamps)))
    options = ImportOptions(
        calendar="SIM",
        extended="08:00-17:00",
        tz="America/New_York",
        map={"ts": "ts", "price": "px", "volume": "qty"},
    )
    tape = import_tape([path], "csv", symbol="X", out_dir=tmp_path / "out", options=options)
    assert tape.days == ["2024-01-02", "2024-01-03"]
    assert tape.report["outside_sessions"] == 2
    seen = {
        view: OpenTape(tape.manifest, tape.path_of, view=view).all_trades("X").price.tolist()
        for view in ("regular", "extended", "all")
    }
    assert seen == {"regular": [2, 3], "extended": [2, 3, 4], "all": [1, 2, 3, 4, 5]}
    extended = OpenTape(tape.manifest, tape.path_of, view="extended").minute_grid("X", "hour", last="2024-01-02")
    assert extended.bars[:, 4].tolist() == [0, 1, 0, 0, 0, 0, 0, 1, 1]
    assert np.isnan(extended.bars[0, :4]).all()


def test_wrong_arguments_are_refused(opened: OpenTape, tape: PreparedTape) -> None:
    with pytest.raises(TapelineError, match="no symbol 'SPY'"):
        opened.minute_grid("SPY")
    with pytest.raises(TapelineError, match="no unit 'tick'"):
        opened.minute_grid("SIM1", "tick")
    with pytest.raises(TapelineError, match="size is 0"):
        opened.minute_grid("SIM1", "min", 0)
    with pytest.raises(TapelineError, match="width_ns"):
        opened.minute_grid("SIM1", "hour", 25)
    with pytest.raises(TapelineError, match="no view 'night'"):
        OpenTape(tape.manifest, tape.path_of, view="night")  # type: ignore[arg-type]
    with pytest.raises(TapelineError) as caught:
        OpenTape(tape.manifest | {"aggregated": True}, tape.path_of)
    assert caught.value.code == "tape_corrupt"
