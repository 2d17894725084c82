"""Training runs: create, list, watch, stop, restart; their events and metrics."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from tapeline.errors import RunDoesNotExistError, ValidationError
from tapeline.sdk import arguments
from tapeline.sdk.client import client_of
from tapeline.sdk.measured import Measured
from tapeline.sdk.records import Event, Gpu, Metric, Moment, Progress, Resources, moment_of
from tapeline.trusted import trusted

if TYPE_CHECKING:
    from tapeline.sdk.checkpoints import Checkpoint

__all__ = [
    "Event", "Gpu", "Metric", "Progress", "Resources", "Run", "Runs", "count_runs", "create_run", "get_runs",
    "validate_run_config",
]  # fmt: skip

Status = Literal[
    "run_created", "run_stop_requested", "run_restart_requested", "job_create_failed", "job_created",
    "job_submitted", "job_pending", "job_running", "job_terminate_requested", "job_terminating",
    "job_terminated", "job_failed", "job_completed", "job_unknown",
]  # fmt: skip
Select = Literal[
    "*", "id", "project_id", "user_id", "created_at", "name", "version", "blueprint_id", "task_type", "config",
    "resources", "progress", "progress_updated_at", "status", "status_updated_at",
]  # fmt: skip
Sort = Literal["id:asc", "id:desc", "created_at:asc", "created_at:desc"]
STATUSES: tuple[str, ...] = Status.__args__  # type: ignore[attr-defined]
SELECTS: tuple[str, ...] = (*Select.__args__, "notes", "number")  # type: ignore[attr-defined]
FINISHED = frozenset({"job_create_failed", "job_terminated", "job_failed", "job_completed"})
RELOADED = ("status", "status_updated_at", "progress", "progress_updated_at", "notes")
_LONG = ("config", "resources", "status_updated_at", "progress_updated_at", "session_name", "exit_code")
CHECK_S = 5.0
"""How often a watch looks without a hint."""
_FOLLOW_S = 0.5


class Run(Measured):
    """A training run. `Run.from_id` and `get_runs` find one; a run made directly contacts nobody.

    What it measures is in `tapeline.sdk.measured`, what it keeps besides in `tapeline.sdk.kept`.

    Examples
    --------
    >>> run = get_runs(project_ids=["my_project"])[0]
    >>> run.status
    'job_completed'
    >>> [event.sequence for event in run.get_events(limit=3, sort=["sequence:asc"])]
    [1, 2, 3]
    >>> sorted(run.latest())
    ['lr', 'speed/samples_per_s', 'train/end/accuracy', ..., 'val/loss']
    >>> len(run.get_global_steps_with_checkpoints())
    1
    """

    name: str | None = None
    version: str | None = None
    blueprint_id: str | None = None
    project_id: str | None = None
    user_id: str | None = None
    progress: list[Progress] | None = None
    progress_updated_at: Moment | None = None
    status: str | None = None
    status_updated_at: Moment | None = None
    task_type: str | None = None
    resources: Resources | None = None
    config: dict[str, Any] | None = None
    number: int | None = None
    device: str | None = None
    attempt: int | None = None
    session_name: str | None = None
    reason: str | None = None
    message: str | None = None
    exit_code: int | None = None

    @staticmethod
    def from_id(id: str) -> Run:
        """The run with an id, or a number in the team.

        Raises
        ------
        RunDoesNotExistError
            There is none, or it was deleted.
        """
        return find(str(id))

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The run by number and name first; what it was configured with is in its attributes."""
        told = dict(super().__repr_args__())
        first = [name for name in ("number", "name", "status", "project_id", "id") if name in told]
        rest = [name for name in told if name not in first and name not in _LONG and told[name] != []]
        return [(name, told[name]) for name in (*first, *rest)]

    @property
    def is_finished(self) -> bool:
        """Whether the run had ended when it was last looked at."""
        return self.status in FINISHED

    def reload(self, fields: list[str] | None = None) -> None:
        """Refresh some of the fields that change, or all of them, in place.

        Raises
        ------
        RunDoesNotExistError
            The run was deleted; the attributes stay as they were.
        """
        names: tuple[str, ...] = RELOADED
        if fields is not None:
            names = tuple(arguments.one_of("field", each, RELOADED) for each in arguments.listed("fields", fields))
            if not names:
                raise arguments.BadValue(
                    f"fields is empty; it takes some of {', '.join(RELOADED)}", hint="leave it out for all"
                )
        found = find(self._named(), self._team)
        if fields is None:
            names = tuple(Run.model_fields)
        for each in names:
            setattr(self, each, getattr(found, each))

    def delete(self, *, stop: bool = False, command_id: str | None = None) -> None:
        """Remove the run from every view; a live one only with `stop`."""
        self._command("delete", command_id, stop=stop)

    def stop(self, grace_period: timedelta | None = None, *, command_id: str | None = None) -> None:
        """Ask the run to end at its next batch; returns when that is on the log, not when it has stopped.

        Parameters
        ----------
        grace_period : timedelta, optional
            After it the run is killed: 1 s to 24 h, 10 minutes by default.
        """
        seconds = arguments.grace(grace_period)
        self._command("stop", command_id, **arguments.given(grace_s=seconds))

    def pause(self, grace_period: timedelta | None = None, *, command_id: str | None = None) -> None:
        """Stop after a checkpoint, to be resumed."""
        seconds = arguments.grace(grace_period)
        self._command("pause", command_id, **arguments.given(grace_s=seconds))

    def resume(
        self,
        *,
        from_checkpoint: str = "latest",
        device: str | None = None,
        smartfit: bool | None = None,
        epochs: int | None = None,
        command_id: str | None = None,
    ) -> int:
        """Go on from a complete checkpoint; the number of the new attempt."""
        given = arguments.given(device=device, smartfit=smartfit, epochs=epochs)
        view = self._command("resume", command_id, from_checkpoint=from_checkpoint, **given)
        return int(view.get("attempt") or 0)

    def restart(
        self,
        *,
        from_checkpoint: str | None = None,
        device: str | None = None,
        smartfit: bool | None = None,
        epochs: int | None = None,
        command_id: str | None = None,
    ) -> int:
        """Begin a new attempt of a run that has ended, from step 0 or a checkpoint; its number."""
        given = arguments.given(from_checkpoint=from_checkpoint, device=device, smartfit=smartfit, epochs=epochs)
        return int(self._command("restart", command_id, **given).get("attempt") or 0)

    def set_notes(self, notes: str | None, *, command_id: str | None = None) -> None:
        """Replace the notes of the run."""
        self._command("set_notes", command_id, notes=notes)
        self.notes = notes

    def get_events(
        self,
        limit: int | None = None,
        offset: int | None = None,
        sort: list[Literal["sequence:desc", "sequence:asc"]] | None = None,
    ) -> list[Event]:
        """Events of the run, the newest first by default, at most 100 of them."""
        wanted = arguments.count("limit", limit, 100)
        first = arguments.count("offset", offset, 0)
        order = (arguments.sorts(sort, ["sequence"]) or ["sequence:desc"])[0]
        name = self._named()

        def page(size: int, start: int) -> dict[str, Any]:
            return dict(self._client().query("runs", "events", run=name, limit=size, offset=start, sort=order))

        return [Event(**each) for each in arguments.paged(page, wanted, first)]

    def get_checkpoints(
        self,
        *,
        ids: list[str] | None = None,
        project_ids: list[str] | None = None,
        global_steps: list[int] | None = None,
        statuses: list[Literal["incomplete", "complete"]] | None = None,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        select: list[Literal["id", "created_at", "run_id", "project_id", "global_step", "status", "status_updated_at"]]
        | None = None,
        sort: list[Literal["id:asc", "id:desc", "created_at:asc", "created_at:desc"]] | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[Checkpoint]:
        """Checkpoints of this run; arguments as in `get_checkpoints`."""
        from tapeline.sdk import checkpoints

        return checkpoints.find(
            self._team, ids=ids, run_ids=[self._named()], project_ids=project_ids, global_steps=global_steps,
            statuses=statuses, created_before=created_before, created_after=created_after, select=select, sort=sort,
            limit=limit, offset=offset,
        )  # fmt: skip

    def get_global_steps_with_checkpoints(self) -> list[int]:
        """The steps of which there is a complete checkpoint, ascending."""
        found = self.get_checkpoints(statuses=["complete"], select=["global_step"], limit=2**31)
        return sorted({each.global_step for each in found if each.global_step is not None})

    def watch(self, since: int = 0, *, follow: bool = False) -> Iterator[Event]:
        """Events from `since + 1` on, without a gap, as they come; ends after the run has ended.

        With `follow` it goes on, since a restart may bring more.
        """
        name, last = self._named(), arguments.count("since", since, 0)
        client, status = self._client(), ""
        with client.hints("run", name) as hint:
            while True:
                # Cleared before the look: what comes in between wakes the next one.
                hint.clear()
                size = arguments.PAGE_ROWS
                page = client.query("runs", "events", run=name, after=last, sort="sequence:asc", limit=size)
                for each in page["items"]:
                    event = Event(**each)
                    last, status = event.sequence, event.status
                    yield event
                if not arguments.is_last(page, size):
                    continue
                if (status or find(name, self._team).status) in FINISHED and not follow:
                    return
                hint.wait(CHECK_S)

    def wait(self, timeout: float | None = None) -> str:
        """The status that the run ends with.

        Raises
        ------
        TimeoutError
            It has not ended after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._client().hints("run", self._named()) as hint:
            while True:
                hint.clear()
                self.reload()
                if self.is_finished:
                    return str(self.status)
                left = CHECK_S if end is None else min(CHECK_S, end - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"run {self.number or self.id} is {self.status} after {timeout} s")
                hint.wait(left)

    def follow(self, *, quiet: bool = False) -> str:
        """The status that the run ends with, drawing its progress meanwhile.

        A bar per operation on a terminal, one line per 10 % when piped, nothing when `quiet`.
        """
        from tapeline.sdk.progress import Bars

        with (
            Bars(f"run {self.number or self.id}", quiet=quiet) as bars,
            self._client().hints("run", self._named()) as hint,
        ):
            while True:
                hint.clear()
                self.reload()
                bars.show(self.progress or [], str(self.status))
                if self.is_finished:
                    return str(self.status)
                hint.wait(_FOLLOW_S)

    def history(self) -> list[Event]:
        """The events at which the status became another one, in order."""
        found: list[Event] = []
        for event in self.get_events(limit=2**31, sort=["sequence:asc"]):
            if not found or found[-1].status != event.status:
                found.append(event)
        return found

    def at(self, sequence: int) -> Run:
        """The run as of one of its events.

        Raises
        ------
        ValueError
            The run has no event with that sequence.
        """
        from tapeline.sdk.past import at

        wanted = arguments.count("sequence", sequence, 0)
        page = self._client().query(
            "runs", "events", run=self._named(), after=wanted - 1 if wanted else 0, limit=1, sort="sequence:asc"
        )
        if not page["items"] or page["items"][0]["sequence"] != wanted:
            raise arguments.BadValue(
                f"run {self.number or self.id} has no event {sequence}",
                hint=f"tapeline run events {self.number or self.id}",
            )
        event = page["items"][0]
        past = at(event["position"], self._team)
        try:
            found = run_of(past.query("runs", "get", run=self._named()), self._team)
        finally:
            past.close()
        # Several events may have come in one commit.
        found.status, found.status_updated_at = event["status"], found.status_updated_at
        return found

    def to_frame(self, kind: Literal["metrics", "events", "checkpoints"] = "metrics") -> Any:
        """What the run has of a kind, as a data frame of pandas, or else of polars."""
        from tapeline.sdk.frames import to_frame

        match arguments.one_of("kind", kind, ("metrics", "events", "checkpoints")):
            case "events":
                return to_frame(self.get_events(limit=2**31, sort=["sequence:asc"]))
            case "checkpoints":
                return to_frame(self.get_checkpoints(limit=2**31, sort=["created_at:asc"]))
            case _:
                return to_frame(self.get_all_metrics())

    def _repr_html_(self) -> str:
        from tapeline.sdk.displays import run_html

        return run_html(self)

    def _reload(self) -> None:
        self.reload()

    def _command(self, verb: str, command_id: str | None, **fields: Any) -> dict[str, Any]:
        view = self._client().command("runs", verb, run=self._named(), command_id=command_id, **fields).view
        if isinstance(view, dict):
            for each in ("status", "status_updated_at", "attempt", "session_name"):
                if view.get(each) is not None:
                    setattr(self, each, view[each])
            return view
        return {}


_TIMES = frozenset({"created_at", "progress_updated_at", "status_updated_at"})


def items(view: Any) -> builtins.list[Any]:
    """The rows of a page."""
    return list(view["items"])


def run_of(view: dict[str, Any], team: str | None = None) -> Run:
    """The run that a view shows; newer fields that this version does not know are left out."""
    known = {key: value for key, value in view.items() if value is not None}
    for name in _TIMES & known.keys():
        known[name] = moment_of(known[name])
    if "progress" in known:
        known["progress"] = [trusted(Progress, each) for each in known["progress"]]
    if "resources" in known:
        given = known["resources"]
        gpu = given.get("gpu")
        known["resources"] = trusted(Resources, {**given, "gpu": trusted(Gpu, gpu)} if gpu is not None else given)
    made = trusted(Run, known)
    made._team = team
    return made


class Runs(list[Run]):
    """A list of runs that notebooks draw as a table."""

    def _repr_html_(self) -> str:
        from tapeline.sdk.displays import runs_html

        return runs_html(self)


def newest(project_id: str, name: str, team: str | None = None) -> Run:
    """The newest undeleted run of a name in a project."""
    pattern = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    client = client_of(team)

    def page(size: int, start: int) -> dict[str, Any]:
        fields = {"name_ilikes": [pattern], "project_ids": [project_id], "select": ["id", "name"]}
        return dict(client.query("runs", "list", limit=size, offset=start, **fields))

    # Patterns do not look at the case.
    for view in arguments.paged(page, 2**31, 0):
        if view["name"] == name:
            return find(view["id"], team)
    raise RunDoesNotExistError.of(
        "not_found", f"no run of project {project_id!r} is called {name!r}", hint="tapeline run ls"
    )


def find(name: str, team: str | None = None) -> Run:
    """The run with an id or number, of a team."""
    return run_of(client_of(team).query("runs", "get", run=name), team)


def create_run(
    *,
    name: str,
    version: str,
    resources: Resources,
    config: dict[str, Any],
    task_type: str,
    blueprint_id: str,
    project_id: str,
    notes: str | None = None,
    command_id: str | None = None,
) -> str:
    """Create and submit a training run; its id.

    Raises
    ------
    ValidationError
        The config does not fit the blueprint's schema, or an argument is malformed.
    BlueprintDoesNotExistError
        There is no such blueprint.

    Examples
    --------
    >>> from tapeline.sdk.blueprints import lookup_blueprint_id
    >>> id = create_run(
    ...     name="check", version="1", resources=Resources(cpu="1", memory="64Mi"), config={"steps": 3},
    ...     task_type="selftest", blueprint_id=lookup_blueprint_id("selftest"), project_id="default",
    ... )
    >>> run = Run.from_id(id)
    >>> run.wait(timeout=60)
    'job_completed'
    """
    wanted = resources if isinstance(resources, Resources) else Resources(**resources)
    reply = client_of().command(
        "runs",
        "create",
        name=arguments.name("name", name),
        version=arguments.name("version", version),
        resources=wanted.model_dump(exclude_none=True),
        config=_json_data(config),
        task_type=arguments.name("task_type", task_type),
        blueprint_id=arguments.name("blueprint_id", blueprint_id),
        project_id=arguments.name("project_id", project_id, 63),
        command_id=command_id,
        **arguments.given(notes=notes),
    )
    return str(reply.view["id"])


def validate_run_config(*, blueprint_id: str, config: dict[str, Any]) -> None:
    """Check a config against a blueprint.

    Raises
    ------
    ValidationError
        `errors` lists every fault as `{path, message, value, hint}`.

    Examples
    --------
    >>> from tapeline.sdk.blueprints import lookup_blueprint_id
    >>> try:
    ...     validate_run_config(blueprint_id=lookup_blueprint_id("selftest"), config={"steps": -1, "stpe_s": 1})
    ... except ValidationError as error:
    ...     [fault["path"] for fault in error.errors]
    [['stpe_s'], ['steps']]
    """
    client_of().query(
        "runs", "validate_config", blueprint_id=arguments.name("blueprint_id", blueprint_id), config=_json_data(config)
    )


def get_runs(
    *,
    blueprint_ids: list[str] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    ids: list[str] | None = None,
    id_after: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
    name_ilikes: list[str] | None = None,
    project_ids: list[str] | None = None,
    select: list[Select] | None = None,
    sort: list[Sort] | None = None,
    statuses: list[Status] | None = None,
    task_types: list[str] | None = None,
    versions: list[str] | None = None,
    user_ids: list[str] | None = None,
) -> list[Run]:
    """Runs that match every filter given, newest first, ten of them unless `limit` says otherwise.

    None is no filter, an empty list matches nothing. `created_after`, `created_before` and `id_after` are
    strict and serve for paging. In `name_ilikes`, `%` is any run of characters, `_` one, `\\` escapes.
    `select` leaves other attributes None.
    """
    wanted = arguments.count("limit", limit, 10)
    first = arguments.count("offset", offset, 0)
    filters = _filters(
        blueprint_ids=blueprint_ids, created_after=created_after, created_before=created_before, ids=ids,
        id_after=id_after, name_ilikes=name_ilikes, project_ids=project_ids, statuses=statuses, task_types=task_types,
        versions=versions, user_ids=user_ids,
    )  # fmt: skip
    others = arguments.given(
        select=arguments.selected(select, SELECTS),
        sort=arguments.sorts(sort, ["id", "created_at"]),
    )
    if wanted == 0 or filters is None:
        return Runs()
    client = client_of()

    def page(size: int, start: int) -> dict[str, Any]:
        return dict(client.query("runs", "list", limit=size, offset=start, **filters, **others))

    return Runs(run_of(view) for view in arguments.paged(page, wanted, first))


def count_runs(
    *,
    blueprint_ids: list[str] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    ids: list[str] | None = None,
    id_after: str | None = None,
    name_ilikes: list[str] | None = None,
    project_ids: list[str] | None = None,
    statuses: list[Status] | None = None,
    task_types: list[str] | None = None,
    versions: list[str] | None = None,
    user_ids: list[str] | None = None,
) -> int:
    """How many runs match every filter given; the filters are those of `get_runs`.

    Examples
    --------
    >>> count_runs(project_ids=["my_project"]) == len(get_runs(project_ids=["my_project"], limit=1000))
    True
    """
    filters = _filters(
        blueprint_ids=blueprint_ids, created_after=created_after, created_before=created_before, ids=ids,
        id_after=id_after, name_ilikes=name_ilikes, project_ids=project_ids, statuses=statuses, task_types=task_types,
        versions=versions, user_ids=user_ids,
    )  # fmt: skip
    return 0 if filters is None else int(client_of().query("runs", "count", **filters)["count"])


def _filters(**asked: Any) -> dict[str, Any] | None:
    """The filters as they are sent; None when nothing can match them."""
    lists = arguments.given(
        name_ilikes=arguments.patterns("name_ilikes", asked.pop("name_ilikes")),
        statuses=arguments.some_of("status", asked.pop("statuses"), STATUSES),
        **{name: arguments.texts(name, asked[name]) for name in _LISTS},
    )
    if asked["id_after"] is not None and not isinstance(asked["id_after"], str):
        raise arguments.BadType(
            f"id_after must be a string, not {asked['id_after']!r}",
            hint="give the id of the last run of the page before",
        )
    others = arguments.given(
        created_after=arguments.moment("created_after", asked["created_after"]),
        created_before=arguments.moment("created_before", asked["created_before"]),
        id_after=asked["id_after"],
    )
    return None if arguments.matches_nothing(*lists.values()) else lists | others


_LISTS = ("blueprint_ids", "ids", "project_ids", "task_types", "versions", "user_ids")


def _json_data(config: Any) -> dict[str, Any]:
    import json

    if not isinstance(config, dict):
        raise arguments.BadType(f"config must be a dict, not {type(config).__name__}", hint='write {"epochs": 3}')
    try:
        size = len(json.dumps(config, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        raise ValidationError.of(
            "invalid", f"config is not plain JSON data: {error}", hint="NaN, infinities and objects have no JSON form"
        ) from error
    if size > 512 * 1024:
        raise ValidationError.of(
            "too_large", f"config has {size // 1024} KiB; the limit is 512 KiB", hint="keep large data in an artifact"
        )
    return config
