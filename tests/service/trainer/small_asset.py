"""A small asset file with a signal, and a canvas with everything random that resume must restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tapeline.security import hdf5

CANVAS: dict[str, Any] = {
    "schema": "tapeline.canvas/1",
    "name": "small",
    "nodes": [
        {"id": "window", "kind": "input", "features": ["bars"]},
        {"id": "now", "kind": "input", "features": ["return", "volume"]},
        {"id": "flat", "kind": "flatten", "inputs": ["window"]},
        {"id": "scaled", "kind": "batch_norm", "inputs": ["now"]},
        {
            "id": "trunk", "kind": "dense", "inputs": ["flat", "scaled"], "component_name": "trunk",
            "units": [16, 8], "activation": "relu", "dropout": 0.2,
        },
        {
            "id": "up", "kind": "output", "inputs": ["trunk"], "feature": "updown", "label_index": 1,
            "gaussian_noise": 0.1, "dropout": 0.1, "class_weighting": 1,
        },
        {"id": "size", "kind": "output", "inputs": ["trunk"], "feature": "updown", "label_index": 0},
    ],
}  # fmt: skip

ASSET: dict[str, Any] = {
    "id": "asset-1",
    "name": "small",
    "features": {"bars": [5, 3], "return": [1], "volume": [1]},
    "labels": {"updown": ["regression", "binary"]},
}


def write_asset(path: Path, rows: int = 700, *, part_from: float = 0.8, seed: int = 1) -> None:
    """A train file whose last rows are the validation part."""
    rng = np.random.default_rng(seed)
    bars = rng.normal(size=(rows, 5, 3)).astype(np.float32)
    now = rng.normal(size=(rows, 1)).astype(np.float32)
    volume = rng.normal(size=(rows, 1)).astype(np.float32)
    truth = now[:, 0] + 0.5 * bars[:, -1, 0] + 0.3 * rng.normal(size=rows)
    updown = np.stack([truth, truth > 0.3], axis=1).astype(np.float32)
    with hdf5.create(path) as file:
        file.attrs["schema"] = "tapeline.asset/1"
        for name, array in (("bars", bars), ("return", now), ("volume", volume), ("updown", updown)):
            file.create_dataset(name, data=array)
        index = hdf5.add_group(file, "_index")
        part = (np.arange(rows) >= part_from * rows).astype(np.uint8)
        index.create_dataset("part", data=part)
        index.create_dataset("sample_weight", data=np.ones(rows, np.float32))
        index.create_dataset("t0", data=np.arange(rows, dtype=np.int64) * 60_000_000_000)
