"""Appending whole commits of another log at the end of this one, as they were stored there.

Bytes go out as they are, so that digests hold; positions are new. A batch is atomic, and each aggregate in it is
bound to where it ended when it was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.nuid import NUID

from tapeline.errors import TapelineError
from tapeline.log import StoredCommit, wire

BATCH = 1000
TIMEOUT_S = 30.0
_nuid = NUID()


async def graft(client: Client, commits: Sequence[StoredCommit], ends: Mapping[str, int]) -> int:
    """Store up to 1000 commits of any log, all or none; the position of the first, those of the others follow.

    Parameters
    ----------
    ends
        By subject: the position of the aggregate's last commit here, 0 for none.

    Raises
    ------
    TapelineError
        `conflict` when an aggregate has moved meanwhile, `insufficient_storage` when the broker is full,
        `unknown_outcome` when it does not answer.
    """
    id = _nuid.next().decode()
    seen: set[str] = set()
    answer = None
    for k, commit in enumerate(commits, 1):
        headers = {
            "Nats-Batch-Id": id,
            "Nats-Batch-Sequence": str(k),
            "Tl-Commit": commit.header.decode("ascii"),
            "Tl-Stored-At": wire.time_text(commit.stored_at),
        }
        if commit.subject not in seen:
            # The broker takes one expectation a subject; what follows within the batch is bound by it.
            headers["Nats-Expected-Last-Subject-Sequence"] = str(ends[commit.subject])
            seen.add(commit.subject)
        if k < len(commits):
            await client.publish(commit.subject, commit.body, headers=headers)
            continue
        try:
            answer = await wire.answer(
                client, commit.subject, commit.body, timeout=TIMEOUT_S, headers=headers | {"Nats-Batch-Commit": "1"}
            )
        except (NoRespondersError, *wire.NOT_SENT) as error:
            raise wire.unreachable() from error
        except TimeoutError as error:
            raise TapelineError(
                "the log did not confirm what was sent",
                code="unknown_outcome",
                hint="repeat the import: what is stored already is found by its digests",
            ) from error
    if answer is None:
        raise TapelineError("there is nothing to append", code="internal")
    ack = wire.ack_of(answer)
    if ack.error is None:
        return ack.seq - len(commits) + 1
    if ack.error.err_code in wire.CONFLICTS:
        raise TapelineError(
            f"an aggregate has moved meanwhile: {ack.error.description}", code="conflict", hint="repeat the import"
        )
    if ack.error.err_code in wire.FULL:
        raise TapelineError(
            f"the log stores nothing more: {ack.error.description}",
            code="insufficient_storage",
            hint="free disk, or raise max_bytes of EVENTS",
        )
    raise wire.refused(wire.Refused("an import", ack.error.err_code, ack.error.description))
