"""`tapeline run`: training runs."""

from __future__ import annotations

import json as json_module
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import OPTIONS, Json, Yes

app = group("Training runs.")
Name = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or its number.")]
Many = list[str] | None
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def span(text: str) -> timedelta:
    """A length of time such as `90s`, `10m`, `2h`."""
    if text[-1:] in _SPANS and text[:-1].replace(".", "", 1).isdigit():
        return timedelta(seconds=float(text[:-1]) * _SPANS[text[-1]])
    raise typer.BadParameter(f"{text!r} is not a length of time; write 90s, 10m or 2h")


def document_of(path: Path) -> dict[str, Any]:
    """The object in a JSON or TOML file."""
    text = path.read_text(encoding="utf-8")
    try:
        found = tomllib.loads(text) if path.suffix == ".toml" else json_module.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is neither JSON nor TOML: {error}") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{path} holds no object")
    return found


def shown(run: Any) -> dict[str, Any]:
    """A run's fields that are set."""
    return {name: value for name, value in run if value is not None}


@app.command()
def create(
    file: Annotated[Path, typer.Option("-f", "--file", help="JSON or TOML with the arguments of create_run.")],
    json: Json = False,
) -> None:
    """Create and submit a run."""
    from tapeline import sdk as tl

    given = document_of(file)
    if "blueprint" in given:
        given["blueprint_id"] = tl.lookup_blueprint_id(str(given.pop("blueprint")))
    given.setdefault("project_id", "default")
    given.setdefault("resources", {"cpu": "1", "memory": "1Gi"})
    run = tl.Run.from_id(tl.create_run(**given))
    if output.wants_json(json):
        return output.document(shown(run))
    output.said(f"run {run.number} {run.id} {run.status}")


@app.command()
def ls(
    blueprint_id: Annotated[Many, typer.Option()] = None,
    created_after: Annotated[datetime | None, typer.Option()] = None,
    created_before: Annotated[datetime | None, typer.Option()] = None,
    id: Annotated[Many, typer.Option()] = None,
    id_after: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(help="0 for all.")] = 10,
    offset: Annotated[int, typer.Option()] = 0,
    name_ilike: Annotated[Many, typer.Option("--name", help="Pattern with % and _.")] = None,
    project_id: Annotated[Many, typer.Option("--project")] = None,
    sort: Annotated[Many, typer.Option(help="created_at:desc, id:asc, ...")] = None,
    status: Annotated[Many, typer.Option()] = None,
    task_type: Annotated[Many, typer.Option()] = None,
    version: Annotated[Many, typer.Option()] = None,
    user_id: Annotated[Many, typer.Option("--user")] = None,
    json: Json = False,
) -> None:
    """List runs, newest first."""
    from tapeline import sdk as tl

    filters: dict[str, Any] = {
        "blueprint_ids": blueprint_id, "ids": id, "name_ilikes": name_ilike, "project_ids": project_id,
        "statuses": status, "task_types": task_type, "versions": version, "user_ids": user_id, "sort": sort,
    }  # fmt: skip
    runs = tl.get_runs(
        **{name: value or None for name, value in filters.items()}, created_after=created_after,
        created_before=created_before, id_after=id_after, limit=limit or 2**31, offset=offset,
    )  # fmt: skip
    if output.wants_json(json):
        return output.document([shown(run) for run in runs])
    note = f"{len(runs)} runs; --limit 0 for all" if limit and len(runs) == limit else ""
    output.table(
        ("number", "name", "status", "device", "created", "id"),
        ((run.number, run.name, run.status, run.device, run.created_at, run.id) for run in runs),
        note=note,
    )


@app.command()
def show(run: Name, json: Json = False) -> None:
    """Show a run."""
    from tapeline import sdk as tl

    found = shown(tl.Run.from_id(run))
    if output.wants_json(json):
        return output.document(found)
    output.fields(found)


@app.command()
def events(
    run: Name,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run has ended.")] = False,
    since: Annotated[int, typer.Option(help="Only events after this sequence.")] = 0,
    json: Json = False,
) -> None:
    """Show a run's events in order."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run)
    as_json = output.wants_json(json)
    if follow:
        for event in found.watch(since):
            if as_json:
                output.line(event)
            else:
                print("\t".join(_event(event)), flush=True)
        return
    listed = [event for event in found.get_events(limit=2**31, sort=["sequence:asc"]) if event.sequence > since]
    if as_json:
        return output.document(listed)
    output.table(("sequence", "time", "type", "status", "details"), (_event(event) for event in listed))


def _event(event: Any) -> tuple[str, ...]:
    details = {name: value for name, value in event.details.items() if name != "type" and value not in (None, {}, [])}
    moment = event.created_at.strftime("%Y-%m-%d %H:%M:%S.%fZ")
    text = json_module.dumps(output.plain(details), ensure_ascii=False)
    return str(event.sequence), moment, str(event.details.get("type")), event.status, text[:200]


@app.command()
def metrics(
    run: Name,
    tag: Annotated[Many, typer.Option(help="Only this tag; may be repeated.")] = None,
    points: Annotated[int, typer.Option(help="At most so many, the newest; 0 for the last of each tag.")] = 0,
    json: Json = False,
) -> None:
    """Show a run's metrics: the last point of each tag, or points."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run)
    if points:
        rows = found.get_metrics(tags=tag or None, limit=points)
    else:
        rows = [point for name, point in sorted(found.latest().items()) if not tag or name in tag]
    if output.wants_json(json):
        return output.document(rows)
    output.table(("tag", "step", "value", "time"), ((p.tag, p.global_step, p.value, p.created_at) for p in rows))


@app.command()
def verify(run: Name, json: Json = False) -> None:
    """Compare what is stored of each attempt's metrics with what its end told; exit 5 when they differ."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run).verify()
    if output.wants_json(json):
        output.document([one.__dict__ for one in found])
    else:
        output.table(
            ("attempt", "batches", "stored", "told", "refused", "ok"),
            ((one.attempt, one.batches, one.stored, one.told, one.refused, one.is_whole) for one in found),
        )
    if not all(one.is_whole for one in found):
        raise typer.Exit(5)


@app.command()
def stop(
    run: Name,
    grace: Annotated[str | None, typer.Option(help="Kill it after: 90s, 10m.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Come back when it has ended.")] = False,
    json: Json = False,
) -> None:
    """Ask a run to end at its next batch."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run)
    found.stop(span(grace) if grace else None)
    if wait:
        found.wait()
    _told(found, json)
    if wait and found.status not in ("job_completed", "job_terminated"):
        raise typer.Exit(1)


@app.command()
def pause(run: Name, grace: Annotated[str | None, typer.Option()] = None, json: Json = False) -> None:
    """Stop a run after a checkpoint, to be resumed."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run)
    found.pause(span(grace) if grace else None)
    _told(found, json)


@app.command()
def resume(
    run: Name,
    from_checkpoint: Annotated[str, typer.Option("--from")] = "latest",
    device: Annotated[str | None, typer.Option()] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    json: Json = False,
) -> None:
    """Go on from the last complete checkpoint."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run)
    found.resume(from_checkpoint=from_checkpoint, device=device, epochs=epochs)
    _told(found, json)


@app.command()
def restart(
    run: Name,
    from_checkpoint: Annotated[str | None, typer.Option("--from")] = None,
    device: Annotated[str | None, typer.Option()] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    json: Json = False,
) -> None:
    """Begin a new attempt of a run that has ended."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run)
    found.restart(from_checkpoint=from_checkpoint, device=device, epochs=epochs)
    _told(found, json)


@app.command()
def rm(
    run: Name, stop: Annotated[bool, typer.Option("--stop", help="Stop a live one first.")] = False, yes: Yes = False
) -> None:
    """Remove a run."""
    from tapeline import sdk as tl

    output.confirmed(f"Remove run {run}?", yes)
    tl.Run.from_id(run).delete(stop=stop)


@app.command()
def tail(run: Name, json: Json = False) -> None:
    """Draw a run's progress until it has ended."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run)
    found.follow(quiet=OPTIONS.quiet)
    _ended(found, json)


@app.command()
def wait(run: Name, timeout: Annotated[str | None, typer.Option()] = None, json: Json = False) -> None:
    """Wait until a run has ended."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run)
    found.wait(span(timeout).total_seconds() if timeout else None)
    _ended(found, json)


def _told(run: Any, json: bool) -> None:
    if output.wants_json(json):
        return output.document(shown(run))
    output.said(f"run {run.number} {run.status}")


def _ended(run: Any, json: bool) -> None:
    _told(run, json)
    if run.status != "job_completed":
        raise typer.Exit(1)


@app.command()
def copy(
    run: Name,
    name: Annotated[str | None, typer.Option(help="By default that of the run with _copy.")] = None,
    project: Annotated[str | None, typer.Option()] = None,
    if_exists: Annotated[str, typer.Option(help="raise, rename or overwrite.")] = "raise",
    json: Json = False,
) -> None:
    """Copy a run that has ended, with everything but checkpoints."""
    from tapeline import sdk as tl

    chosen: Any = if_exists
    _told(tl.Run.from_id(run).copy(name, project, if_exists=chosen), json)


@app.command()
def fork(
    run: Name,
    from_checkpoint: Annotated[str, typer.Option("--from")] = "latest",
    name: Annotated[str | None, typer.Option(help="By default that of the run with _fork.")] = None,
    json: Json = False,
) -> None:
    """Make a run with the same config that starts from a checkpoint of this one."""
    from tapeline import sdk as tl

    _told(tl.Run.from_id(run).fork(from_checkpoint, name=name), json)


@app.command()
def record(run: Name, json: Json = False) -> None:
    """Show a run's inputs, outputs, parameters and metrics tables."""
    from tapeline import sdk as tl

    found = tl.Run.from_id(run)
    kept = found.constants | {"metrics": found.metrics}
    if output.wants_json(json):
        return output.document(kept)
    output.fields(kept)
