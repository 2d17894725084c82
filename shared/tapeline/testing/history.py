"""What callers saw, written down while a system is tortured, and checked against its log afterwards.

Each caller writes a line before it asks (`invoke`) and one after it was answered: `ok` with what the answer
said, `fail` for a refusal, `info` when nobody knows whether it happened. The log is read with a few lines of
its own and not through the code under test. An aggregate is a list that only grows and each answer carries its
position, so one pass over log and history settles everything: no order has to be searched for.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tapeline.log import GENESIS, StoredCommit
from tapeline.log.metrics import MetricsMessage
from tapeline.metric_archives import marker_of

Phase = Literal["invoke", "ok", "fail", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a history: `t` is of the machine's monotonic clock, `id` the command's, `key` its aggregate."""

    t: int
    proc: str
    op: str
    phase: Phase
    id: str
    key: str | None = None
    value: Any = None


class History:
    """A file of entries that any number of threads add to; a line is with the kernel before the action goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, phase: Phase, op: str, id: str, *, proc: str = "", key: str | None = None, value: Any = None) -> None:
        """Write one line down."""
        entry = Entry(t=time.monotonic_ns(), proc=proc, op=op, phase=phase, id=id, key=key, value=value)
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self._lock:
            os.write(self._file, line)
            self._counts[phase] += 1

    def count(self, phase: Phase) -> int:
        """How many lines of a phase were written."""
        return self._counts[phase]

    def close(self) -> None:
        """Close the file; what was written stays."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_history(path: Path) -> list[Entry]:
    """The entries of a file, in the order of time."""
    with path.open(encoding="utf-8") as lines:
        return sorted((Entry(**json.loads(line)) for line in lines), key=lambda entry: entry.t)


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise: its kind, where, and what.

    Kinds: `lost`, `doubled`, `foreign`, `answer` (it told of another place), `order` (later asked, earlier
    stored), `hole`, `repeated` (an event id), `sequence`, `partial`, `chain`, `lease` (an epoch that does not
    rise, or a report of one that has ended), `refused` (a command that was refused stands on the log).
    """

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"


@dataclass(slots=True)
class Checked:
    """What a check went through and found."""

    acknowledged: int = 0
    unknown: int = 0
    commits: int = 0
    events: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Acknowledged commands that are not on the log."""
        return sum(one.kind == "lost" for one in self.findings)


@dataclass(slots=True)
class _Tail:
    """An aggregate as far as the scan has come."""

    sequence: int = 0
    digest: str = GENESIS
    epoch: int = 0


@dataclass(slots=True)
class _Stored:
    """Where a command stands: a commit of each aggregate that it touched."""

    position: int
    places: dict[int, tuple[str, int]] = field(default_factory=dict)


def check_history(history: Iterable[Entry], commits: Sequence[StoredCommit], *, callers: str = "user:") -> Checked:
    """Hold what callers saw against the whole log.

    Parameters
    ----------
    history
        Entries in the order of time. `value` of an `ok` is the answer's `{"position", "sequence"}`.
    commits
        The log from its first position on.
    callers
        How the actors begin whose commands are in the history: a commit of theirs that nobody asked for is
        `foreign`.
    """
    found = Checked(commits=len(commits))
    stored = _scan(commits, found, callers)
    _compare(history, stored, found)
    return found


def _scan(commits: Sequence[StoredCommit], found: Checked, callers: str) -> dict[str, _Stored]:
    tails: dict[str, _Tail] = {}
    stored: dict[str, _Stored] = {}
    ids: set[str] = set()

    def say(kind: str, what: str) -> None:
        found.findings.append(Finding(kind, f"position {commit.position}", what))

    for place, commit in enumerate(commits, 1):
        if commit.position != place:
            say("hole", f"it is the commit number {place}")
        head, events = json.loads(commit.header), json.loads(commit.body)
        tail = tails.setdefault(commit.subject, _Tail())
        if head["prev"] != tail.digest:
            say("chain", f"{commit.subject} ended at {tail.digest[:12]}, this one follows {head['prev'][:12]}")
        whole = b"\n".join((b"tl1", commit.subject.encode(), commit.header, commit.body))
        tail.digest = hashlib.sha256(whole).hexdigest()
        if head["n"] != len(events) or head["types"] != [event["type"] for event in events] or not events:
            say("partial", f"{commit.subject}: {len(events)} events, {head['n']} were decided together")
        for event in events:
            found.events += 1
            tail.sequence += 1
            if event["sequence"] != tail.sequence:
                say("sequence", f"{commit.subject}: {event['sequence']} in the place of {tail.sequence}")
                tail.sequence = event["sequence"]
            if event["id"] in ids:
                say("repeated", f"{commit.subject}: event {event['id']}")
            ids.add(event["id"])
            _lease(tail, event, say)
        if head["actor"].startswith(callers):
            one = stored.setdefault(head["cmd"], _Stored(commit.position))
            if any(subject == commit.subject for subject, _ in one.places.values()):
                say("doubled", f"{commit.subject}: command {head['cmd']} stands there twice")
            one.places[commit.position] = (commit.subject, tail.sequence)
    return stored


def _lease(tail: _Tail, event: Mapping[str, Any], say: Any) -> None:
    epoch = event["data"].get("epoch")
    if not isinstance(epoch, int):
        return
    if event["type"] == "LeaseGranted":
        if epoch <= tail.epoch:
            say("lease", f"epoch {epoch} was granted after epoch {tail.epoch}")
        tail.epoch = epoch
    elif epoch != tail.epoch:
        say("lease", f"{event['type']} of epoch {epoch} was taken in epoch {tail.epoch}")


def _compare(history: Iterable[Entry], stored: Mapping[str, _Stored], found: Checked) -> None:
    asked: dict[str, int] = {}
    answered: dict[str, tuple[int, int]] = {}
    refused: set[str] = set()
    unknown: set[str] = set()
    highest = 0
    for entry in history:
        where = f"command {entry.id}"
        if entry.phase == "invoke":
            # What stood when it was first asked stands before it, however often it is repeated.
            asked.setdefault(entry.id, highest)
        elif entry.phase == "info":
            unknown.add(entry.id)
        elif entry.phase == "fail":
            refused.add(entry.id)
        else:
            answer = (int(entry.value["position"]), int(entry.value["sequence"]))
            if answered.setdefault(entry.id, answer) != answer:
                found.findings.append(Finding("answer", where, f"first {answered[entry.id]}, then {answer}"))
            place = stored.get(entry.id)
            if place is None:
                found.findings.append(Finding("lost", where, f"{entry.op} was acknowledged at position {answer[0]}"))
                continue
            subject, sequence = place.places.get(answer[0], ("", 0))
            if not subject or sequence != answer[1] or (entry.key and not subject.endswith(f".{entry.key}")):
                found.findings.append(Finding("answer", where, f"{answer} is not where it stands: {place.places}"))
            if min(place.places) <= asked.get(entry.id, 0):
                told = f"stored at {min(place.places)}, asked after {asked[entry.id]} was acknowledged"
                found.findings.append(Finding("order", where, told))
            highest = max(highest, answer[0])
    found.acknowledged = len(answered)
    found.unknown = len(unknown - answered.keys())
    for id in sorted(refused & stored.keys() - unknown - answered.keys()):
        found.findings.append(Finding("refused", f"command {id}", f"it stands at {stored[id].position}"))
    for id in sorted(stored.keys() - asked.keys()):
        found.findings.append(Finding("foreign", f"command {id}", f"at {stored[id].position}; nobody asked for it"))


def check_metrics(history: Iterable[Entry], batches: Sequence[MetricsMessage]) -> list[Finding]:
    """Hold what agents were told of their measurements against the whole stream METRICS.

    Parameters
    ----------
    history
        Entries of which those with the op `append_metrics` count; `key` is `<run>/<attempt>`, `value` of an `ok` the
        answer's `{"batch"}`: the highest number without a hole before it.
    batches
        The stream from its first position on.
    """
    findings: list[Finding] = []
    last: dict[str, int] = {}
    attempts: dict[str, int] = {}
    before = 0
    for one in batches:
        key, where = f"{one.run}/{one.attempt}", f"METRICS {one.position}"
        if one.position <= before:
            findings.append(Finding("order", where, f"it comes after position {before}"))
        before = one.position
        if one.is_archive:
            # Whatever it stands for is stored, whether the batches are still there or not.
            for attempt, reached in marker_of(one.body).ledger.items():
                of = f"{one.run}/{attempt}"
                last[of] = max(reached[0], last.get(of, 0))
                attempts[one.run] = max(attempt, attempts.get(one.run, 0))
            continue
        if one.attempt < attempts.get(one.run, 0):
            findings.append(Finding("order", where, f"{key}: attempt {attempts[one.run]} measures already"))
        attempts[one.run] = max(one.attempt, attempts.get(one.run, 0))
        known = last.get(key, 0)
        if one.batch <= known:
            findings.append(Finding("doubled", where, f"{key}: batch {one.batch} comes again after {known}"))
        elif one.batch != known + 1:
            findings.append(Finding("hole", where, f"{key}: batch {one.batch} comes after {known}"))
        last[key] = max(one.batch, known)
    for entry in history:
        if entry.op == "append_metrics" and entry.phase == "ok":
            told = int(entry.value["batch"])
            if told > last.get(entry.key or "", 0):
                stored = f"{entry.key}: batch {told} was acknowledged, {last.get(entry.key or '', 0)} are stored"
                findings.append(Finding("lost", f"command {entry.id}", stored))
    return findings
