"""Build two assets that hold every feature and label of the registry, and print the digests: `build.py <folder>`.

The tape is synthetic and its seed fixed, so whoever runs this, on whatever machine, prints the same. What is in
`digests.json` was printed once; `tests/unit/assets/test_same_bytes.py` compares.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.build import build
from tapeline.assets.components import FEATURES, LABELS, registry
from tapeline.canvas.digest import canonical_json
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.view import open_tape

NORMS = ("none", "last_price_pct", "zscore_window", "max_values")
SHORT: dict[str, list[dict[str, Any]]] = {
    "bars": [{"count": 12, "norm": norm} for norm in NORMS] + [{"unit": "tick", "size": 5, "count": 4}],
    "log_return": [{}, {"k": 7, "unit": "sec", "size": 30}],
    "ema_ratio": [{"n": 4}],
    "macd": [{"fast": 2, "slow": 4, "signal": 3}],
    "rsi": [{"n": 4}],
    "adx": [{"n": 4}],
    "natr": [{"n": 4}],
    "realised_vol": [{}, {"n": 3, "unit": "min", "size": 5}],
    "vwap_ratio": [{}, {"anchor": "session"}],
    "rvol": [{"d": 1}],
    "day_of_week": [{}, {"one_hot": True}],
    "frac_diff": [{"tau": 1e-3}],
    "triple_barrier": [{"n": 4}, {"measure": "pct", "tp": 0.1, "sl": 0.1}, {"measure": "sigma", "n": 10}],
    "rr_atr": [{"n": 4, "horizon": "1800s"}],
    "meta_label": [{"side": {"name": "side", "component": "roc", "params": {"k": 3}}, "n": 4}],
}
"""Parameters where the defaults would need more history than a small tape has, or leave a formula out."""


def named(components: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [
        {"name": f"{component.id} {k}", "component": component.id, "params": params}
        for component in components
        for k, params in enumerate(SHORT.get(component.id, [{}]))
    ]


EVERY: dict[str, Any] = {
    "tapes": ["demo"],
    "features": named(FEATURES),
    "labels": named(LABELS),
    "split": {"test_fraction": 0.25, "validation_fraction": 0.25},
}
SPECS: dict[str, dict[str, Any]] = {
    "materialised": EVERY | {"sampling": {"unit": "min", "size": 2}, "layout": "materialised", "uniqueness": True},
    "indexed": EVERY | {"sampling": {"kind": "cusum", "threshold": 0.0005}},
}


def digests(tape: PreparedTape, folder: Path) -> dict[str, Any]:
    """Of the tape, of both specs, of their certificates, and of each file."""
    found: dict[str, Any] = {
        "components": [f"{each.id}/{each.version}" for each in (*FEATURES, *LABELS)],
        "tape": tape.content_sha256,
    }
    known = KnownTape("t1", "demo", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), "SIM")
    for name, spec in SPECS.items():
        resolved = resolve(parse(spec), [known], registry())
        (folder / name).mkdir(parents=True)
        built = build(
            resolved.spec,
            name="every",
            team="contoso",
            spec_digest=resolved.digest,
            tapes={"t1": open_tape(tape.manifest, tape.path_of)},
            folder=folder / name,
            components=registry(),
            tell=lambda *progress: None,
        )
        found[name] = {
            "spec": resolved.digest,
            "rows": {file.name: file.rows for file in built.files},
            "data": built.data_digest,
            "certificate": hashlib.sha256(canonical_json(built.certificate)).hexdigest(),
            "files": {file.name: hashlib.sha256(file.path.read_bytes()).hexdigest() for file in built.files},
        }
    return found


def made(folder: Path) -> dict[str, Any]:
    """Simulate the tape in a folder, build, and give the digests."""
    return digests(simulate(folder / "tape", days=4, trades_per_day=1200, symbols=2), folder)


if __name__ == "__main__":
    print(json.dumps(made(Path(sys.argv[1])), indent=1))
