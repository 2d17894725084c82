"""The checker of histories: silent on a true one, and each planted fault is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tapeline.log import GENESIS, Appended, StoredCommit
from tapeline.log.memory import InMemoryLog
from tapeline.log.metrics import MetricsMessage
from tapeline.testing.commits import AT, Counted, codec, commit, till
from tapeline.testing.history import Checked, Entry, History, check_history, check_metrics, read_history
from tapeline.testing.log import everything

Log = list[StoredCommit]
Seen = list[Entry]


async def recorded() -> tuple[Seen, Log]:
    """Two aggregates, eight commands: one was refused, one stayed unknown and one was answered twice."""
    log = InMemoryLog(codec())
    tails: dict[str, Appended] = {}
    seen: Seen = []

    def add(phase: Any, id: str, key: str, value: Any = None) -> None:
        seen.append(Entry(t=len(seen), proc="w", op="count", phase=phase, id=id, key=key, value=value))

    for number in range(8):
        id, key = f"c{number}", f"t{number % 2}"
        add("invoke", id, key)
        if number == 5:
            add("fail", id, key)
            continue
        last = tails.get(key)
        events = (Counted(amount=1.0), Counted(amount=2.0))
        made = commit(id, *events, ref=till(key), after=last)
        tails[key] = await log.append(made, expected=last.position if last else 0)
        answer = {"position": tails[key].position, "sequence": tails[key].sequence}
        if number == 6:
            add("info", id, key)
            continue
        add("ok", id, key, answer)
        if number == 2:
            add("invoke", id, key)
            add("ok", id, key, answer)
    return seen, await everything(log)


def _header(log: Log, at: int, **changed: Any) -> Log:
    log[at] = msgspec.structs.replace(log[at], header=json.dumps(json.loads(log[at].header) | changed).encode())
    return log


def _events(log: Log, at: int, change: Callable[[list[Any]], Any]) -> Log:
    events = json.loads(log[at].body)
    change(events)
    log[at] = msgspec.structs.replace(log[at], body=json.dumps(events).encode())
    return log


def _moved(one: StoredCommit, position: int) -> StoredCommit:
    return msgspec.structs.replace(one, position=position)


def _renumbered(log: Log) -> Log:
    return [_moved(one, place) for place, one in enumerate(log, 1)]


def _swapped(log: Log) -> Log:
    log[2], log[3] = log[3], log[2]
    return _renumbered(log)


def _leased(log: Log, at: int, type: str, epoch: int) -> Log:
    return _header(
        _events(log, at, lambda events: events[0].update(type=type, data={"epoch": epoch})), at, types=[type, "Counted"]
    )


def _answer(seen: Seen, at: int, **changed: int) -> Seen:
    seen[at] = replace(seen[at], value=seen[at].value | changed)
    return seen


def _late(seen: Seen) -> Seen:
    """The command of the first position is asked for only after the second was acknowledged."""
    return [*seen[2:4], *seen[:2], *seen[4:]]


FAULTS: dict[str, tuple[str, Callable[[Seen, Log], tuple[Seen, Log]]]] = {
    "an acknowledged commit at the end is gone": ("lost", lambda seen, log: (seen, log[:-1])),
    "an acknowledged commit in the middle is gone": ("lost", lambda seen, log: (seen, log[:1] + log[2:])),
    "it is gone and the rest has moved up": ("chain", lambda seen, log: (seen, _renumbered(log[:1] + log[2:]))),
    "everything is gone": ("lost", lambda seen, log: (seen, [])),
    "a position is left out": ("hole", lambda seen, log: (seen, [*log[:-1], _moved(log[-1], 99)])),
    "two commits have changed places": ("answer", lambda seen, log: (seen, _swapped(log))),
    "a commit stands there twice": ("doubled", lambda seen, log: (seen, _renumbered([*log, log[-1]]))),
    "an event stands there twice": ("repeated", lambda seen, log: (seen, _renumbered([*log, log[-1]]))),
    "a command was done again under its id": ("doubled", lambda seen, log: (seen, _header(log, 2, cmd="c0"))),
    "a commit is only half there": ("partial", lambda seen, log: (seen, _events(log, 3, lambda events: events.pop()))),
    "a commit is empty": ("partial", lambda seen, log: (seen, _events(log, 3, lambda events: events.clear()))),
    "an event is of another type than was decided": (
        "partial", lambda seen, log: (seen, _events(log, 3, lambda events: events[0].update(type="Opened"))),
    ),
    "a sequence was skipped": (
        "sequence", lambda seen, log: (seen, _events(log, 4, lambda events: events[1].update(sequence=9))),
    ),
    "an amount was altered": (
        "chain", lambda seen, log: (seen, _events(log, 2, lambda events: events[0]["data"].update(amount=9.0))),
    ),
    "an aggregate begins anew": ("chain", lambda seen, log: (seen, _header(log, 4, prev=GENESIS))),
    "what was refused was done": ("refused", lambda seen, log: (seen, _header(log, 6, cmd="c5"))),
    "what nobody asked for was done": ("foreign", lambda seen, log: (seen, _header(log, 6, cmd="c99"))),
    "an answer told of another position": ("answer", lambda seen, log: (_answer(seen, 3, position=1), log)),
    "an answer told of another sequence": ("answer", lambda seen, log: (_answer(seen, 3, sequence=1), log)),
    "the second answer was another one": ("answer", lambda seen, log: (_answer(seen, 7, sequence=9), log)),
    "a later command stands before an earlier one": ("order", lambda seen, log: (_late(seen), log)),
    "the answer was that of another aggregate": (
        "answer", lambda seen, log: ([*seen[:3], replace(seen[3], key="t0"), *seen[4:]], log),
    ),
    "two leases overlap": (
        "lease", lambda seen, log: (seen, _leased(_leased(log, 0, "LeaseGranted", 2), 2, "LeaseGranted", 2)),
    ),
    "a lease that had ended reported": (
        "lease", lambda seen, log: (seen, _leased(_leased(log, 0, "LeaseGranted", 2), 2, "ReportNoted", 1)),
    ),
}  # fmt: skip


async def test_a_true_history_is_without_findings() -> None:
    seen, log = await recorded()
    assert check_history(seen, log) == Checked(acknowledged=6, unknown=1, commits=7, events=14)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_planted_fault_is_found_and_named(fault: str) -> None:
    kind, plant = FAULTS[fault]
    found = check_history(*plant(*(await recorded())))
    assert kind in {one.kind for one in found.findings}, [str(one) for one in found.findings]
    assert (found.lost > 0) == any(one.kind == "lost" for one in found.findings)


def test_what_was_written_down_is_read_back_in_order(tmp_path: Path) -> None:
    with History(tmp_path / "history") as history:
        history.add("invoke", "count", "a", proc="w1", key="t1")
        history.add("ok", "count", "a", proc="w1", key="t1", value={"position": 1, "sequence": 2})
        assert (history.count("ok"), history.count("fail")) == (1, 0)
    first, second = read_history(history.path)
    assert (first.phase, second.phase, second.value, second.key) == (
        "invoke",
        "ok",
        {"position": 1, "sequence": 2},
        "t1",
    )
    assert first.t <= second.t


def _measured() -> tuple[Seen, list[MetricsMessage]]:
    """Two runs, the second with two attempts, three batches each, all of them acknowledged."""
    seen: Seen = []
    batches: list[MetricsMessage] = []
    for run, attempt in (("r1", 1), ("r2", 1), ("r2", 2)):
        for batch in (1, 2, 3):
            position = len(batches) + 1
            batches.append(
                MetricsMessage(
                    position=position, team="main", run=run, attempt=attempt, batch=batch, body=b"", stored_at=AT
                )
            )
            key = f"{run}/{attempt}"
            seen.append(
                Entry(t=position, proc="a", op="append_metrics", phase="ok", id=f"m{position}", key=key,
                      value={"batch": batch})
            )  # fmt: skip
    return seen, batches


def test_measurements_that_are_whole_are_without_findings() -> None:
    assert check_metrics(*_measured()) == []


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("lost", lambda batches: batches[:-1]),
        ("hole", lambda batches: [*batches[:1], *batches[2:]]),
        ("doubled", lambda batches: [*batches[:4], replace(batches[3], position=5), *_after(batches[4:], 1)]),
        ("order", lambda batches: [*batches[:3], *_after(batches[6:], -3), *_after(batches[3:6], 3)]),
        ("order", lambda batches: [*batches[:4], replace(batches[4], position=2), *batches[5:]]),
    ],
)
def test_a_fault_of_measurements_is_found_and_named(
    kind: str, change: Callable[[list[MetricsMessage]], list[MetricsMessage]]
) -> None:
    seen, batches = _measured()
    assert kind in {finding.kind for finding in check_metrics(seen, change(batches))}


def _after(batches: list[MetricsMessage], by: int) -> list[MetricsMessage]:
    return [replace(one, position=one.position + by) for one in batches]
