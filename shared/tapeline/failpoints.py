"""Named points at which a process can be made to die, to pause or to fail: what a crash exactly there leaves behind.

`TL_FAIL=<point>:<n>` lets the n-th passage of a point end the process as `kill -9` would, `<point>:<n>:pause=<s>`
lets it sleep instead, and `<point>:<n>:raise` fail with an `OSError`; several are divided by commas. Without the
variable a point costs the test of an empty dictionary.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tapeline.errors import TapelineError

VARIABLE = "TL_FAIL"
DIED = 137
POINTS = frozenset(
    {
        # An append: nothing was sent; all was sent, and no answer heard; the answer was heard.
        "log.before_publish", "log.published", "log.acked",
        # A command: its events are decided; they are on the log; its reply is made.
        "handler.decided", "handler.appended", "handler.before_reply",
        # A stretch of a projection, and the switch to other tables.
        "proj.before_effect", "proj.after_effect", "proj.before_commit", "proj.after_commit",
        "rebuild.before_switch", "rebuild.after_switch",
        # The lease of a run.
        "lease.before_grant", "lease.granted", "lease.before_expire", "lease.expired", "lease.requeued",
        # An artifact: its bytes are staged; their digest is right; they are in their place.
        "store.staged", "store.hashed", "store.promoted",
        # A trainer agent: an offer is heard; the lease is its own; a report is in its journal; it was answered.
        "agent.before_claim", "agent.claimed", "agent.journaled", "agent.reported",
        # Its child: it knows what to train; it has trained, and not said so.
        "child.started", "child.trained",
        # A checkpoint: announced; whole in the child's folder; its bytes are staged, and it is not reported.
        "checkpoint.begun", "checkpoint.written", "checkpoint.staged",
        # The build of an asset: a shard is kept; the files are written; they are in the store.
        "asset.shard", "asset.assembled", "asset.stored",
        # Points on their way to the artifact store: packed; in the store; on the log; METRICS has a marker.
        "archive.packed", "archive.stored", "archive.noted", "archive.marked",
        # Batches that an archive stands for: compared; on the log that they go; gone.
        "purge.compared", "purge.noted", "purge.done",
        # Proof and copies of the log.
        "seal.signed", "seal.stored", "export.segment", "export.manifest", "import.batch",
        "import.synced",
    }
)  # fmt: skip


@dataclass(slots=True)
class _Armed:
    """What happens at a point, and after how many more passages."""

    left: int
    how: str


def _parsed(text: str) -> dict[str, _Armed]:
    found: dict[str, _Armed] = {}
    for each in filter(None, text.split(",")):
        point, _, rest = each.strip().partition(":")
        count, _, how = rest.partition(":")
        is_pause = how.startswith("pause=") and how.removeprefix("pause=").replace(".", "", 1).isdigit()
        if point not in POINTS or not count.isdigit() or int(count) < 1 or not (how in ("", "raise") or is_pause):
            raise TapelineError(
                f"{VARIABLE}={each!r} names no fail point",
                code="invalid",
                hint=f"<point>:<n>, <point>:<n>:raise or <point>:<n>:pause=<s>; points are {', '.join(sorted(POINTS))}",
            )
        found[point] = _Armed(int(count), how)
    return found


_armed: dict[str, _Armed] = _parsed(os.environ.get(VARIABLE, ""))


def passed(point: str) -> None:
    """Say that a point is passed."""
    if _armed:
        _pass(point)


def _pass(point: str) -> None:
    armed = _armed.get(point)
    if armed is None:
        return
    armed.left -= 1
    if armed.left > 0:
        return
    del _armed[point]
    if armed.how == "raise":
        raise OSError(f"fail point {point}")
    if armed.how:
        time.sleep(float(armed.how.removeprefix("pause=")))
        return
    os._exit(DIED)


@contextmanager
def armed(text: str) -> Iterator[dict[str, _Armed]]:
    """Points as `TL_FAIL` would have them, for as long as the context is open; what was passed is taken out."""
    global _armed
    before, _armed = _armed, _parsed(text)
    try:
        yield _armed
    finally:
        _armed = before
