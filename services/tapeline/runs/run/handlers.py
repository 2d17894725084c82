"""Verbs of users on runs, checkpoints and measurements."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.artifacts import PartView, ReadArtifact
from tapeline.contracts.message import Accepted, Answer, Command, Page
from tapeline.contracts.metrics import (
    AttemptMetricsView,
    ColumnsView,
    ListAttempts,
    ReadColumns,
    ReadSeries,
    SeriesView,
)
from tapeline.contracts.runs import (
    CheckpointView,
    CountRuns,
    CountView,
    CreateRun,
    DeleteCheckpoints,
    DeletedView,
    DeleteRun,
    EventView,
    GetRun,
    LatestMetrics,
    ListCheckpoints,
    ListEvents,
    ListMetrics,
    ListRuns,
    MetricView,
    PauseRun,
    PinCheckpoint,
    RenameRun,
    RestartRun,
    ResumeRun,
    RunView,
    SessionView,
    SetNotes,
    StopRun,
    TrainCanvas,
)
from tapeline.decider import Deciders, Outcome, Step, origin_of
from tapeline.errors import TapelineError
from tapeline.ids import born_of
from tapeline.metric_archives import Files
from tapeline.projections import Projector, Reader
from tapeline.runs import births, schedule
from tapeline.runs.blueprint.builtin import Blueprint
from tapeline.runs.blueprint.queries import find as find_blueprint
from tapeline.runs.blueprint.tables import blueprints
from tapeline.runs.device.presence import Presence
from tapeline.runs.device.queries import devices_of
from tapeline.runs.leases import Leases
from tapeline.runs.metrics import queries as metric_queries
from tapeline.runs.metrics import series as metric_series
from tapeline.runs.metrics.archived import with_objects
from tapeline.runs.metrics.intake import Intake
from tapeline.runs.pages import page_of
from tapeline.runs.run import aggregate, queries
from tapeline.runs.run.commands import BearRun, DropCheckpoints, Pin
from tapeline.runs.run.numbers import Numbers
from tapeline.runs.run.views import view_of
from tapeline.store import ArtifactStore
from tapeline.subjects import Principal, Ref

T = TypeVar("T")
DELETE_WAIT_S = 20.0


@dataclass(slots=True, kw_only=True)
class Desk:
    """What the verbs of users work with."""

    deciders: Deciders
    reader: Reader
    store: ArtifactStore
    leases: Leases
    presence: Presence
    intake: Intake
    measured: Projector
    log_id: str
    numbers: Numbers
    files: Files

    async def resolve(self, caller: Principal, command: Command, name: str, *, deleted: bool = False) -> Ref:
        """The run that a command names by id or number, as of the position that its sender has seen."""
        ref = Ref(caller.team, "run", name)
        if self.deciders.knows(ref):
            # Its own history is at hand, and never behind what its sender has seen of this copy.
            run: aggregate.Run = await self.deciders.state(aggregate, ref, fresh=False)
            if run.created is not None and (deleted or not run.is_deleted):
                return ref
        row = await self.reader.at(command.min_position, queries.resolve, caller.team, name, deleted=deleted)
        return Ref(caller.team, "run", row["id"])

    async def ask(self, caller: Principal, ref: Ref, command: Command) -> Outcome[aggregate.Run]:
        """Run a command of a user on a run."""
        return await self.deciders.handle(aggregate, ref, command, origin_of(caller.actor, command.command_id))

    async def command(self, caller: Principal, name: str, command: Command) -> Accepted[RunView]:
        """Run a command of a user on the run that it names, and answer with the run."""
        ref = await self.resolve(caller, command, name)
        outcome = await self.ask(caller, ref, command)
        return accepted(outcome, view_of(ref.id, outcome.state), self.log_id)

    async def points_at(self, min_position: int | None, question: Callable[[Connection], T]) -> T:
        """What a question about points finds, with the objects of the artifact store that it needs."""
        await self.measurements_in()
        return await with_objects(self.files, lambda: self.reader.at(min_position, question))

    async def measurements_in(self) -> None:
        """Wait until every batch that was taken in here is in the tables: who saw a run end sees all it measured."""
        if self.intake.position > self.measured.position:
            await self.measured.wait_for(self.intake.position)

    def check_places(self, connection: Connection, team: str, device: str | None, session: str | None) -> None:
        """Refuse a device that no agent of the team has, and a session name that a live attempt has."""
        if device is not None and device not in schedule.SELECTORS:
            schedule.check_selector(device, devices_of(connection, team, self.presence, self.leases))
        births.check_session(connection, team, session)

    async def blueprint(self, min_position: int | None, team: str, blueprint_id: str) -> Blueprint:
        """A blueprint that is not removed; `not_found` names those that there are."""
        return await self.reader.kept(min_position, blueprints.name, find_blueprint, team, blueprint_id)

    async def bear(
        self,
        caller: Principal,
        command: Command,
        birth: dict[str, Any],
        *,
        kind: type[BearRun] = BearRun,
        more: Sequence[Step[Any]] = (),
    ) -> tuple[str, Outcome[aggregate.Run]]:
        """Give birth to a run with the team's next number, and whatever else is asked with it."""
        run_id = born_of(command.command_id or "", "run", caller.team)
        ref = Ref(caller.team, "run", run_id)
        # Most births are the first of their command: the log says of the others that they are there, with their number.
        known = await self._number(ref)
        number = known or await self.numbers.take(caller.team, run_id)
        outcome, *_ = await self.deciders.handle_together(
            [Step(decider=aggregate, ref=ref, command=kind(number=number, **birth), is_birth=not known), *more],
            origin_of(caller.actor, command.command_id),
        )
        if outcome.state.number != number:
            self.numbers.give_back(caller.team, number)
        return run_id, outcome

    async def _number(self, ref: Ref) -> int:
        """The number of a run that is born, 0 for one of which nothing is known here."""
        if not self.deciders.knows(ref):
            return 0
        known: aggregate.Run = await self.deciders.state(aggregate, ref)
        return known.number


def add_verbs(verbs: Verbs, desk: Desk) -> None:
    """Register the verbs of users on runs."""
    _add_births(verbs, desk)
    _add_commands(verbs, desk)
    _add_queries(verbs, desk)
    _add_checkpoints(verbs, desk)


def _add_births(verbs: Verbs, desk: Desk) -> None:
    @verbs.user("create")
    async def create(caller: Principal, request: CreateRun) -> Accepted[RunView]:
        births.check(request)
        try:
            # A blueprint that is there stays.
            blueprint = await desk.blueprint(None, caller.team, request.blueprint_id)
        except TapelineError:
            # What is missing may be in what the tables have not folded yet.
            blueprint = await desk.blueprint(request.min_position, caller.team, request.blueprint_id)
        birth = births.checked(blueprint, request)
        if request.device not in schedule.SELECTORS or request.session_name is not None:
            await desk.reader.at(
                request.min_position, desk.check_places, caller.team, request.device, request.session_name
            )
        run_id, outcome = await desk.bear(caller, request, birth | {"user": caller.user})
        return accepted(outcome, view_of(run_id, outcome.state), desk.log_id)

    @verbs.user("train")
    async def train(caller: Principal, request: TrainCanvas) -> Accepted[SessionView]:
        def asked(connection: Connection) -> dict[str, Any]:
            birth = births.of_canvas(connection, caller.team, request)
            desk.check_places(connection, caller.team, request.device, request.session_name)
            return birth

        birth = await desk.reader.at(request.min_position, asked)
        run_id, outcome = await desk.bear(caller, request, birth | {"user": caller.user})
        run = outcome.state
        view = SessionView(run_id=run_id, number=run.number, session_name=births.session_of(run))
        return accepted(outcome, view, desk.log_id)


def _add_commands(verbs: Verbs, desk: Desk) -> None:
    @verbs.user("stop")
    async def stop(caller: Principal, request: StopRun) -> Accepted[RunView]:
        return await desk.command(caller, request.run, request)

    @verbs.user("pause")
    async def pause(caller: Principal, request: PauseRun) -> Accepted[RunView]:
        return await desk.command(caller, request.run, request)

    @verbs.user("resume")
    async def resume(caller: Principal, request: ResumeRun) -> Accepted[RunView]:
        await _check_next(caller, request, request.device, request.session_name)
        return await desk.command(caller, request.run, request)

    @verbs.user("restart")
    async def restart(caller: Principal, request: RestartRun) -> Accepted[RunView]:
        await _check_next(caller, request, request.device, request.session_name)
        return await desk.command(caller, request.run, request)

    async def _check_next(caller: Principal, request: Command, device: str | None, session: str | None) -> None:
        await desk.reader.at(request.min_position, desk.check_places, caller.team, device, session)

    @verbs.user("delete")
    async def delete(caller: Principal, request: DeleteRun) -> Accepted[RunView]:
        ref = await desk.resolve(caller, request, request.run, deleted=True)
        outcome = await desk.ask(caller, ref, request)
        if outcome.state.is_deleted or not request.stop:
            return accepted(outcome, view_of(ref.id, outcome.state), desk.log_id)
        # The run is asked to stop; it can go once its agent has let it go.
        deadline = asyncio.get_running_loop().time() + DELETE_WAIT_S
        while not (await desk.deciders.state(aggregate, ref)).status.is_finished:
            if asyncio.get_running_loop().time() > deadline:
                raise TapelineError(
                    f"run r{outcome.state.number} is being stopped and has not ended yet",
                    code="conflict",
                    hint="delete it when it has ended",
                )
            await asyncio.sleep(0.1)
        again = DeleteRun(run=request.run, command_id=born_of(request.command_id or "", "delete"))
        outcome = await desk.ask(caller, ref, again)
        return accepted(outcome, view_of(ref.id, outcome.state), desk.log_id)

    @verbs.user("set_notes")
    async def set_notes(caller: Principal, request: SetNotes) -> Accepted[RunView]:
        return await desk.command(caller, request.run, request)

    @verbs.user("rename")
    async def rename(caller: Principal, request: RenameRun) -> Accepted[RunView]:
        return await desk.command(caller, request.run, request)


def _add_queries(verbs: Verbs, desk: Desk) -> None:
    @verbs.user("get")
    async def get(caller: Principal, request: GetRun) -> Answer[RunView]:
        view = await desk.reader.at(request.min_position, queries.one, caller.team, request.run)
        return answered(desk.reader.marked(caller.team, "run", view), desk.reader.projector.position, desk.log_id)

    @verbs.user("list")
    async def list_(caller: Principal, request: ListRuns) -> Answer[Page[RunView]]:
        items = await desk.reader.at(request.min_position, queries.listed, caller.team, request)
        return answered(
            desk.reader.page(caller.team, "run", page_of(items)), desk.reader.projector.position, desk.log_id
        )

    @verbs.user("count")
    async def count(caller: Principal, request: CountRuns) -> Answer[CountView]:
        found = await desk.reader.at(request.min_position, queries.counted, caller.team, request)
        return answered(CountView(count=found), desk.reader.projector.position, desk.log_id)

    @verbs.user("events")
    async def events(caller: Principal, request: ListEvents) -> Answer[Page[EventView]]:
        items = await desk.reader.at(request.min_position, queries.events, caller.team, request)
        return answered(page_of(items), desk.reader.projector.position, desk.log_id)

    @verbs.user("metrics")
    async def metrics(caller: Principal, request: ListMetrics) -> Answer[Page[MetricView]]:
        def points(connection: Connection) -> list[MetricView]:
            row = queries.resolve(connection, caller.team, request.run)
            return metric_queries.points(connection, caller.team, row["id"], request, desk.files)

        items = await desk.points_at(request.min_position, points)
        return answered(page_of(items), desk.reader.projector.position, desk.log_id)

    @verbs.user("columns")
    async def columns(caller: Principal, request: ReadColumns) -> Answer[ColumnsView]:
        def page(connection: Connection) -> ColumnsView:
            row = queries.resolve(connection, caller.team, request.run)
            return metric_queries.columns(connection, caller.team, row["id"], request, desk.files)

        view = await desk.points_at(request.min_position, page)
        return answered(view, desk.reader.projector.position, desk.log_id)

    @verbs.user("series")
    async def series(caller: Principal, request: ReadSeries) -> Answer[SeriesView]:
        def curve(connection: Connection) -> SeriesView:
            row = queries.resolve(connection, caller.team, request.run)
            return metric_series.series(connection, caller.team, row["id"], request, desk.files)

        view = await desk.points_at(request.min_position, curve)
        return answered(view, desk.reader.projector.position, desk.log_id)

    @verbs.user("measured")
    async def measured(caller: Principal, request: ListAttempts) -> Answer[Page[AttemptMetricsView]]:
        def kept(connection: Connection) -> list[AttemptMetricsView]:
            row = queries.resolve(connection, caller.team, request.run)
            return metric_queries.attempts(connection, caller.team, row["id"])

        await desk.measurements_in()
        items = await desk.reader.at(request.min_position, kept)
        return answered(page_of(items), desk.reader.projector.position, desk.log_id)

    @verbs.user("latest")
    async def latest(caller: Principal, request: LatestMetrics) -> Answer[Page[MetricView]]:
        def points(connection: Connection) -> list[MetricView]:
            row = queries.resolve(connection, caller.team, request.run)
            return metric_queries.latest(connection, caller.team, row["id"], request.after, desk.files)

        items = await desk.points_at(request.min_position, points)
        return answered(page_of(items), desk.reader.projector.position, desk.log_id)


def _add_checkpoints(verbs: Verbs, desk: Desk) -> None:
    @verbs.user("checkpoints")
    async def checkpoints(caller: Principal, request: ListCheckpoints) -> Answer[Page[CheckpointView]]:
        items = await desk.reader.at(request.min_position, queries.checkpoints_listed, caller.team, request)
        return answered(page_of(items), desk.reader.projector.position, desk.log_id)

    @verbs.user("delete_checkpoints")
    async def delete_checkpoints(caller: Principal, request: DeleteCheckpoints) -> Accepted[DeletedView]:
        if not request.ids and not request.run_ids:
            raise TapelineError("neither ids nor run_ids name anything", code="invalid", hint="give one of them")
        owners = await desk.reader.at(
            request.min_position, queries.checkpoint_owners, caller.team, request.ids, request.run_ids
        )
        steps = [
            Step(decider=aggregate, ref=Ref(caller.team, "run", run_id), command=DropCheckpoints(ids=ids))
            for run_id, ids in sorted(owners.items())
        ]
        if not steps:
            position = desk.reader.projector.position
            return Accepted(view=DeletedView(ids=[]), sequence=0, position=position, log_id=desk.log_id)
        outcomes = await desk.deciders.handle_together(steps, origin_of(caller.actor, request.command_id))
        return accepted(outcomes[-1], DeletedView(ids=[one for ids in owners.values() for one in ids]), desk.log_id)

    @verbs.user("pin")
    async def pin(caller: Principal, request: PinCheckpoint) -> Accepted[RunView]:
        owners = await desk.reader.at(
            request.min_position, queries.checkpoint_owners, caller.team, [request.checkpoint], None
        )
        if not owners:
            raise TapelineError(
                f"no checkpoint {request.checkpoint!r}", code="not_found", hint="tapeline checkpoint ls"
            )
        (run_id,) = owners
        command = Pin(
            checkpoint_id=request.checkpoint, pinned=request.pinned, command_id=request.command_id
        )  # fmt: skip
        outcome = await desk.ask(caller, Ref(caller.team, "run", run_id), command)
        return accepted(outcome, view_of(run_id, outcome.state), desk.log_id)

    @verbs.user("read_artifact")
    async def read_artifact(caller: Principal, request: ReadArtifact) -> Answer[PartView]:
        size = await desk.reader.at(request.min_position, queries.owned_artifact, caller.team, request.sha256)
        data = await desk.store.read(request.sha256, request.offset, request.size_bytes)
        view = PartView(data=base64.b64encode(data).decode(), size_bytes=size)
        return answered(view, desk.reader.projector.position, desk.log_id)
