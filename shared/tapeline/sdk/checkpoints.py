"""Checkpoints of runs: list, download, delete, promote into the vault."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr

from tapeline.errors import ConflictError, NotFoundError
from tapeline.sdk import arguments
from tapeline.sdk.client import client_of
from tapeline.sdk.records import BaseModelWithDatetime, Moment

Select = Literal["id", "created_at", "run_id", "project_id", "global_step", "status", "status_updated_at"]
Sort = Literal["id:asc", "id:desc", "created_at:asc", "created_at:desc"]
SELECTS: tuple[str, ...] = Select.__args__  # type: ignore[attr-defined]


class Checkpoint(BaseModelWithDatetime):
    """A checkpoint; `bucket_name` and `key_prefix` describe its place and grant no access.

    Examples
    --------
    >>> checkpoint = get_checkpoints(project_ids=["my_project"], statuses=["complete"])[0]
    >>> checkpoint.key_prefix
    'sha256/...'
    >>> checkpoint.create_model(name="checked", version="1.0", summary="")
    Traceback (most recent call last):
    ...
    tapeline.errors.ValidationError: (422) ...
    """

    id: str | None = None
    run_id: str | None = None
    global_step: int | None = None
    project_id: str | None = None
    created_at: Moment | None = None
    status: str | None = None
    status_updated_at: Moment | None = None
    bucket_name: str | None = None
    key_prefix: str | None = None
    training_epoch: int | None = None
    attempt: int | None = None
    monitored: dict[str, float] | None = None
    files: list[dict[str, Any]] | None = None
    pinned: bool | None = None
    _team: str | None = PrivateAttr(default=None)

    def create_model(
        self,
        *,
        name: str,
        version: str,
        summary: str,
        project_id: str | None = None,
        command_id: str | None = None,
    ) -> str:
        """Promote this checkpoint to a vault item; the item's id."""
        if not self.id:
            raise arguments.BadValue(
                "id is not set on this checkpoint", hint="get it by get_checkpoints, with its id selected"
            )
        return _promote(self._team, self.id, name, version, summary, project_id, command_id)

    def pin(self, pinned: bool = True, *, command_id: str | None = None) -> None:
        """Keep this checkpoint whatever the retention says, or no longer."""
        if not self.id:
            raise arguments.BadValue(
                "id is not set on this checkpoint", hint="get it by get_checkpoints, with its id selected"
            )
        client_of(self._team).command("runs", "pin", checkpoint=self.id, pinned=pinned, command_id=command_id)
        self.pinned = pinned


def find(
    team: str | None,
    *,
    ids: list[str] | None = None,
    run_ids: list[str] | None = None,
    project_ids: list[str] | None = None,
    global_steps: list[int] | None = None,
    statuses: Any = None,
    created_before: datetime | None = None,
    created_after: datetime | None = None,
    select: Any = None,
    sort: Any = None,
    limit: int | None = None,
    offset: int | None = None,
) -> list[Checkpoint]:
    """Checkpoints of a team that match every filter given."""
    wanted = arguments.count("limit", limit, 10)
    first = arguments.count("offset", offset, 0)
    lists = arguments.given(
        ids=arguments.texts("ids", ids),
        run_ids=arguments.texts("run_ids", run_ids),
        project_ids=arguments.texts("project_ids", project_ids),
        global_steps=arguments.ints("global_steps", global_steps),
        statuses=arguments.some_of("status", statuses, ("incomplete", "complete")),
    )
    others = arguments.given(
        created_before=arguments.moment("created_before", created_before),
        created_after=arguments.moment("created_after", created_after),
        select=arguments.selected(select, SELECTS),
        sort=arguments.sorts(sort, ["id", "created_at"]),
    )
    if wanted == 0 or arguments.matches_nothing(*lists.values()):
        return []
    client = client_of(team)

    def page(size: int, start: int) -> dict[str, Any]:
        return dict(client.query("runs", "checkpoints", limit=size, offset=start, **lists, **others))

    found = []
    for view in arguments.paged(page, wanted, first):
        known = {key: value for key, value in view.items() if key in Checkpoint.model_fields and value is not None}
        made = Checkpoint(**known)
        made._team = team
        found.append(made)
    return found


def get_checkpoints(
    *,
    ids: list[str] | None = None,
    run_ids: list[str] | None = None,
    project_ids: list[str] | None = None,
    global_steps: list[int] | None = None,
    statuses: list[Literal["incomplete", "complete"]] | None = None,
    created_before: datetime | None = None,
    created_after: datetime | None = None,
    select: list[Select] | None = None,
    sort: list[Sort] | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> list[Checkpoint]:
    """Checkpoints that match every filter given, newest first, ten of them unless `limit` says otherwise."""
    return find(
        None, ids=ids, run_ids=run_ids, project_ids=project_ids, global_steps=global_steps, statuses=statuses,
        created_before=created_before, created_after=created_after, select=select, sort=sort, limit=limit,
        offset=offset,
    )  # fmt: skip


def delete_checkpoints(
    *, ids: list[str] | None = None, run_ids: list[str] | None = None, command_id: str | None = None
) -> None:
    """Delete checkpoints by id, by run, or by both; all or none.

    Raises
    ------
    ValueError
        Neither is a non-empty list.
    ConflictError
        One of them is pinned, or the newest complete one of a live run.
    """
    if not ids and not run_ids:
        raise arguments.BadValue(
            "ids or run_ids must be a non-empty list", hint="name the checkpoints, or the runs whose checkpoints go"
        )
    fields = arguments.given(ids=arguments.texts("ids", ids), run_ids=arguments.texts("run_ids", run_ids))
    client_of().command("runs", "delete_checkpoints", command_id=command_id, **fields)


def download_checkpoint(id: str, file_dir: str) -> None:
    """Put the files of a complete checkpoint into a folder that exists; each is checked by its hash.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        There is no such folder.
    FileExistsError
        A different file of that name is there.
    ConflictError
        The checkpoint is incomplete.
    """
    from tapeline.sdk import artifacts

    folder = Path(file_dir)
    if not folder.exists():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    found = find(None, ids=[arguments.name("id", id)], limit=1)
    if not found:
        raise NotFoundError.of("not_found", f"no checkpoint has the id {id!r}", hint="tapeline checkpoint ls")
    checkpoint = found[0]
    if checkpoint.status != "complete":
        raise ConflictError.of("conflict", f"checkpoint {id} is {checkpoint.status}", hint="wait until it is complete")
    client = client_of()
    for file in checkpoint.files or []:
        target = folder / artifacts.safe_name(file["name"])
        if target.exists() and artifacts.digest_of(target)[0] != file["sha256"]:
            raise FileExistsError(f"{target} exists and is a different file")
    for file in checkpoint.files or []:
        artifacts.fetch(client, "runs", file, folder)


def create_model_from_checkpoint(
    *,
    checkpoint_id: str,
    name: str,
    version: str,
    summary: str,
    project_id: str | None = None,
    command_id: str | None = None,
) -> str:
    """Promote a checkpoint to a vault item; the item's id.

    Raises
    ------
    ValidationError
        `version` is no SemVer 2.0.0.
    AlreadyExistsError
        The name is taken.
    """
    return _promote(
        None, arguments.name("checkpoint_id", checkpoint_id), name, version, summary, project_id, command_id
    )


def _promote(
    team: str | None,
    checkpoint_id: str,
    name: str,
    version: str,
    summary: str,
    project_id: str | None,
    command_id: str | None,
) -> str:
    arguments.semver(version)
    reply = client_of(team).command(
        "vault", "add", name=arguments.name("name", name), version=version, summary=summary,
        checkpoint_id=checkpoint_id, command_id=command_id, **arguments.given(project_id=project_id),
    )  # fmt: skip
    return str(reply.view["id"])


__all__ = [
    "Checkpoint", "create_model_from_checkpoint", "delete_checkpoints", "download_checkpoint", "get_checkpoints",
]  # fmt: skip
