"""Folds what items are made from: runs, their complete checkpoints, the assets and agents behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from sqlalchemy import Table

from tapeline.contracts.agents import DeviceAnnounced
from tapeline.contracts.assets import AssetBuildRequested, AssetBuilt, AssetChecked, AssetRemoved
from tapeline.contracts.runs import (
    CheckpointCompleted,
    CheckpointDeleted,
    JobCreated,
    LeaseGranted,
    RunCreated,
    RunDeleted,
)
from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows
from tapeline.vault.tables import agents, checkpoints, runs, trained_on

name = "vault.sources"
version = 2
kinds = frozenset({"run", "asset", "device"})
tables: Sequence[Table] = (runs, checkpoints, agents, trained_on)


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    team, kind, thing = event.ref.team, event.ref.kind, event.ref.id
    if kind == "run":
        yield runs, (team, thing)
    elif kind == "asset":
        yield trained_on, (team, thing)
    if isinstance(event.data, CheckpointCompleted | CheckpointDeleted):
        yield checkpoints, (team, event.data.checkpoint_id)
    if isinstance(event.data, DeviceAnnounced):
        yield agents, (event.data.agent,)


def apply(rows: Rows, event: StoredEvent) -> None:
    team, thing = event.ref.team, event.ref.id
    match event.data:
        case RunCreated() as data:
            rows.put(runs, {"team": team, "id": thing, "number": data.number, "project_id": data.project_id})
        case JobCreated() as data:
            rows.change(runs, team, thing, canvas=data.spec.get("canvas"), asset_id=data.asset_id)
        case LeaseGranted() as data:
            rows.change(runs, team, thing, agent=data.agent)
        case RunDeleted():
            rows.delete(runs, team, thing)
        case CheckpointCompleted() as data:
            run = rows.get(runs, team, thing) or {}
            rows.put(
                checkpoints,
                {
                    "team": team,
                    "id": data.checkpoint_id,
                    "run_id": thing,
                    "position": event.position,
                    "global_step": data.global_step,
                    "training_epoch": data.training_epoch,
                    "files": [asdict(file) for file in data.files],
                    "monitored": data.monitored,
                    "canvas": run.get("canvas"),
                    "asset_id": run.get("asset_id"),
                    "agent": run.get("agent"),
                },
            )
        case CheckpointDeleted() as data:
            rows.delete(checkpoints, team, data.checkpoint_id)
        case DeviceAnnounced() as data:
            rows.put(agents, {"agent": data.agent, "host": data.host})
        case AssetBuildRequested() as data:
            rows.put(trained_on, {"team": team, "id": thing, "name": data.name, "features": {}, "lookahead": False})
        case AssetChecked() as data:
            rows.change(trained_on, team, thing, lookahead=bool(data.certificate.get("lookahead")))
        case AssetBuilt() as data:
            rows.change(trained_on, team, thing, features=data.features)
        case AssetRemoved():
            rows.delete(trained_on, team, thing)
        case _:
            pass  # the rest says nothing of models
