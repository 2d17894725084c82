"""The asset of `assets.py` by pandas, and by Polars with TA-Lib: what their users would write.

A peer reads trades from Parquet, cuts minute bars, computes the features, and hands them to `asset_of`, which does
what is NumPy for both: windows, labels, rows that are whole. `peers/proofs.py` adds what a certificate holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

MINUTE = 60_000_000_000
COUNT, N, RSI, AHEAD, FAR, ATR = 20, 20, 14, 5, 30, 14
FEATURES: list[Any] = [
    {"name": "bars", "component": "bars", "params": {"count": COUNT, "norm": "last_price_pct"}},
    {"name": "log_return", "component": "log_return", "params": {"k": 1}},
    {"name": "sma_ratio", "component": "sma_ratio", "params": {"n": N}},
    {"name": "rsi", "component": "rsi", "params": {"n": RSI}},
    {"name": "realised_vol", "component": "realised_vol", "params": {"n": N}},
    {"name": "volume_ratio", "component": "volume_ratio", "params": {"n": N}},
]
LABELS: list[Any] = [
    {"name": "updown", "component": "updown", "params": {"horizon": AHEAD}},
    {"name": "rr", "component": "rr_atr", "params": {"horizon": FAR, "n": ATR}},
]
TEST_FRACTION = 0.2
COLUMNS = ("open", "high", "low", "close", "count", "sum", "mean", "max")
Columns = dict[str, NDArray[Any]]
Frame = dict[str, NDArray[np.float64]]
Sessions = tuple[NDArray[np.int64], NDArray[np.int64]]
"""When sessions open, and when they close: int64 ns."""


@dataclass(frozen=True)
class Bars:
    """Minute bars over trading time.

    Attributes
    ----------
    columns : float64, shape (rows,), by name
    session : int64, shape (rows,), the number of the session of each
    end : int64 ns, shape (rows,)
    """

    columns: Frame
    session: NDArray[np.int64]
    end: NDArray[np.int64]

    def rows(self, low: int, high: int) -> Bars:
        """Some of them."""
        own = slice(max(low, 0), high)
        return Bars({name: column[own] for name, column in self.columns.items()}, self.session[own], self.end[own])


@dataclass(frozen=True)
class Asset:
    """All samples, those that are whole among them.

    Attributes
    ----------
    features, labels : float32, shape (rows, ...), by name, one row a bar
    last : int64, shape (rows,): the last bar that the labels read
    whole : which rows have every feature and label
    """

    bars: Bars
    features: Columns
    labels: Columns
    last: NDArray[np.int64]
    whole: NDArray[np.bool_]


class Peer(Protocol):
    """A library, and what it does for the asset."""

    name: str

    def read(self, source: Path) -> Any:
        """The trades: columns `ts`, `price`, `volume`."""
        ...

    def between(self, trades: Any, low: int, high: int) -> Any:
        """Those from a time on and before another."""
        ...

    def disturbed(self, trades: Any, cut: int, seed: int) -> Any:
        """The trades with 5 % noise in prices and volumes from a time on."""
        ...

    def bars(self, trades: Any, sessions: Sessions) -> Bars:
        """Bars of one minute of whole sessions; minutes without a trade carry the last close."""
        ...

    def values(self, bars: Frame) -> tuple[Frame, NDArray[np.float64]]:
        """The features that are one number a bar, by name, and the average true range as a share of the close."""
        ...

    def ranks(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The rank of each value in its column, equal ones sharing theirs."""
        ...

    def row_hashes(self, values: NDArray[Any]) -> NDArray[np.uint64]:
        """A hash of each row."""
        ...

    def cents(self, trades: Any, sessions: Sessions) -> NDArray[np.float64]:
        """First and last price of each session, and the share of prices in whole cents: shape (sessions, 3)."""
        ...


def noise(n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two factors for each of n trades."""
    draw = np.random.default_rng(seed)
    return 1 + 0.05 * draw.standard_normal(n), 1 + 0.05 * draw.standard_normal(n)


class Pandas:
    """pandas."""

    name = "pandas"

    def read(self, source: Path) -> Any:
        import pandas as pd

        return pd.read_parquet(source)

    def between(self, trades: Any, low: int, high: int) -> Any:
        rows = trades["ts"].searchsorted([low, high])
        return trades.iloc[rows[0] : rows[1]]

    def disturbed(self, trades: Any, cut: int, seed: int) -> Any:
        row = int(trades["ts"].searchsorted(cut))
        of_price, of_volume = noise(len(trades) - row, seed)
        changed = trades.copy()
        changed["volume"] = changed["volume"].astype(np.float64)
        changed.iloc[row:, trades.columns.get_loc("price")] *= of_price
        changed.iloc[row:, trades.columns.get_loc("volume")] *= of_volume
        return changed

    def bars(self, trades: Any, sessions: Sessions) -> Bars:
        import pandas as pd

        opens, closes = sessions
        session = np.searchsorted(opens, trades["ts"].to_numpy(), "right") - 1
        inside = (session >= 0) & (trades["ts"].to_numpy() < closes[np.maximum(session, 0)])
        if not bool(inside.all()):
            trades, session = trades[inside], session[inside]
        minute = (trades["ts"].to_numpy() - opens[session]) // MINUTE
        grouped = trades.groupby([session, minute], sort=False)
        price, volume = grouped["price"], grouped["volume"]
        made = pd.DataFrame(
            {
                "open": price.first(), "high": price.max(), "low": price.min(), "close": price.last(),
                "count": volume.count(), "sum": volume.sum(), "mean": volume.mean(), "max": volume.max(),
            }
        )  # fmt: skip
        numbers, minutes, end = grid_of(sessions)
        made = made.reindex(pd.MultiIndex.from_arrays([numbers, minutes]))
        made["close"] = made["close"].ffill()
        for name in ("open", "high", "low"):
            made[name] = made[name].fillna(made["close"])
        made[["count", "sum", "mean", "max"]] = made[["count", "sum", "mean", "max"]].fillna(0.0)
        return Bars({name: made[name].to_numpy(np.float64) for name in COLUMNS}, numbers, end)

    def values(self, bars: Frame) -> tuple[Frame, NDArray[np.float64]]:
        import pandas as pd

        frame = pd.DataFrame(bars)
        close = frame["close"]
        log_return: Any = np.log(close / close.shift(1))
        change = close.diff()
        gain = change.clip(lower=0).ewm(alpha=1 / RSI, adjust=False, min_periods=RSI).mean()
        loss = (-change).clip(lower=0).ewm(alpha=1 / RSI, adjust=False, min_periods=RSI).mean()
        before = close.shift(1)
        reach = pd.concat(
            [frame["high"] - frame["low"], (frame["high"] - before).abs(), (frame["low"] - before).abs()], axis=1
        )
        true_range: Any = reach.max(axis=1)
        atr = true_range.ewm(alpha=1 / ATR, adjust=False, min_periods=ATR).mean() / close
        found = {
            "log_return": log_return,
            "sma_ratio": close.rolling(N).mean() / close - 1,
            "rsi": (100 - 100 / (1 + gain / loss) - 50) / 50,
            "realised_vol": np.sqrt((log_return**2).rolling(N).sum()),
            "volume_ratio": frame["sum"] / frame["sum"].rolling(N).mean() - 1,
        }
        return {name: column.to_numpy() for name, column in found.items()}, atr.to_numpy()

    def ranks(self, values: NDArray[Any]) -> NDArray[np.float64]:
        import pandas as pd

        return pd.DataFrame(values).rank().to_numpy(np.float64)

    def row_hashes(self, values: NDArray[Any]) -> NDArray[np.uint64]:
        import pandas as pd

        return pd.util.hash_pandas_object(pd.DataFrame(values), index=False).to_numpy(np.uint64)

    def cents(self, trades: Any, sessions: Sessions) -> NDArray[np.float64]:
        session = np.searchsorted(sessions[0], trades["ts"].to_numpy(), "right") - 1
        price = trades["price"]
        whole = (price * 100 - (price * 100).round()).abs() < 1e-6
        by = price.groupby(session)
        return np.stack([by.first(), by.last(), whole.groupby(session).mean()], axis=1)


class Polars:
    """Polars, its indicators by TA-Lib."""

    name = "Polars, TA-Lib"

    def read(self, source: Path) -> Any:
        import polars as pl

        return pl.read_parquet(source).set_sorted("ts")

    def between(self, trades: Any, low: int, high: int) -> Any:
        first, stop = (trades["ts"].search_sorted(time) for time in (low, high))
        return trades[first:stop]

    def disturbed(self, trades: Any, cut: int, seed: int) -> Any:
        import polars as pl

        row = int(trades["ts"].search_sorted(cut))
        of_price, of_volume = noise(len(trades) - row, seed)
        ones = np.ones(row)
        return trades.with_columns(
            price=pl.col("price") * pl.Series(np.concatenate([ones, of_price])),
            volume=pl.col("volume") * pl.Series(np.concatenate([ones, of_volume])),
        )

    def bars(self, trades: Any, sessions: Sessions) -> Bars:
        import polars as pl

        opens, closes = sessions
        of_session = pl.LazyFrame({"opened": opens, "closed": closes, "session": np.arange(len(opens))})
        price, volume = pl.col("price"), pl.col("volume")
        cut = (
            trades.lazy()
            .set_sorted("ts")
            .join_asof(of_session.set_sorted("opened"), left_on="ts", right_on="opened")
            .filter(pl.col("ts") < pl.col("closed"))
            .with_columns(minute=(pl.col("ts") - pl.col("opened")) // MINUTE)
            .group_by("session", "minute", maintain_order=True)
            .agg(
                price.first().alias("open"), price.max().alias("high"), price.min().alias("low"),
                price.last().alias("close"), pl.len().alias("count"), volume.sum().alias("sum"),
                volume.mean().alias("mean"), volume.max().alias("max"),
            )
        )  # fmt: skip
        numbers, minutes, end = grid_of(sessions)
        made = (
            pl.LazyFrame({"session": numbers, "minute": minutes})
            .join(cut, on=["session", "minute"], how="left", maintain_order="left")
            .with_columns(pl.col("close").forward_fill())
            .with_columns(pl.col("open", "high", "low").fill_null(pl.col("close")))
            .with_columns(pl.col("count", "sum", "mean", "max").fill_null(0))
            .collect()
        )
        return Bars({name: made[name].to_numpy().astype(np.float64) for name in COLUMNS}, numbers, end)

    def values(self, bars: Frame) -> tuple[Frame, NDArray[np.float64]]:
        import talib

        close = bars["close"]
        log_return = np.log(close / np.concatenate([[np.nan], close[:-1]]))
        found = {
            "log_return": log_return,
            "sma_ratio": talib.SMA(close, N) / close - 1,
            "rsi": (talib.RSI(close, RSI) - 50) / 50,
            "realised_vol": np.sqrt(talib.SUM(log_return**2, N)),
            "volume_ratio": bars["sum"] / talib.SMA(bars["sum"], N) - 1,
        }
        return found, talib.NATR(bars["high"], bars["low"], close, ATR) / 100

    def ranks(self, values: NDArray[Any]) -> NDArray[np.float64]:
        import polars as pl

        return pl.DataFrame(values).select(pl.all().rank()).to_numpy()

    def row_hashes(self, values: NDArray[Any]) -> NDArray[np.uint64]:
        import polars as pl

        return pl.DataFrame(values).hash_rows().to_numpy()

    def cents(self, trades: Any, sessions: Sessions) -> NDArray[np.float64]:
        import polars as pl

        opens = pl.DataFrame({"opened": sessions[0], "session": np.arange(len(sessions[0]))}).set_sorted("opened")
        price = pl.col("price")
        found = (
            trades.join_asof(opens, left_on="ts", right_on="opened")
            .group_by("session", maintain_order=True)
            .agg(price.first(), price.last().alias("last"),
                 ((price * 100 - (price * 100).round()).abs() < 1e-6).mean().alias("cents"))
        )  # fmt: skip
        return found.drop("session").to_numpy()


def grid_of(sessions: Sessions) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Session, minute and end of every bar of some sessions."""
    opens, closes = sessions
    lengths = -(-(closes - opens) // MINUTE)
    numbers = np.repeat(np.arange(len(opens)), lengths)
    minutes = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return numbers, minutes, np.minimum(opens[numbers] + (minutes + 1) * MINUTE, closes[numbers])


def features_of(bars: Bars, values: Frame) -> Columns:
    """The features as they are stored: float32, one row a bar."""
    table = np.stack([bars.columns[name] for name in COLUMNS], axis=1)
    made: Columns = {"bars": np.full((len(table), COUNT, 8), np.nan, np.float32)}
    if len(table) >= COUNT:
        windows = np.moveaxis(sliding_window_view(table, COUNT, axis=0), 2, 1)
        made["bars"][COUNT - 1 :, :, :4] = (windows[:, :, :4] / windows[:, -1:, 3:4] - 1) * 100
        made["bars"][COUNT - 1 :, :, 4:] = windows[:, :, 4:] / windows[:, :, 4:].max(axis=1, keepdims=True)
    return made | {name: column.astype(np.float32)[:, None] for name, column in values.items()}


def labels_of(bars: Bars, atr: NDArray[np.float64]) -> tuple[Columns, NDArray[np.int64], NDArray[np.bool_]]:
    """The labels as they are stored, the last bar that they read, and which of them have their whole horizon."""
    close, session = bars.columns["close"], bars.session
    n, row = len(session), np.arange(len(session))
    entry, ends = np.minimum(row + 1, n - 1), {"updown": row + 1 + AHEAD, "rr": row + 1 + FAR}
    inside = [(last < n) & (session[np.minimum(last, n - 1)] == session) for last in ends.values()]
    move = close[np.minimum(ends["updown"], n - 1)] / close[entry] - 1
    made: Columns = {"updown": np.stack([move, move > 0, move < 0, move < 0, move > 0], axis=1).astype(np.float32)}
    up, down = close[entry] * (1 + 2 * atr), close[entry] * (1 - 2 * atr)
    how, open_ = np.zeros(n), np.ones(n, bool)
    for step in range(1, FAR + 1):
        at = np.minimum(entry + step, n - 1)
        stopped, hit = bars.columns["low"][at] <= down, bars.columns["high"][at] >= up
        how[open_ & hit & ~stopped] = 1
        open_ &= ~(hit | stopped)
    made["rr"] = how.astype(np.float32)[:, None]
    return made, ends["rr"], inside[0] & inside[1] & ~np.isnan(atr)


def asset_of(peer: Peer, trades: Any, sessions: Sessions) -> Asset:
    """All samples of some trades."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bars = peer.bars(trades, sessions)
        values, atr = peer.values(bars.columns)
        features = features_of(bars, values)
        labels, last, whole = labels_of(bars, atr)
    for column in features.values():
        whole &= ~np.isnan(column).reshape(len(whole), -1).any(axis=1)
    return Asset(bars, features, labels, last, whole)


def parts_of(asset: Asset) -> NDArray[np.int64]:
    """The part of each row: 0 train, 1 test; whole sessions."""
    sessions = np.unique(asset.bars.session)
    return (asset.bars.session >= sessions[len(sessions) - max(1, round(len(sessions) * TEST_FRACTION))]).astype(int)


def write(asset: Asset, rows: NDArray[np.bool_], folder: Path, attributes: dict[str, str]) -> None:
    """Two files, train and test, of the rows given."""
    import h5py

    part = parts_of(asset)
    for number, name in enumerate(("train", "test")):
        chosen = rows & (part == number)
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            for key, column in (asset.features | asset.labels).items():
                file[key] = column[chosen]
            file["row"] = np.flatnonzero(chosen)
            file["t0"] = asset.bars.end[chosen]
            file.attrs.update(attributes)


def columns_alone(peer: Peer, source: Path, sessions: Sessions, folder: Path) -> Path:
    """The columns of the asset in two files, and nothing else that an asset has."""
    asset = asset_of(peer, peer.read(source), sessions)
    write(asset, asset.whole, folder, {})
    return folder
