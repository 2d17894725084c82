"""What an append comes to: the checks before it, and the search for our own commit after it.

Shared by every log, so that the one in memory and the real one agree to the letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tapeline.errors import TapelineError
from tapeline.log import Appended, Conflict, Head, NewCommit, StoredCommit
from tapeline.log.codec import Encoded, digest, read_brief
from tapeline.subjects import Ref

MAX_BATCH = 1000
NEARLY_FULL = 0.8
FULL_FOR_NEW = 0.9


def message_id(commit: NewCommit, index: int | None = None) -> str:
    """The broker's message id of a commit; `index` is its place in a batch."""
    ref = commit.ref
    suffix = "" if index is None else f".{index}"
    return f"{ref.team}.{ref.kind}.{ref.id}:{commit.command_id}{suffix}"


def check_expectation(commit: NewCommit, expected: int) -> None:
    """Refuse an expectation that contradicts the commit's own place in its chain."""
    if expected < 0 or (expected == 0) != (commit.sequence == 1):
        raise TapelineError(
            f"the commit of {commit.command} on {commit.ref} was not sent: "
            f"sequence {commit.sequence} does not fit the expected position {expected}",
            code="internal",
        )


def check_room(commits: Iterable[NewCommit], head: Head) -> None:
    """Refuse what makes new aggregates once nine tenths of the log are full: the rest is for what ends work."""
    ratio = head.size_bytes / head.max_bytes if head.max_bytes > 0 else 0.0
    if ratio < FULL_FOR_NEW:
        return
    for commit in commits:
        if commit.sequence == 1:
            raise TapelineError(
                f"the log is {ratio:.0%} full and takes nothing new: {commit.ref} was not made",
                code="insufficient_storage",
                hint="what is there can still be ended; raise max_bytes of EVENTS with tapeline topology apply",
            )


def check_batch(commits: Sequence[tuple[NewCommit, int]]) -> dict[Ref, int]:
    """The expectation of each aggregate of a batch, which is that of its first commit.

    The later commits of an aggregate follow their predecessor in the batch; their own expectation is not
    read.
    """
    if not commits:
        raise TapelineError("a batch without a commit was not sent", code="internal")
    if len(commits) > MAX_BATCH:
        raise TapelineError(
            f"a batch of {len(commits)} commits; the limit is {MAX_BATCH}",
            code="too_large",
            hint="split the work into several commands",
        )
    heads: dict[Ref, int] = {}
    next_sequence: dict[Ref, int] = {}
    seen: set[tuple[Ref, str]] = set()
    for commit, expected in commits:
        if commit.ref not in heads:
            check_expectation(commit, expected)
            heads[commit.ref] = expected
        elif commit.sequence != next_sequence[commit.ref] or (commit.ref, commit.command_id) in seen:
            raise TapelineError(
                f"the batch was not sent: commit {commit.command_id} on {commit.ref} begins at sequence "
                f"{commit.sequence} and does not follow the one before it",
                code="internal",
            )
        next_sequence[commit.ref] = commit.sequence + len(commit.events)
        seen.add((commit.ref, commit.command_id))
    return heads


def check_chain(commits: Sequence[tuple[NewCommit, int]], encoded: Sequence[Encoded]) -> None:
    """Refuse a batch whose commits of one aggregate do not name each other's digests."""
    last: dict[Ref, str] = {}
    for (commit, _), (header, body) in zip(commits, encoded, strict=True):
        if last.get(commit.ref, commit.prev) != commit.prev:
            raise TapelineError(
                f"the batch was not sent: commit {commit.command_id} on {commit.ref} does not name the digest "
                f"of the one before it",
                code="internal",
            )
        last[commit.ref] = digest(commit.ref.subject, header, body)


def ours(commit: NewCommit, encoded: Encoded, since: Iterable[StoredCommit], *, sent: bool) -> Appended | None:
    """Where this commit's command already stands among the commits after its expectation, or None.

    `sent` says that this call may itself have stored it: then a commit with our very bytes is no replay.
    """
    for stored in since:
        brief = read_brief(stored.header, stored.position)
        if brief.cmd == commit.command_id:
            found = digest(stored.subject, stored.header, stored.body)
            own = sent and found == digest(commit.ref.subject, *encoded)
            return Appended(position=stored.position, sequence=brief.seq + brief.n - 1, digest=found, replayed=not own)
    return None


def all_ours(found: Sequence[Appended | None], what: str) -> list[Appended]:
    """The outcomes of a batch that is on the log whole; a conflict when any commit is missing."""
    complete = [one for one in found if one is not None]
    if len(complete) != len(found):
        raise Conflict(f"{what} changed while the command was decided")
    return complete
