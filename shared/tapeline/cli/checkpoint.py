"""`tapeline checkpoint`: what runs have saved."""

from __future__ import annotations

from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json, Yes

app = group("Checkpoints of runs.")


@app.command()
def ls(
    run: Annotated[str | None, typer.Option(help="Only of this run, by id or number.")] = None,
    status: Annotated[str | None, typer.Option(help="incomplete or complete.")] = None,
    limit: Annotated[int, typer.Option(help="0 for all.")] = 10,
    json: Json = False,
) -> None:
    """List checkpoints, newest first."""
    from tapeline.sdk import checkpoints, runs

    found = checkpoints.find(
        None, run_ids=[str(runs.find(run).id)] if run else None, statuses=[status] if status else None,
        limit=limit or 2**31,
    )  # fmt: skip
    if output.wants_json(json):
        return output.document(found)
    output.table(
        ("id", "run", "step", "epoch", "status", "pinned", "created"),
        ((c.id, c.run_id, c.global_step, c.training_epoch, c.status, c.pinned, c.created_at) for c in found),
    )


@app.command()
def download(checkpoint: str, folder: str) -> None:
    """Put the files of a checkpoint into a folder."""
    from tapeline import sdk as tl

    tl.download_checkpoint(checkpoint, folder)
    output.said(f"checkpoint {checkpoint} is in {folder}")


@app.command()
def rm(
    checkpoint: Annotated[list[str] | None, typer.Argument()] = None,
    run: Annotated[list[str] | None, typer.Option(help="All of this run.")] = None,
    yes: Yes = False,
) -> None:
    """Delete checkpoints."""
    from tapeline import sdk as tl

    output.confirmed(f"Delete checkpoints {', '.join([*(checkpoint or []), *(run or [])])}?", yes)
    run_ids = [str(tl.Run.from_id(each).id) for each in run or []]
    tl.delete_checkpoints(ids=checkpoint or None, run_ids=run_ids or None)


@app.command()
def pin(checkpoint: str) -> None:
    """Keep a checkpoint whatever the retention says."""
    from tapeline import sdk as tl

    tl.Checkpoint(id=checkpoint).pin()


@app.command()
def unpin(checkpoint: str) -> None:
    """Let the retention delete a checkpoint again."""
    from tapeline import sdk as tl

    tl.Checkpoint(id=checkpoint).pin(False)


@app.command()
def promote(
    checkpoint: str,
    name: Annotated[str, typer.Option(help="Name in the vault.")],
    version: Annotated[str, typer.Option(help="SemVer.")] = "1.0.0",
    summary: Annotated[str, typer.Option()] = "",
    project: Annotated[str | None, typer.Option()] = None,
    json: Json = False,
) -> None:
    """Make a vault item of a checkpoint."""
    from tapeline import sdk as tl

    made = tl.create_model_from_checkpoint(
        checkpoint_id=checkpoint, name=name, version=version, summary=summary, project_id=project
    )
    if output.wants_json(json):
        return output.document({"id": made, "name": name, "version": version})
    output.said(f"vault item {name} {made}")
