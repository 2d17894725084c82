"""Storing whole commits again at their own positions, as fast as the broker takes them.

For imports only: bytes go out as they were stored, many at a time, each lot bound to the position where the
one before it ended. Several are on their way at once; when one is refused, so are all after it.

A lot is an atomic batch, or plain publishes, each bound to the position before its own. Plain ones are for a broker
that nobody else can write to: what another writer put between two of them would stand in the place of one, and none
of the answers would say so. They are three times as fast: the broker stages an atomic batch in files of its own, and
for each message of it counts through all of its subjects.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.nuid import NUID

from tapeline.bulk import publishes
from tapeline.errors import TapelineError
from tapeline.log import StoredCommit, wire

STREAM = "EVENTS"
BATCH = 1000
"""The broker's limit. A batch of 500 costs it a fifth more time a commit."""
BATCH_BYTES = 8 * 1024 * 1024
AHEAD = 4
"""So many lots are on their way at once: fewer messages than the broker holds before it refuses some."""
TIMEOUT_S = 30.0


class BulkClient(Client):
    """A client that sends many publishes in one write."""

    async def send(self, text: bytes) -> None:
        """Write protocol text as it is."""
        if not self.is_connected:
            raise wire.unreachable()
        await self._send_command(text)
        await self._flush_pending(force_flush=True)


class BulkAppender:
    """Appends commits to the end of a stream and counts what the broker has confirmed.

    Parameters
    ----------
    client
        A connection of the admin identity, used for nothing else meanwhile.
    position
        Where the stream ends.
    atomic
        Whether a lot is stored whole or not at all. Plain ones are stored as far as they go, and need a broker that
        nobody else can write to.
    """

    def __init__(self, client: BulkClient, *, position: int, atomic: bool = True) -> None:
        self._client = client
        self._atomic = atomic
        self._sent = position
        self.position = position
        self._inbox = ""
        self._waiting: deque[tuple[Sequence[StoredCommit], asyncio.Future[wire.Ack]]] = deque()
        self._answers: dict[str, asyncio.Future[wire.Ack]] = {}
        self._nuid = NUID()

    async def add(self, commits: Sequence[StoredCommit]) -> None:
        """Send commits that follow what was sent before; waits while too many batches are open.

        Raises
        ------
        TapelineError
            `not_empty` when somebody else writes, `insufficient_storage` when the broker is full,
            `unknown_outcome` when it does not answer: repeating the import goes on from where it stands.
        """
        start = 0
        while start < len(commits):
            end, size = start, 0
            while end < len(commits) and end - start < BATCH and size < BATCH_BYTES:
                size += len(commits[end].body) + len(commits[end].header)
                end += 1
            await self._send(commits[start:end])
            start = end
            while len(self._waiting) >= AHEAD:
                await self._confirm()

    async def finish(self) -> int:
        """The position of the last commit, once the broker has confirmed everything."""
        while self._waiting:
            await self._confirm()
        return self.position

    async def _send(self, commits: Sequence[StoredCommit]) -> None:
        if not self._inbox:
            self._inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self._inbox}.*", cb=self._hear)
        token = self._nuid.next().decode()
        answer: asyncio.Future[wire.Ack] = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        reply = f"{self._inbox}.{token}"
        if self._atomic:
            text = _batch(commits, token, reply, self._sent)
        else:
            text = publishes(commits, self._sent, reply.encode())
        self._sent = commits[-1].position
        self._waiting.append((commits, answer))
        await self._client.send(text)

    async def _hear(self, msg: Msg) -> None:
        answer = self._answers.pop(msg.subject.rpartition(".")[2], None)
        if answer is None or answer.done():
            return
        if (msg.headers or {}).get("Status") == "503":
            answer.set_exception(wire.unreachable())
        else:
            answer.set_result(wire.ack_of(msg.data))

    async def _confirm(self) -> None:
        commits, answer = self._waiting.popleft()
        expected = commits[-1].position
        try:
            async with asyncio.timeout(TIMEOUT_S):
                ack = await answer
        except TimeoutError as error:
            raise _unconfirmed(expected) from error
        if (fault := ack.error) is not None:
            if not self._atomic and fault.err_code in wire.CONFLICTS:
                fault = await self._first_refusal(commits)
            raise self._told(fault)
        if ack.seq != expected:
            raise TapelineError(
                f"the log stored the commit of position {expected} at {ack.seq}",
                code="log_mismatch",
                hint="import into an empty log",
            )
        self.position = expected

    async def _first_refusal(self, commits: Sequence[StoredCommit]) -> wire.Fault:
        """Why the first plain publish was refused that was: only the last of a lot is answered, and it came after it.

        It is sent once more, by itself.
        """
        self.position = max(self.position, min((await wire.stream_state(self._client, STREAM)).last, self._sent))
        waiting = [*commits, *(one for lot, _ in self._waiting for one in lot)]
        left = next((one for one in waiting if one.position == self.position + 1), None)
        if left is None:
            return wire.Fault(err_code=min(wire.CONFLICTS), description="the log is longer than what was sent")
        headers = {
            "Nats-Expected-Last-Sequence": str(self.position),
            "Tl-Commit": left.header.decode(),
            "Tl-Stored-At": wire.time_text(left.stored_at),
        }
        try:
            answer = await wire.answer(self._client, left.subject, left.body, timeout=TIMEOUT_S, headers=headers)
        except (TimeoutError, NoRespondersError) as error:
            raise _unconfirmed(left.position) from error
        ack = wire.ack_of(answer)
        if ack.error is None:
            raise TapelineError(
                f"the broker dropped the commit of position {self.position + 1}, and took it when it was sent again",
                code="unknown_outcome",
                hint="repeat the import: it goes on after the last commit that is stored",
            )
        return ack.error

    def _told(self, fault: wire.Fault) -> TapelineError:
        if fault.err_code in wire.FULL:
            return TapelineError(
                f"the log stores nothing beyond position {self.position}: {fault.description}",
                code="insufficient_storage",
                hint="free disk, or raise max_bytes of EVENTS; then repeat the import",
            )
        if fault.err_code in wire.CONFLICTS:
            return TapelineError(
                f"somebody else writes to the log at position {self.position + 1}",
                code="not_empty",
                hint="stop the services (tapeline down) while a log is imported",
            )
        return wire.refused(wire.Refused("an import", fault.err_code, fault.description))


def _unconfirmed(position: int) -> TapelineError:
    return TapelineError(
        f"the log did not confirm the commits up to position {position}",
        code="unknown_outcome",
        hint="repeat the import: it goes on after the last commit that is stored",
    )


def _batch(commits: Sequence[StoredCommit], id: str, reply: str, after: int) -> bytes:
    """The publishes of one atomic batch; only the first carries an expectation, only the last is answered."""
    parts: list[bytes] = []
    batch = b"NATS/1.0\r\nNats-Batch-Id: %b\r\n" % id.encode()
    last = len(commits)
    for k, commit in enumerate(commits, 1):
        first = b"Nats-Expected-Last-Sequence: %d\r\n" % after if k == 1 else b""
        ends = b"Nats-Batch-Commit: 1\r\n" if k == last else b""
        headers = b"%bNats-Batch-Sequence: %d\r\n%b%bTl-Commit: %b\r\nTl-Stored-At: %b\r\n\r\n" % (
            batch, k, first, ends, commit.header, wire.time_text(commit.stored_at).encode(),
        )  # fmt: skip
        where = f"{commit.subject} {reply}" if k == last else commit.subject
        size = len(headers) + len(commit.body)
        parts.append(b"HPUB %b %d %d\r\n%b%b\r\n" % (where.encode(), len(headers), size, headers, commit.body))
    return b"".join(parts)
