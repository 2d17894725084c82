"""Storing whole commits again at their own positions, as fast as the broker takes them.

For imports only: bytes go out as they were stored, in atomic batches, each bound to the position where the
one before it ended. Several batches are on their way at once; when one is refused, so are all after it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.nuid import NUID

from tapeline.errors import TapelineError
from tapeline.log import StoredCommit, wire

BATCH = 1000
"""The broker's limit. A batch of 500 costs it a fifth more time a commit."""
BATCH_BYTES = 8 * 1024 * 1024
AHEAD = 4
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
    """

    def __init__(self, client: BulkClient, *, position: int) -> None:
        self._client = client
        self._sent = position
        self.position = position
        self._inbox = ""
        self._waiting: deque[tuple[int, asyncio.Future[wire.Ack]]] = deque()
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
        text = _protocol(commits, token, f"{self._inbox}.{token}", self._sent)
        self._sent = commits[-1].position
        self._waiting.append((self._sent, answer))
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
        expected, answer = self._waiting.popleft()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                ack = await answer
        except TimeoutError as error:
            raise TapelineError(
                f"the log did not confirm the commits up to position {expected}",
                code="unknown_outcome",
                hint="repeat the import: it goes on after the last commit that is stored",
            ) from error
        if ack.error is not None:
            if ack.error.err_code in wire.FULL:
                raise TapelineError(
                    f"the log stores nothing beyond position {self.position}: {ack.error.description}",
                    code="insufficient_storage",
                    hint="free disk, or raise max_bytes of EVENTS; then repeat the import",
                )
            if ack.error.err_code in wire.CONFLICTS:
                raise TapelineError(
                    f"somebody else writes to the log at position {self.position + 1}",
                    code="not_empty",
                    hint="stop the services (tapeline down) while a log is imported",
                )
            raise wire.refused(wire.Refused("an import", ack.error.err_code, ack.error.description))
        if ack.seq != expected:
            raise TapelineError(
                f"the log stored the commit of position {expected} at {ack.seq}",
                code="log_mismatch",
                hint="import into an empty log",
            )
        self.position = expected


def _protocol(commits: Sequence[StoredCommit], id: str, reply: str, after: int) -> bytes:
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
