"""The whole asset of `assets.py` by pandas, or by Polars with TA-Lib: its columns, and what its certificate holds.

As a careful user would write it, once for both: each experiment is made on two sessions, not on the whole tape, and is
compared with what is there already.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers.columns import LABELS, Asset, Bars, Peer, Sessions, asset_of, features_of, parts_of, write

CUTS, WARM, GAP, EMBARGO = 32, 365, 3, 31
"""Experiments; bars after which averages that forget have done so; bars of a gap; bars of the longest horizon."""
TRAIN_ONLY = 4_000
"""Rows that features and labels are held against each other on."""


def whole_asset(peer: Peer, source: Path, sessions: Sessions, folder: Path) -> Path:
    """The asset in two files: columns, statistics of train, digests of what was read and written, certificate."""
    trades = peer.read(source)
    asset = asset_of(peer, trades, sessions)
    train = parts_of(asset) == 0
    row = np.arange(len(train))
    first_of_test = int(np.flatnonzero(~train)[0])
    # No label of train reads into test, and test begins an embargo later.
    kept = asset.whole & np.where(train, asset.last < first_of_test, row >= first_of_test + EMBARGO)
    train &= kept
    statistics = {name: of_rows(column[train]) for name, column in asset.features.items()}
    counts = {name: column[train].sum(axis=0).tolist() for name, column in asset.labels.items()}
    own = uniqueness(asset, train)
    found = {
        "experiments": experiments(peer, trades, sessions, asset),
        "split": bool((asset.last[train] < first_of_test).all()),
        "uniqueness": float(own.mean()),
        "fit_range": fits(asset, train, statistics),
        "soundness": soundness(peer, asset, kept, train, statistics),
        "too_good": too_good(peer, asset, train),
        "universe": peer.cents(trades, sessions).tolist(),
        "statistics": {"features": {k: [v.tolist() for v in each] for k, each in statistics.items()}, "labels": counts},
        "read": hashlib.sha256(source.read_bytes()).hexdigest(),
        "data": digest_of(asset, kept),
    }
    assert not found["experiments"]["leaks"], f"{peer.name} finds a leak: {found['experiments']}"
    write(asset, kept, folder, {"certificate": json.dumps(found)})
    return folder


def experiments(peer: Peer, trades: Any, sessions: Sessions, asset: Asset) -> dict[str, Any]:
    """Disturb the future, take it away, cut the past off, at 32 samples: what changes.

    Each is made on the cut's session and the one before, in which all averages forget.
    """
    draw = np.random.default_rng(1)
    n = len(sessions[0])
    chosen = sorted([0, n - 1, *draw.integers(0, n, CUTS - 2).tolist()])
    spread = {name: np.nanstd(column) for name, column in asset.features.items()}
    leaks: list[str] = []
    compared = 0
    for number, share in zip(chosen, draw.random(CUTS).tolist(), strict=True):
        low = max(number - 1, 0)
        near = (sessions[0][low : number + 1], sessions[1][low : number + 1])
        start = int(np.searchsorted(asset.bars.session, low))
        here = np.flatnonzero(asset.bars.session == number)
        row = int(here[int(share * len(here))])
        cut = int(asset.bars.end[row])
        own = peer.between(trades, int(near[0][0]), int(near[1][-1]))
        after = asset_of(peer, peer.disturbed(own, cut, number), near)
        ended = asset_of(peer, peer.between(own, 0, cut), near)
        short: Bars = asset.bars.rows(row + 1 - WARM, row + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            alone = features_of(short, peer.values(short.columns)[0])
        warm = start + (WARM if low else 0)
        for name, column in asset.features.items():
            for other in (after, ended):
                a, b = column[warm : row + 1], other.features[name][warm - start : row + 1 - start]
                compared += a.size
                if not np.allclose(a, b, rtol=1e-6, atol=1e-6 * spread[name], equal_nan=True):
                    leaks.append(f"{name} before row {row}")
            if row + 1 >= WARM:
                a, b = column[row], alone[name][-1]
                compared += a.size
                if not np.allclose(a, b, rtol=1e-6, atol=1e-6 * spread[name], equal_nan=True):
                    leaks.append(f"{name} at row {row} needs more history")
        settled = np.arange(warm, max(row + 1 - EMBARGO, warm))
        for name, column in asset.labels.items():
            compared += column[settled].size
            if not np.array_equal(column[settled], after.labels[name][settled - start], equal_nan=True):
                leaks.append(f"{name} before row {row}")
    return {"cuts": CUTS, "compared": compared, "leaks": leaks}


def of_rows(values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Mean, variance, minima and maxima of the columns of some rows."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    return flat.mean(axis=0), flat.var(axis=0), flat.min(axis=0), flat.max(axis=0)


def fits(asset: Asset, train: NDArray[np.bool_], statistics: dict[str, tuple[NDArray[Any], ...]]) -> bool:
    """Whether the statistics are those of the train rows, computed another way."""
    for name, column in asset.features.items():
        flat = column[train].reshape(-1, column.shape[-1]).astype(np.float64)
        mean = flat.sum(axis=0) / len(flat)
        variance = (flat * flat).sum(axis=0) / len(flat) - mean**2
        if not np.allclose(statistics[name][0], mean) or not np.allclose(statistics[name][1], variance, rtol=1e-3):
            return False
    return True


def uniqueness(asset: Asset, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean over its label of 1 / how many labels overlap, of each row."""
    first = np.flatnonzero(rows)
    stop = asset.last[rows] + 1
    n = int(stop.max()) + 1
    together = np.cumsum(np.bincount(first, minlength=n) - np.bincount(stop, minlength=n))
    shares = np.concatenate([[0.0], np.cumsum(1.0 / np.maximum(together, 1))])
    return (shares[stop] - shares[first]) / (stop - first)


def soundness(
    peer: Peer,
    asset: Asset,
    kept: NDArray[np.bool_],
    train: NDArray[np.bool_],
    statistics: dict[str, tuple[NDArray[Any], ...]],
) -> dict[str, Any]:
    """Times that ascend, values that are finite, constant columns, rows of test that train has, gaps."""
    flat = np.concatenate([each[kept].reshape(int(kept.sum()), -1) for each in asset.features.values()], axis=1)
    hashes = peer.row_hashes(flat)
    of_train = train[kept]
    empty = (asset.bars.columns["count"] == 0).astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], empty, [0]])))
    return {
        "ascends": bool((np.diff(asset.bars.end[kept]) > 0).all()),
        "finite": all(bool(np.isfinite(each[kept]).all()) for each in (asset.features | asset.labels).values()),
        "constant": [name for name, each in statistics.items() if not bool(each[1].all())],
        "equal_rows": int(np.isin(hashes[~of_train], hashes[of_train]).sum()),
        "gaps": int((np.diff(edges)[::2] > GAP).sum()),
        "dropped": {name: int(np.isnan(each).reshape(len(kept), -1).any(axis=1).sum())
                    for name, each in asset.features.items()},
    }  # fmt: skip


def too_good(peer: Peer, asset: Asset, train: NDArray[np.bool_]) -> dict[str, float]:
    """The best correlation or AUC of a column with a column of a label, and the same of the row before."""
    rows = np.flatnonzero(train)
    rows = rows[:: max(1, -(-len(rows) // TRAIN_ONLY))]
    rows = rows[(rows > 0) & train[rows - 1]]
    found: dict[str, float] = {}
    for feature, values in asset.features.items():
        flat = values[rows].reshape(len(rows), -1)
        best = edges(peer, flat, asset, rows)
        chosen = np.unique(np.abs(best).argmax(axis=1))
        later = edges(peer, values[rows - 1].reshape(len(rows), -1)[:, chosen], asset, rows)
        found[feature] = float(np.abs(best).max())
        found[f"{feature}, a bar later"] = float(np.abs(later).max())
    return found


def edges(peer: Peer, flat: NDArray[Any], asset: Asset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """2 AUC - 1, or the correlation, of each column with each label column: (label columns, columns)."""
    made = []
    ranks = peer.ranks(flat)
    about = flat.astype(np.float64) - flat.mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.square(about).sum(axis=0))
    for label in LABELS:
        for k, column in enumerate(asset.labels[label["name"]][rows].T.astype(np.float64)):
            if label["name"] == "updown" and k == 0:
                away = column - column.mean()
                with np.errstate(divide="ignore", invalid="ignore"):
                    made.append(np.nan_to_num(away @ about / (spread * np.sqrt(np.square(away).sum()))))
                continue
            ones = column.sum()
            pairs = max(ones * (len(column) - ones), 1)
            made.append(2 * (column @ ranks - ones * (ones + 1) / 2) / pairs - 1)
    return np.stack(made)


def digest_of(asset: Asset, kept: NDArray[np.bool_]) -> str:
    """The digest of all data that is written."""
    running = hashlib.sha256()
    for column in (*asset.features.values(), *asset.labels.values()):
        running.update(np.ascontiguousarray(column[kept]).data)
    return running.hexdigest()
