"""The start specification of an attempt: everything that it names is looked up once, here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from tapeline.errors import TapelineError
from tapeline.logs import get_logger
from tapeline.runs.blueprint import config as configs
from tapeline.runs.blueprint import queries as blueprints
from tapeline.runs.blueprint.builtin import CANVAS
from tapeline.runs.known import queries as known
from tapeline.runs.run.aggregate import Checkpoint, Run
from tapeline.runs.run.commands import CreateJob, RefuseJob

if TYPE_CHECKING:
    # The nodes of a canvas take a moment to import: the first run that has one does that.
    from tapeline.canvas import Validation

log = get_logger()

_NOT_A_SESSION = re.compile(r"[^A-Za-z0-9_.-]+")


def session_name(name: str, number: int, attempt: int = 1) -> str:
    """The session name of an attempt that was given none.

    Examples
    --------
    >>> session_name("spy e1", 17), session_name("spy e1", 17, 3)
    ('spy-e1-17', 'spy-e1-17.3')
    """
    plain = _NOT_A_SESSION.sub("-", name).strip("-.") or "run"
    end = f"-{number}" + (f".{attempt}" if attempt > 1 else "")
    return plain[: 64 - len(end)] + end


def checked_canvas(content: Any, asset: dict[str, Any]) -> Validation:
    """A canvas against the features and labels of an asset; refused with all its errors."""
    from tapeline.canvas import LabelColumns, validate

    found = validate(
        content,
        feature_shapes=asset["features"] or {},
        labels={name: LabelColumns.of(*types) for name, types in (asset["labels"] or {}).items()},
    )
    try:
        found.require()
    except TapelineError as error:
        error.hint = error.hint or "tapeline canvas validate lists every fault"
        raise
    return found


def specify(connection: Connection, team: str, run_id: str, run: Run) -> CreateJob | RefuseJob:
    """What the dispatcher asks of a run that wants a job: the whole specification, or why there is none."""
    try:
        return _specified(connection, team, run_id, run)
    except TapelineError as error:
        return RefuseJob(attempt=run.attempt, code=str(error.code), message=error.message, hint=error.hint)
    except (KeyError, TypeError, ValueError) as error:
        # One run that nobody foresaw must not keep the others waiting.
        log.exception("job_not_specified", run=run_id, attempt=run.attempt)
        message = f"the specification failed on its own account: {error!r}"
        return RefuseJob(attempt=run.attempt, code="internal", message=message, hint="the service's log has more")


def _specified(connection: Connection, team: str, run_id: str, run: Run) -> CreateJob:
    if run.created is None:
        raise TapelineError("no such run", code="not_found")
    blueprint = blueprints.find(connection, team, run.created.blueprint_id, removed=True)
    config = configs.rendered(blueprint.config_schema, _changed(run, blueprint.config_schema))
    configs.checked(blueprint, config)
    session = run.session_name or session_name(run.created.session_name or run.name, run.number, run.attempt)
    if run.attempt > 1 and run.session_name is None and run.created.session_name:
        session = f"{run.created.session_name[:60]}.{run.attempt}"
    checkpoint = _source(run)
    # A blueprint of a team need not know of one.
    given = config.get("seed")
    seed = given if isinstance(given, int) else 0
    spec: dict[str, Any] = {
        "blueprint": {"name": blueprint.name, "version": blueprint.version},
        "run": run_id, "team": team, "attempt": run.attempt, "number": run.number, "session_name": session,
        "seed": seed, "config": config, "canvas": None, "asset": None,
        "from_checkpoint": _checkpoint_part(checkpoint),
    }  # fmt: skip
    digests: dict[str, Any] = {}
    if blueprint.name == CANVAS.name:
        from tapeline.canvas import rendered

        asset = known.asset(
            connection, team, config["asset"],
            allow_stale=config["allow_stale"], acknowledges=config["acknowledge_lookahead"],
        )  # fmt: skip
        content = config.pop("canvas")
        if isinstance(content, str):
            content = known.canvas(connection, team, content)["content"]
        found = checked_canvas(content, asset)
        spec["canvas"] = rendered(found.require())
        spec["asset"] = _asset_part(asset)
        digests = {
            "canvas_digest": found.digest, "asset_id": asset["id"], "asset_digest": asset["data_digest"],
        }  # fmt: skip
    return CreateJob(
        attempt=run.attempt,
        session_name=session,
        seed=seed,
        spec=spec,
        from_checkpoint=checkpoint.id if checkpoint else None,
        **digests,
    )


def _changed(run: Run, schema: dict[str, Any]) -> dict[str, Any]:
    """The run's own config, with what a resume has changed, where the blueprint knows of it."""
    config = dict(run.config)
    if run.restart is not None and run.restart.attempt == run.attempt:
        given = {"epochs": run.restart.training_epochs, "smartfit": run.restart.smartfit}
        config |= {key: value for key, value in given.items() if value is not None and key in schema["properties"]}
    return config


def _source(run: Run) -> Checkpoint | None:
    if run.restart is None or run.restart.attempt != run.attempt:
        return run.forked
    if run.restart.from_checkpoint is None:
        # One that restarts by itself goes on from where it began.
        return run.forked if run.restart.auto else None
    found = run.checkpoints.get(run.restart.from_checkpoint)
    if found is None or not found.is_complete:
        raise TapelineError(
            f"checkpoint {run.restart.from_checkpoint} of run r{run.number} is gone",
            code="not_found",
            hint=f"start again from another one: tapeline run restart {run.number}",
        )
    return found


def _checkpoint_part(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    if checkpoint is None:
        return None
    return {
        "id": checkpoint.id,
        "global_step": checkpoint.global_step,
        "files": [
            {"name": file.name, "sha256": file.sha256, "size_bytes": file.size_bytes} for file in checkpoint.files
        ],
    }


def _asset_part(asset: dict[str, Any]) -> dict[str, Any]:
    named = ("id", "name", "datasets", "features", "labels", "stats", "rows")
    return {key: asset[key] for key in named} | {
        "files": [{key: file[key] for key in ("name", "sha256", "size_bytes")} for file in asset["files"]],
        "data_digest": asset["data_digest"],
        **({"stale": True} if asset["status"] == "stale" else {}),
    }


def files_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The artifacts that an agent must have before the child starts."""
    found: list[dict[str, Any]] = []
    for role, part in (("asset", spec.get("asset")), ("checkpoint", spec.get("from_checkpoint"))):
        if part:
            found += [{"role": role, **file} for file in part["files"]]
    return found
