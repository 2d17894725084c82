"""Experiments: a team's training sessions, as runs seen by their number."""

from __future__ import annotations

import builtins
from typing import Any

from tapeline.errors import ConflictError, LitModelError
from tapeline.sdk import arguments, runs
from tapeline.sdk.client import client_of
from tapeline.sdk.errors import lit_error_handler

RUNNING = frozenset({"job_running", "job_terminate_requested", "job_terminating"})


class Experiment:
    """A model's experiment, or training session.

    Parameters
    ----------
    team : str
        The team that owns it.
    runid : int
        The number of its run in the team.
    meta : dict, optional
        What is known of it; asked for on first need when it is not given.
    """

    team: str
    runid: int

    def __init__(self, team: str, runid: int, meta: dict[str, Any] | None = None) -> None:
        self.team = team
        self.runid = runid
        self._meta = meta

    def __repr__(self) -> str:
        return f"Experiment(team={self.team!r}, runid={self.runid!r})"

    @property
    def meta(self) -> dict[str, Any]:
        """What is known of the experiment."""
        if self._meta is None:
            self._meta = _meta(self.run)
        return self._meta

    @property
    def is_running(self) -> bool:
        """Whether it trains now, or did when `meta` was made."""
        return bool(self.meta.get("is_running", False))

    @property
    @lit_error_handler(LitModelError)
    def run(self) -> runs.Run:
        """The run."""
        return runs.find(str(self.runid), self.team)

    @staticmethod
    @lit_error_handler(LitModelError)
    def start(team: str, canvas: str, device: str, session_name: str | None = None) -> Experiment:
        """Train a canvas on a device."""
        view = (
            client_of(team)
            .command("runs", "train", canvas=canvas, device=device, **arguments.given(session_name=session_name))
            .view
        )
        return Experiment(team, int(view["number"]))

    @lit_error_handler(LitModelError)
    def stop(self) -> int:
        """Stop it, wait for its end, and give the exit code of its process: 0 when it never started."""
        run = self.run
        if run.is_finished:
            raise ConflictError.of(
                "conflict", f"experiment {self.runid} is not running: {run.status}",
                hint=f"tapeline run restart {self.runid}",
            )  # fmt: skip
        run.stop()
        run.wait()
        self._meta = None
        return int(self.run.exit_code or 0)

    @lit_error_handler(LitModelError)
    def resume(self, device: str, smartfit: bool = False, session_name: str | None = None) -> str:
        """Go on from the last complete checkpoint; the name of the new attempt's session."""
        view = (
            client_of(self.team)
            .command(
                "runs",
                "resume",
                run=str(self.runid),
                device=device,
                smartfit=smartfit,
                **arguments.given(session_name=session_name),
            )
            .view
        )
        self._meta = None
        return str(view.get("session_name"))


@lit_error_handler(LitModelError)
def get_experiments(team: str) -> builtins.list[Experiment]:
    """All experiments of a team, running and stopped, the newest first.

    Examples
    --------
    >>> experiments = get_experiments("contoso")
    >>> experiments[0].runid, experiments[0].is_running
    (..., False)
    """
    client = client_of(team)

    def page(size: int, start: int) -> dict[str, Any]:
        return dict(client.query("runs", "list", limit=size, offset=start))

    views = arguments.paged(page, 2**31, 0)
    return [Experiment(team, int(each["number"]), _meta(runs.run_of(each, team))) for each in views]


def _meta(run: runs.Run) -> dict[str, Any]:
    return run.model_dump(mode="json", exclude_none=True) | {"is_running": run.status in RUNNING}
