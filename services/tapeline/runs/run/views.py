"""A run as the reply to a command shows it: from its folded state, without a look at the tables."""

from __future__ import annotations

from tapeline.contracts.runs import RunView
from tapeline.runs.run.aggregate import Run


def view_of(run_id: str, run: Run) -> RunView:
    """The run after a command; its times and progress are in the tables only."""
    created = run.created
    if created is None:
        return RunView(id=run_id)
    return RunView(
        id=run_id,
        number=run.number,
        name=run.name,
        version=created.version,
        blueprint_id=created.blueprint_id,
        project_id=created.project_id,
        user_id=created.user,
        task_type=created.task_type,
        resources=created.resources,
        config=created.config,
        notes=run.notes,
        status=run.status.value,
        device=run.device,
        agent=run.lease.agent if run.lease else None,
        attempt=run.attempt,
        session_name=run.session_name,
        reason=run.reason,
        message=run.message,
        hint=run.hint,
        exit_code=run.exit_code,
    )
