"""The published language of where a run is: its statuses, and why a job ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class Status(StrEnum):
    """The 14 public statuses of a run."""

    RUN_CREATED = "run_created"
    RUN_STOP_REQUESTED = "run_stop_requested"
    RUN_RESTART_REQUESTED = "run_restart_requested"
    JOB_CREATE_FAILED = "job_create_failed"
    JOB_CREATED = "job_created"
    JOB_SUBMITTED = "job_submitted"
    JOB_PENDING = "job_pending"
    JOB_RUNNING = "job_running"
    JOB_TERMINATE_REQUESTED = "job_terminate_requested"
    JOB_TERMINATING = "job_terminating"
    JOB_TERMINATED = "job_terminated"
    JOB_FAILED = "job_failed"
    JOB_COMPLETED = "job_completed"
    JOB_UNKNOWN = "job_unknown"

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended and only a restart goes on."""
        return self in FINISHED


FINISHED = frozenset({Status.JOB_CREATE_FAILED, Status.JOB_TERMINATED, Status.JOB_FAILED, Status.JOB_COMPLETED})

STOPPING = frozenset({Status.RUN_STOP_REQUESTED, Status.JOB_TERMINATE_REQUESTED, Status.JOB_TERMINATING})
"""A stop is asked for and the job has not ended."""

EndReason = Literal[
    "user", "pause", "lease_lost", "agent_shutdown", "agent_restarted", "device_lost", "signal",
    "oom_host", "oom_device",
    "stalled", "start_timeout", "exit_code", "validation", "asset_refused", "lookahead_refused",
    "fingerprint_refused", "nan_loss", "timeout", "unschedulable", "disk_full", "resource_limit", "agent_revoked",
]  # fmt: skip
"""Why a job ended; which of them are restarted automatically is `tapeline.runs.run.transitions.RETRIED`."""
