"""The open runs as the dispatcher keeps them in mind: who is looked at, however many wait."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tapeline.contracts.runs import Status
from tapeline.runs.open_jobs import OpenJobs
from tapeline.runs.process import Job, Needs
from tapeline.runs.quantities import wanted

SMALL = Needs(wanted=wanted({"cpu": "1", "memory": "1Gi"}), blueprint=("b", "1"), backend="auto", queue_timeout_s=None)
LARGE = replace(SMALL, wanted=wanted({"cpu": "8", "memory": "1Gi"}))


def job(id: str = "r1", status: Status = Status.JOB_PENDING, **changed: Any) -> Job:
    values: dict[str, Any] = {
        "team": "main", "id": id, "number": 1, "status": status, "status_event": f"{id}-{status}",
        "status_updated_us": 0, "attempt": 1, "epoch": 0, "agent": None, "device": None, "lease_ttl_s": None,
        "lost_cause": None, "submitted_us": int(id[1:]), "due_us": 0, "deadline_us": None, "stop_reason": None,
        "wanted_device": "any", "priority": 0, "blueprint_id": "b", "resources": {},
    }  # fmt: skip
    return Job(**values | changed)


def nobody(_: Job) -> bool:
    return False


def ids(jobs: Any) -> list[str]:
    return [one.id for one in jobs]


def waiting(*jobs: Job, needs: Needs = SMALL) -> OpenJobs:
    known = OpenJobs()
    known.replace(jobs)
    for one in known.unknown():
        known.tell(one, needs)
    return known


def test_of_a_line_as_many_are_looked_at_as_devices_are_free() -> None:
    known = waiting(*(job(f"r{i}") for i in range(1000)))
    assert ids(known.candidates(0, nobody)) == []
    assert ids(known.candidates(2, nobody)) == ["r0", "r1"]


def test_each_line_has_its_own_first() -> None:
    known = waiting(job("r1"), job("r2"), job("r3", team="other"), job("r4", priority=5))
    assert sorted(ids(known.candidates(1, nobody))) == ["r1", "r3", "r4"]
    later = job("r5")
    known.update([later.key], [later])
    known.tell(later, LARGE)
    assert sorted(ids(known.candidates(1, nobody))) == ["r1", "r3", "r4", "r5"]


def test_who_was_not_told_yet_is_always_looked_at() -> None:
    known = waiting(job("r1"), job("r2", Status.JOB_SUBMITTED))
    assert ids(known.candidates(0, nobody)) == ["r2"]
    told = job("r2")
    known.update([told.key], [told])
    assert ids(known.candidates(0, nobody)) == []
    assert ids(known.candidates(9, nobody)) == ["r1", "r2"], "and it keeps its place"


def test_who_waits_only_so_long_is_always_looked_at() -> None:
    known = waiting(job("r1"), needs=replace(SMALL, queue_timeout_s=5.0))
    assert ids(known.candidates(0, nobody)) == ["r1"]


def test_who_is_passed_over_stands_in_nobodys_way() -> None:
    known = waiting(job("r1"), job("r2"))
    assert ids(known.candidates(1, lambda one: one.id == "r1")) == ["r2"]


def test_who_moves_on_leaves_the_line_and_who_ends_is_forgotten() -> None:
    known = waiting(job("r1"), job("r2"))
    running = job("r1", Status.JOB_RUNNING, lease_ttl_s=30.0)
    known.update([running.key], [running])
    assert (ids(known.moving), ids(known.candidates(9, nobody))) == (["r1"], ["r2"])
    known.update([running.key, ("main", "r2")], [])
    assert (len(known), known.any_waits, known.get(running.key)) == (0, False, None)


def test_who_was_asked_for_goes_behind_the_others() -> None:
    known = waiting(job("r1", Status.RUN_CREATED), job("r2", Status.RUN_CREATED))
    known.defer(("main", "r1"))
    assert ids(known.moving) == ["r2", "r1"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.sampled_from([None, Status.RUN_CREATED, Status.JOB_SUBMITTED, Status.JOB_PENDING, Status.JOB_RUNNING]),
            st.integers(0, 2),
        ),
        max_size=60,
    ),
    st.integers(0, 2**16),
)
def test_what_is_kept_is_what_a_fresh_look_would_keep(changes: list[Any], seed: int) -> None:
    kept, rows, shuffled = OpenJobs(), {}, random.Random(seed)
    for number, status, priority in changes:
        key = ("main", f"r{number}")
        if status is None:
            rows.pop(key, None)
        else:
            leased = 30.0 if status == Status.JOB_RUNNING else None
            # A run never changes its priority.
            first = rows.get(key)
            rows[key] = job(f"r{number}", status, priority=first.priority if first else priority, lease_ttl_s=leased)
        kept.update([key], [rows[key]] if key in rows else [])
        if shuffled.random() < 0.5:
            for one in kept.unknown():
                kept.tell(one, SMALL if one.number % 2 else LARGE)
    for one in kept.unknown():
        kept.tell(one, SMALL if one.number % 2 else LARGE)
    fresh = OpenJobs()
    fresh.replace(rows.values())
    for one in fresh.unknown():
        fresh.tell(one, SMALL if one.number % 2 else LARGE)
    assert sorted(ids(kept.moving)) == sorted(ids(fresh.moving))
    assert sorted(ids(kept.candidates(100, nobody))) == sorted(ids(fresh.candidates(100, nobody)))
    assert sorted(ids(kept.candidates(0, nobody))) == sorted(ids(fresh.candidates(0, nobody)))
    assert (len(kept), kept.any_waits) == (len(rows), fresh.any_waits)
