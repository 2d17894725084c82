"""Verbs of users on what runs keep: inputs, outputs, parameters, metrics tables; copies and forks."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.artifacts import ArtifactView
from tapeline.contracts.message import Accepted, Answer, Command
from tapeline.contracts.records import (
    AddMetricsTable,
    AddRunInput,
    AddRunOutput,
    AttachMetricsTables,
    CopyRun,
    ForkRun,
    GetMetricsTable,
    GetRunRecord,
    MetricsTableView,
    RemoveMetricsTables,
    RunCopied,
    RunForked,
    RunRecordView,
    SetRunParameters,
    TablesView,
)
from tapeline.contracts.runs import FINISHED, DeleteRun, RunView, Status
from tapeline.decider import Step
from tapeline.errors import TapelineError
from tapeline.ids import born_of
from tapeline.log.metrics import MetricsStream
from tapeline.runs.births import project
from tapeline.runs.record import measured, queries
from tapeline.runs.run import aggregate
from tapeline.runs.run.commands import BearCopy, BearFork, KeepTables
from tapeline.runs.run.handlers import Desk
from tapeline.runs.run.views import view_of
from tapeline.subjects import Principal, Ref, table_of
from tapeline.uploads import Uploads


@dataclass(slots=True, kw_only=True)
class Shelf:
    """What the verbs of this module work with besides the desk."""

    uploads: Uploads
    metrics: MetricsStream


def add_verbs(verbs: Verbs, desk: Desk, shelf: Shelf) -> None:
    """Register the verbs."""
    _add_values(verbs, desk)
    _add_tables(verbs, desk, shelf)
    _add_births(verbs, desk, shelf)


def _add_values(verbs: Verbs, desk: Desk) -> None:
    @verbs.user("add_input")
    async def add_input(caller: Principal, request: AddRunInput) -> Accepted[RunView]:
        return await desk.command(caller, request.run, request)

    @verbs.user("add_output")
    async def add_output(caller: Principal, request: AddRunOutput) -> Accepted[RunView]:
        return await desk.command(caller, request.run, request)

    @verbs.user("set_parameters")
    async def set_parameters(caller: Principal, request: SetRunParameters) -> Accepted[RunView]:
        return await desk.command(caller, request.run, request)

    @verbs.user("record")
    async def record(caller: Principal, request: GetRunRecord) -> Answer[RunRecordView]:
        view = await desk.reader.at(request.min_position, queries.record, caller.team, request.run)
        return answered(view, desk.reader.projector.position, desk.log_id)


def _add_tables(verbs: Verbs, desk: Desk, shelf: Shelf) -> None:
    @verbs.user("add_table")
    async def add_table(caller: Principal, request: AddMetricsTable) -> Accepted[TablesView]:
        ref = await desk.resolve(caller, request, request.run)
        table_id = born_of(request.command_id or "", "metrics table")
        known = (await desk.deciders.state(aggregate, ref)).tables.get(table_id)
        if known is None:
            path = shelf.uploads.path(caller.team, request.sha256)
            foreign_rows = None
            if request.foreign_table_url is not None:
                foreign_rows = await _rows_of(caller, request, request.foreign_table_url)
            try:
                rows, columns = await asyncio.to_thread(_examined, path, foreign_rows)
            except TapelineError:
                shelf.uploads.forget(caller.team, request.sha256)
                raise
            sha256, size = await desk.store.put(path)
            if sha256 != request.sha256:
                raise TapelineError("the upload changed while it was looked at", code="corrupt", hint="upload it again")
            view = MetricsTableView(
                id=table_id,
                run_id=ref.id,
                name=request.name,
                rows=rows,
                columns=columns,
                file=ArtifactView(name=f"{table_id}.h5", size_bytes=size, sha256=sha256),
                stream_name=request.stream_name,
                foreign_table_url=request.foreign_table_url,
                foreign_table_display_name=request.foreign_table_display_name,
                created_at=request.at,
            )
        else:
            view = _view(ref, known)
        outcome = await desk.ask(caller, ref, KeepTables(tables=[view], command_id=request.command_id))
        shelf.uploads.forget(caller.team, request.sha256)
        return accepted(outcome, TablesView(tables=[view]), desk.log_id)

    async def _rows_of(caller: Principal, request: Command, url: str) -> int:
        team, kind, *names = table_of(url)
        if team != caller.team:
            raise TapelineError(
                f"{url} is of team {team!r}", code="invalid", hint=f"name a table of team {caller.team!r}"
            )
        if kind == "assets":
            return await desk.reader.at(request.min_position, queries.asset_rows, caller.team, *names)
        return (await desk.reader.at(request.min_position, queries.table, caller.team, names[0])).rows

    @verbs.user("attach_tables")
    async def attach_tables(caller: Principal, request: AttachMetricsTables) -> Accepted[TablesView]:
        ref = await desk.resolve(caller, request, request.run)
        known = (await desk.deciders.state(aggregate, ref)).tables
        views = []
        for table_id in dict.fromkeys(request.tables):
            if table_id in known:
                views.append(_view(ref, known[table_id]))
                continue
            found = await desk.reader.at(request.min_position, queries.table, caller.team, table_id)
            views.append(found.model_copy(update={"run_id": ref.id, "created_at": request.at}))
        outcome = await desk.ask(caller, ref, KeepTables(tables=views, command_id=request.command_id))
        return accepted(outcome, TablesView(tables=views), desk.log_id)

    @verbs.user("remove_tables")
    async def remove_tables(caller: Principal, request: RemoveMetricsTables) -> Accepted[TablesView]:
        ref = await desk.resolve(caller, request, request.run)
        known = (await desk.deciders.state(aggregate, ref)).tables
        views = [_view(ref, known[one]) for one in dict.fromkeys(request.tables) if one in known]
        return accepted(await desk.ask(caller, ref, request), TablesView(tables=views), desk.log_id)

    @verbs.user("table")
    async def table(caller: Principal, request: GetMetricsTable) -> Answer[MetricsTableView]:
        view = await desk.reader.at(request.min_position, queries.table, caller.team, request.table)
        return answered(view, desk.reader.projector.position, desk.log_id)


def _view(ref: Ref, known: Any) -> MetricsTableView:
    fields = asdict(known)
    return MetricsTableView(id=fields.pop("table_id"), run_id=ref.id, **fields)


def _examined(path: Path, foreign_rows: int | None) -> tuple[int, dict[str, Any]]:
    """How many rows a table has, and its columns; refused when it is not what it says."""
    from tapeline.metric_tables import EXAMPLE_ID, TableFile, check_examples

    with TableFile(path, is_foreign=True) as file:
        if foreign_rows is not None:
            if EXAMPLE_ID not in file.columns:
                raise TapelineError(
                    f"the metrics name a foreign table and have no column {EXAMPLE_ID}",
                    code="invalid",
                    hint="write them with Run.add_metrics",
                )
            check_examples(file.column(EXAMPLE_ID), len(file), foreign_rows, is_given=True)
        return len(file), file.columns


def _add_births(verbs: Verbs, desk: Desk, shelf: Shelf) -> None:
    @verbs.user("copy")
    async def copy(caller: Principal, request: CopyRun) -> Accepted[RunView]:
        run_id = born_of(request.command_id or "", "run", caller.team)
        known = await desk.deciders.state(aggregate, Ref(caller.team, "run", run_id))
        source = await desk.reader.at(request.min_position, queries.source, caller.team, request.run)
        status = Status(source.run["status"])
        if status not in FINISHED:
            raise TapelineError(
                f"run r{source.run['number']} is {status.value}; a copy needs one that has ended",
                code="conflict",
                hint=f"stop it first: tapeline run stop {source.run['number']}",
            )
        project_id = project(request.project_id or source.run["project_id"])
        name = request.name or f"{source.run['name'][:240]}_copy"
        steps: list[Step[Any]] = []
        if known.created is not None:
            # Said before: what had the name then is of no account now.
            name = known.created.name
        elif request.if_exists == "rename":
            name = await desk.reader.at(None, queries.free_name, caller.team, name, project_id)
        else:
            steps = await _cleared(caller, request, name, project_id)
        if known.created is None:
            last = await measured.copied(shelf.metrics, desk.store, caller.team, source.run["id"], run_id)
            desk.intake.position = max(desk.intake.position, last)
        copied = RunCopied(
            source=source.run["id"],
            source_sequence=source.sequence,
            status=status.value,
            attempt=source.run["attempt"],
            starts=source.starts,
            inputs=source.record.inputs,
            outputs=source.record.outputs,
            parameters=source.record.parameters,
        )
        birth = _birth(source.run, name=name, project_id=project_id, user=caller.user)
        birth |= {"copied": copied, "tables": source.record.tables}
        _, outcome = await desk.bear(caller, request, birth, kind=BearCopy, more=steps)
        return accepted(outcome, view_of(run_id, outcome.state), desk.log_id)

    async def _cleared(caller: Principal, request: CopyRun, name: str, project_id: str) -> list[Step[Any]]:
        """What makes room for a copy of a name: nothing, or the end of the run that has it."""
        other = await desk.reader.at(request.min_position, queries.named, caller.team, name, project_id)
        if other is None:
            return []
        if request.if_exists == "raise":
            raise TapelineError(
                f"run r{other['number']} of project {project_id!r} is called {name!r} already",
                code="already_exists",
                hint='give another name, or if_exists="rename"',
            )
        ended = DeleteRun(run=other["id"])
        return [Step(decider=aggregate, ref=Ref(caller.team, "run", other["id"]), command=ended)]

    @verbs.user("fork")
    async def fork(caller: Principal, request: ForkRun) -> Accepted[RunView]:
        ref = await desk.resolve(caller, request, request.run)
        run = await desk.deciders.state(aggregate, ref)
        born = run.created
        if born is None:
            raise TapelineError("no such run", code="not_found", data={"kind": "run"})
        found = run.latest_checkpoint()
        if request.from_checkpoint != "latest":
            found = run.checkpoints.get(request.from_checkpoint)
        if found is None or not found.is_complete:
            complete = [one.id for one in run.checkpoints.values() if one.is_complete]
            raise TapelineError(
                f"run r{run.number} has no complete checkpoint {request.from_checkpoint!r}",
                code="conflict" if request.from_checkpoint == "latest" else "not_found",
                hint=f"complete ones are: {', '.join(complete[-5:])}" if complete else "it has none",
            )
        forked = RunForked(
            source=ref.id,
            checkpoint_id=found.id,
            global_step=found.global_step,
            files=list(found.files),
        )
        fields = asdict(born) | {"name": request.name or f"{run.name[:240]}_fork", "user": caller.user}
        birth = {key: value for key, value in fields.items() if key != "number"}
        birth |= {"session_name": None, "forked": forked}
        run_id, outcome = await desk.bear(caller, request, birth, kind=BearFork)
        return accepted(outcome, view_of(run_id, outcome.state), desk.log_id)


def _birth(run: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What a copy of a run is born with."""
    names = ("version", "blueprint_id", "task_type", "resources", "config", "notes", "priority")
    return {name: run[name] for name in names} | {"device": run["wanted_device"], "session_name": None} | changes
