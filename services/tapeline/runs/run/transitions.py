"""What may follow what in the life of a run.

`LEGAL` is the transition table: it names, for each event, the statuses in which it may happen. Which status an
event leads to is `status_after` in `tapeline.contracts.runs`. What is not in the table is refused with code
`conflict`, and nothing is appended.
"""

from __future__ import annotations

from tapeline.contracts.archives import MetricsArchived, MetricsPurged
from tapeline.contracts.records import (
    MetricsTableAdded,
    MetricsTableRemoved,
    RunCopied,
    RunForked,
    RunInputAdded,
    RunOutputAdded,
    RunParametersSet,
)
from tapeline.contracts.runs import (
    FINISHED,
    STOPPING,
    CheckpointBegun,
    CheckpointCompleted,
    CheckpointDeleted,
    CheckpointPinned,
    EndReason,
    JobCompleted,
    JobCreated,
    JobCreateFailed,
    JobFailed,
    JobPending,
    JobStarted,
    JobSubmitted,
    JobTerminated,
    JobTerminateRequested,
    JobTerminating,
    LeaseExpired,
    LeaseGranted,
    NotesChanged,
    ReportNoted,
    RunDeleted,
    RunRenamed,
    RunRestartRequested,
    RunStopRequested,
    Status,
)

RETRIED: frozenset[EndReason] = frozenset(
    {
        "lease_lost", "agent_shutdown", "agent_restarted", "device_lost", "signal", "stalled", "start_timeout",
        "agent_revoked",
    }
)  # fmt: skip
"""End reasons after which a run is restarted by itself; `stalled` once only."""

MAX_RESTARTS = 2
MAX_RESTARTS_EVER = 20
DELAYS_S = (0.0, 10.0, 60.0)
LEASE_CLOSED = "lease_lost"
"""Cause of a lease that its agent itself gave up."""

WAITING = frozenset({Status.JOB_SUBMITTED, Status.JOB_PENDING})
STARTABLE = frozenset({Status.RUN_CREATED, Status.RUN_RESTART_REQUESTED})
_LIVE = frozenset(Status) - FINISHED
ANY: frozenset[Status] = frozenset(Status)
LEGAL: dict[type, frozenset[Status]] = {
    JobCreated: STARTABLE,
    JobCreateFailed: STARTABLE,
    JobSubmitted: frozenset({Status.JOB_CREATED}),
    JobPending: frozenset({Status.JOB_SUBMITTED}),
    # A script that was not heard for a while trains on, and says so.
    LeaseGranted: WAITING | {Status.JOB_UNKNOWN, Status.JOB_FAILED},
    JobStarted: WAITING | {Status.JOB_UNKNOWN, Status.JOB_FAILED},
    LeaseExpired: WAITING | {Status.JOB_RUNNING} | STOPPING,
    RunStopRequested: _LIVE,
    JobTerminateRequested: frozenset({Status.RUN_STOP_REQUESTED}),
    JobTerminating: frozenset({Status.JOB_TERMINATE_REQUESTED}),
    JobTerminated: STOPPING,
    JobCompleted: STOPPING | {Status.JOB_RUNNING, Status.JOB_UNKNOWN},
    JobFailed: STOPPING | WAITING | {Status.JOB_RUNNING, Status.JOB_UNKNOWN},
    RunRestartRequested: FINISHED | {Status.JOB_UNKNOWN},
    RunDeleted: FINISHED,
    CheckpointBegun: ANY,
    CheckpointCompleted: ANY,
    CheckpointDeleted: ANY,
    CheckpointPinned: ANY,
    NotesChanged: ANY,
    RunRenamed: ANY,
    ReportNoted: ANY,
    RunInputAdded: ANY,
    RunOutputAdded: ANY,
    RunParametersSet: ANY,
    MetricsTableAdded: ANY,
    MetricsTableRemoved: ANY,
    MetricsArchived: FINISHED,
    MetricsPurged: FINISHED,
    RunCopied: frozenset({Status.RUN_CREATED}),
    RunForked: frozenset({Status.RUN_CREATED}),
}
"""The statuses in which each event may happen. `RunCreated` is the birth and comes once."""

NEEDS_LEASE: frozenset[type] = frozenset(
    {
        JobStarted, LeaseExpired, JobTerminateRequested, JobTerminating, JobCompleted, CheckpointBegun,
        CheckpointCompleted, ReportNoted,
    }
)  # fmt: skip
"""Events that happen only while an agent holds the run."""
