"""What a run is born with, checked before anything is stored: its config, canvas, asset and names."""

from __future__ import annotations

import unicodedata
from typing import Any

from sqlalchemy import Connection

from tapeline.contracts.metrics import StartRun
from tapeline.contracts.runs import CreateRun, TrainCanvas
from tapeline.errors import TapelineError
from tapeline.runs import jobs
from tapeline.runs.blueprint import config as configs
from tapeline.runs.blueprint.builtin import ATTACHED, CANVAS, Blueprint
from tapeline.runs.known import queries as known
from tapeline.runs.quantities import wanted
from tapeline.runs.run import queries
from tapeline.runs.run.aggregate import Run
from tapeline.subjects import is_slug

RESOURCES = {"cpu": "1", "memory": "512Mi"}
"""What a run of `runs.train` asks for."""


def check(request: CreateRun) -> None:
    """Refuse what `runs.create` says that no blueprint would make right; `invalid`, naming what is malformed."""
    for field in ("name", "version", "task_type"):
        _plain(field, getattr(request, field))
    project(request.project_id)
    wanted(request.resources)


def checked(blueprint: Blueprint, request: CreateRun) -> dict[str, Any]:
    """The birth of a run of a blueprint that `runs.create` asks for.

    Raises
    ------
    TapelineError
        `invalid` with every fault of the config.
    """
    if blueprint is ATTACHED:
        raise TapelineError(
            "runs of blueprint 'attached' are born where they are trained",
            code="invalid",
            hint="start one from your script: tl.start(name)",
        )
    configs.checked(blueprint, request.config)
    return request.model_dump(exclude={"command_id", "at", "min_position"})


def of_canvas(connection: Connection, team: str, request: TrainCanvas) -> dict[str, Any]:
    """The birth of a run that `runs.train` asks for: canvas and asset are looked up and pinned.

    Raises
    ------
    TapelineError
        `canvas_invalid` with every fault, `no_asset`, `not_found`, `asset_refused`, `invalid`.
    """
    from tapeline.canvas import rendered, validate

    if (request.canvas is None) == (request.document is None):
        raise TapelineError("either canvas or document says what to train", code="invalid", hint="give one of the two")
    content: Any = request.document
    name = request.canvas
    if name is not None:
        content = known.canvas(connection, team, name)["content"]
    training = content.get("training") if isinstance(content, dict) else None
    training = dict(training) if isinstance(training, dict) else {}
    asset_name = request.asset or request.config.get("asset") or training.get("asset")
    if not isinstance(asset_name, str) or not asset_name:
        # A canvas that is wrong anyway is refused as such first.
        validate(content).require()
        raise TapelineError(
            "the canvas names no asset, and none was given", code="no_asset", hint="set training.asset of the canvas"
        )
    given = training | request.config | {"asset": asset_name}
    asset = known.asset(
        connection, team, asset_name,
        allow_stale=given.get("allow_stale") is not False, acknowledges=given.get("acknowledge_lookahead") is True,
    )  # fmt: skip
    found = jobs.checked_canvas(content, asset).require()
    config = configs.rendered(CANVAS.config_schema, given | {"canvas": rendered(found)})
    configs.checked(CANVAS, config)
    project(request.project_id)
    return {
        "name": name or found.name or "canvas",
        "version": "1",
        "project_id": request.project_id,
        "blueprint_id": CANVAS.id,
        "task_type": "training",
        "resources": dict(RESOURCES),
        "config": config,
        "device": request.device,
        "priority": 0,
        "session_name": request.session_name,
        "notes": request.notes,
    }


def of_script(request: StartRun, device: str, user: str) -> dict[str, Any]:
    """The birth of a run that a user's process trains by itself.

    Raises
    ------
    TapelineError
        `invalid` or `too_large`, naming what is malformed.
    """
    if request.name is None:
        raise TapelineError("the run has no name", code="invalid", hint="give it one: tl.start(name)")
    _plain("name", request.name)
    configs.checked(ATTACHED, request.config)
    return {
        "name": request.name, "version": "1", "project_id": project(request.project_id), "blueprint_id": ATTACHED.id,
        "task_type": "training", "resources": dict(RESOURCES), "config": request.config,
        "device": device, "priority": 0, "session_name": None, "notes": request.notes, "user": user,
    }  # fmt: skip


def session_of(run: Run) -> str:
    """The session name of a run's first attempt."""
    given = run.created.session_name if run.created else None
    return given or jobs.session_name(run.created.name if run.created else "run", run.number)


def check_session(connection: Connection, team: str, session_name: str | None) -> None:
    """Refuse a session name that a live attempt has."""
    if session_name is None:
        return
    holder = queries.live_session(connection, team, session_name)
    if holder is not None:
        raise TapelineError(
            f"session {session_name!r} is that of run r{holder}, which has not ended",
            code="conflict",
            hint="take another session_name, or stop that run",
        )


def _plain(field: str, text: str) -> None:
    if not text.isprintable() and any(unicodedata.category(character).startswith("C") for character in text):
        raise TapelineError(f"{field} has a control character", code="invalid", hint="use visible characters")


def project(project_id: str) -> str:
    """The id of a project, checked."""
    if not is_slug(project_id):
        raise TapelineError(
            f"project {project_id!r} is not made of a-z, 0-9, _ and -",
            code="invalid",
            hint="use get_project_id(name)",
        )
    return project_id
