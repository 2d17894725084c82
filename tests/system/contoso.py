"""Team contoso as the examples of the SDK know it: a tape, two assets, a canvas, a run, two vault items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tapeline import sdk as tl
from tapeline import teams
from tapeline.home import Home

TEAM = "contoso"
MINUTE = {"unit": "min", "size": 1}
CANVAS: dict[str, Any] = {
    "schema": "tapeline.canvas/1",
    "name": "demo",
    "nodes": [
        {"id": "bars", "kind": "input", "features": ["90_1daybar_lp%"]},
        {"id": "rsi", "kind": "input", "features": ["RSI14TA_day"]},
        {"id": "vwap", "kind": "input", "features": ["vwap2060_day"]},
        {"id": "sma", "kind": "input", "features": ["20sma_day"]},
        {"id": "atr", "kind": "input", "features": ["ATR14_day"]},
        {"id": "recent", "kind": "select", "inputs": ["bars"], "columns": {"start": -5}, "axis": 0},
        {"id": "flat", "kind": "flatten", "inputs": ["recent"]},
        {
            "id": "trunk",
            "kind": "dense",
            "inputs": ["flat", "rsi", "vwap", "sma", "atr"],
            "component_name": "trunk",
            "units": [8],
            "activation": "relu",
        },
        {
            "id": "end",
            "kind": "output",
            "inputs": ["trunk"],
            "component_name": "",
            "label_index": 4,
            "gaussian_noise": 0.5,
            "dropout": 0.5,
            "class_weighting": 1,
            "activation": "auto",
            "feature": "long_updown",
        },
    ],
    "training": {"asset": "demo_asset", "epochs": 1, "batch_size": 64},
}


def furnish(home: Home, folder: Path) -> None:
    """Make the team and all that it has; one epoch of a tiny network is the longest part."""
    teams.add_team(home, TEAM)
    teams.add_user(home, TEAM, "me", home.credential(TEAM))
    tape = tl.tapes.simulate(name="spy", team=TEAM, days=8, trades_per_day=2000)
    # Free names, as the examples have them: what a feature is called says nothing of how it is computed.
    features = [
        named("90_1daybar_lp%", "bars", count=90, norm="last_price_pct"),
        named("RSI14TA_day", "rsi", n=4),
        named("vwap2060_day", "log_return", k=20),
        named("20sma_day", "volume_ratio", n=20),
        named("ATR14_day", "realised_vol", n=14),
    ]
    labels = [named("long_updown", "updown", horizon="300s", entry_delay=0)]
    tl.Asset.build(TEAM, spec(tape, "demo_asset", 5, features, labels))
    others = [named("100_1_min", "bars", count=100, norm="last_price_pct"), named("per_min", "trade_size")]
    rewards = [named("rr_atr_2_2_1800", "updown", horizon="1800s")]
    tl.Asset.build(TEAM, spec(tape, "schema_1707673805399", 30, others, rewards))

    (folder / "demo.json").write_text(json.dumps(CANVAS), encoding="utf-8")
    canvas = tl.Canvas(TEAM, path=folder / "demo.json")
    canvas.save()
    run = canvas.train_run("cpu0", project_id="my_project")
    assert run.wait(120) == "job_completed", run.message
    for name in ("my_model1", "spy_e1"):
        tl.vault.add_vault_item(TEAM, name, run=run.id)


def named(name: str, component: str, **params: Any) -> dict[str, Any]:
    """A feature or label on minute bars."""
    return {"name": name, "component": component, "params": params | MINUTE}


def spec(tape: tl.Tape, name: str, minutes: int, features: list[Any], labels: list[Any]) -> dict[str, Any]:
    """The spec of an asset with a sample every few minutes."""
    return {
        "schema": "tapeline.asset-spec/1",
        "name": name,
        "tapes": [{"tape": tape.name, "symbols": tape.symbols}],
        "view": "regular",
        "sampling": {"kind": "every", "unit": "min", "size": minutes},
        "features": features,
        "labels": labels,
        "split": {"test_fraction": 0.2, "validation_fraction": 0.2, "embargo": "auto"},
        "layout": "materialised",
    }
