"""Many commits as they stand on a log, of events that every instance knows; for figures and large logs."""

from __future__ import annotations

from datetime import UTC, datetime

from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.contracts.names import NumberTaken
from tapeline.log import GENESIS, NewCommit, StoredCommit
from tapeline.log.codec import Codec, digest
from tapeline.subjects import Ref

CODEC = Codec(EVENTS, UPCASTERS, TOMBSTONES)
AT = datetime(2026, 3, 2, tzinfo=UTC)


def stored_commits(n: int, *, events: int = 1, aggregates: int = 1000) -> list[StoredCommit]:
    """Chained commits of `events` events each at positions 1 to n, over the aggregates in turn."""
    tails: dict[int, tuple[int, str]] = {}
    found = []
    for i in range(n):
        sequence, prev = tails.get(i % aggregates, (0, GENESIS))
        ref = Ref("contoso", "run", f"counter{i % aggregates}")
        encoded = CODEC.encode(
            NewCommit(
                ref=ref,
                events=tuple(NumberTaken(number=i + k, holder="h" * 36) for k in range(events)),
                sequence=sequence + 1,
                prev=prev,
                created_at=AT,
                actor="user:ann",
                command="Take",
                command_id=f"c{i}",
            )
        )
        tails[i % aggregates] = (sequence + events, digest(ref.subject, *encoded))
        found.append(
            StoredCommit(position=i + 1, subject=ref.subject, header=encoded.header, body=encoded.body, stored_at=AT)
        )
    return found
