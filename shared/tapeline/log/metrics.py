"""Measurements of runs: columnar batches on the stream METRICS, one subject a run.

They are measurements, not decisions: their positions are not positions of the log, and holes are legal,
because an admin may purge the subject of a run. What a batch says is the runs service's business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import datetime

from nats.aio.client import Client
from nats.errors import MaxPayloadError, NoRespondersError

from tapeline import subjects
from tapeline.errors import TapelineError
from tapeline.log import Conflict, wire
from tapeline.log.reader import Connect, RawHeaders, Reader, header_of

STREAM = "METRICS"
MESSAGE_ID = "Nats-Msg-Id"
FORMAT = "Tl-Metrics"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
ROUNDS = 3
ARCHIVE = "archive"
"""Where batches have numbers, in the id of a message that says where they are archived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsMessage:
    """One stored batch of one attempt of a run; `body` is what was appended.

    A message without the id of a batch is none (`is_batch`) and has the numbers 0. One that `is_archive` says where
    all that came before it in its run lies in the artifact store; any other is for nobody to fold: only an operator
    can have sent it.
    """

    position: int
    team: str
    run: str
    attempt: int
    batch: int
    body: bytes
    stored_at: datetime
    is_batch: bool = True
    is_archive: bool = False


class MetricsStream:
    """Appends batches and reads them from a position.

    Parameters
    ----------
    client
        The connection for appends; it never replays.
    connect
        Connects a fresh client for each `read`.
    role
        First part of the names of consumers.
    """

    def __init__(
        self, client: Client, *, connect: Connect, role: str = "tapeline", timeout_s: float = wire.TIMEOUT_S
    ) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._reader = Reader(connect, stream=STREAM, role=f"{role}-metrics", make=_delivered, dense=False)

    async def append(
        self, team: str, run: str, attempt: int, batch: int, body: bytes, *, expected: int | None = None
    ) -> int:
        """Store one batch and give its position; a batch that is known already gives its old one.

        A repeat is known by its number: for two minutes to the broker itself, and later from the run's last
        message.

        Parameters
        ----------
        expected
            Position of the run's last message (0 for none): then a batch that another copy of the service
            stored in between is a `Conflict`.

        Raises
        ------
        Conflict
            The run's last message is at another position than `expected`, and is not this batch.
        TapelineError
            `insufficient_storage`, `too_large`, `unavailable`, or `unknown_outcome`: sending the batch again
            is safe.
        """
        return await self._append(team, run, f"{attempt}.{batch}", (attempt, batch), body, expected)

    async def append_archive(self, team: str, run: str, manifest: str, body: bytes, *, expected: int) -> int:
        """Store the marker of an archive and give its position; `manifest` is a digest, by which a repeat is known.

        Raises
        ------
        Conflict
            The run's last message is at another position than `expected`: what came since is not in the archive.
        TapelineError
            As `append`.
        """
        # The same archive is marked again where the stream was lost: then other messages come before it.
        return await self._append(team, run, f"{ARCHIVE}.{manifest}-{expected}", None, body, expected)

    async def _append(
        self, team: str, run: str, id: str, numbers: tuple[int, int] | None, body: bytes, expected: int | None
    ) -> int:
        subject = subjects.metrics(team, run)
        headers = {MESSAGE_ID: f"{team}.{run}.{id}", FORMAT: "1"}
        if expected is not None:
            headers[EXPECTED] = str(expected)
        for round in range(ROUNDS):
            try:
                msg = await wire.answer(self._client, subject, body, timeout=self._timeout_s, headers=headers)
            except (NoRespondersError, *wire.NOT_SENT) as error:
                if round == 0:
                    raise wire.unreachable() from error
                continue
            except TimeoutError:
                continue  # the message id makes sending it again safe
            except MaxPayloadError as error:
                raise _too_large(body) from error
            ack = wire.ack_of(msg)
            if ack.error is None:
                return ack.seq
            code = ack.error.err_code
            if code in wire.CONFLICTS:
                last = await self.tail(team, run)
                if last is not None and (
                    (last.attempt, last.batch) == numbers if numbers else last.is_archive and last.body == body
                ):
                    return last.position
                raise Conflict(f"the metrics of run {run} have moved")
            if code in wire.FULL:
                raise TapelineError(
                    f"the broker stores no more metrics: {ack.error.description}",
                    code="insufficient_storage",
                    hint="free disk, tapeline metrics purge, or raise max_bytes with tapeline topology apply",
                )
            if code in wire.TOO_LARGE:
                raise _too_large(body)
        what = f"batch {numbers[1]}" if numbers else "the archive"
        raise TapelineError(
            f"the broker did not answer for {what} of run {run}",
            code="unknown_outcome",
            hint="send the same batch again: it cannot be stored twice",
        )

    async def tail(self, team: str, run: str) -> MetricsMessage | None:
        """The last batch or archive of a run, by the leader's word, at the position of its last message.

        None when it has no message; of a run that has messages and neither among them, the last message.
        """
        query = {"last_by_subj": subjects.metrics(team, run)}
        found = await wire.message(self._client, STREAM, query, timeout=self._timeout_s)
        if found is None:
            return None
        last = _of_stored(found)
        if not (last.is_batch or last.is_archive):
            async for one in self.messages_of(team, run):
                if one.is_batch or one.is_archive:
                    last = replace(one, position=found.position)
        return last

    async def of_run(self, team: str, run: str) -> AsyncGenerator[MetricsMessage, None]:
        """Every batch of one run, in order."""
        async for one in self.messages_of(team, run):
            if one.is_batch:
                yield one

    async def messages_of(
        self, team: str, run: str, *, upto: int | None = None
    ) -> AsyncGenerator[MetricsMessage, None]:
        """Every message of one run up to a position, in order, those too that are no batches."""
        after, subject = 0, subjects.metrics(team, run)
        while True:
            query = {"seq": after + 1, "next_by_subj": subject}
            found = await wire.message(self._client, STREAM, query, timeout=self._timeout_s)
            if found is None or (upto is not None and found.position > upto):
                return
            after = found.position
            yield _of_stored(found)

    async def purge(self, team: str, run: str, *, before: int) -> int:
        """Remove every message of a run before a position, for ever; gives how many went.

        Only the admin identity may: what they say must have been kept elsewhere.

        Raises
        ------
        TapelineError
            `unavailable` when the broker does not answer, as it does not for any other identity.
        """
        query = {"filter": subjects.metrics(team, run), "seq": before}
        try:
            answer = await wire.request(self._client, f"STREAM.PURGE.{STREAM}", query, timeout=self._timeout_s)
        except wire.Refused as error:
            raise wire.refused(error) from error
        return int(answer["purged"])

    async def head(self) -> int:
        """The last position of the stream; 0 when nothing was ever stored."""
        return (await wire.stream_state(self._client, STREAM)).last

    async def size(self) -> tuple[int, int]:
        """How many bytes are stored, and how many may be; 0 for no bound."""
        state = await wire.stream_state(self._client, STREAM)
        return state.size_bytes, max(0, state.config["max_bytes"])

    async def missing(self) -> int:
        """How many batches were purged; what was made of them must have been kept."""
        state = await wire.stream_state(self._client, STREAM)
        return state.last - state.messages

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[MetricsMessage], None]:
        """Every message of every run with `after < position <= upto`, in order, in lists.

        Ends at the position that was last when reading began, or never when `follow`.
        """
        lists = self._reader.read(after=after, upto=upto, follow=follow)
        try:
            async for many in lists:
                yield many
        finally:
            await lists.aclose()


def _delivered(position: int, subject: str, headers: RawHeaders, body: bytes, ns: int) -> MetricsMessage:
    id = header_of(headers, b"\r\nNats-Msg-Id: ") or b""
    return _message(position, subject, id.decode(errors="replace"), body, wire.time_of_ns(ns))


def _of_stored(found: wire.Message) -> MetricsMessage:
    return _message(found.position, found.subject, found.headers.get(MESSAGE_ID, ""), found.body, found.stored_at)


def _message(position: int, subject: str, id: str, body: bytes, stored_at: datetime) -> MetricsMessage:
    team, run = subjects.metrics_owner(subject)
    numbers = id.removeprefix(f"{team}.{run}.").split(".")
    is_archive = len(numbers) == 2 and numbers[0] == ARCHIVE
    is_batch = len(numbers) == 2 and all(one.isascii() and one.isdecimal() for one in numbers)
    attempt, batch = map(int, numbers if is_batch else ("0", "0"))
    return MetricsMessage(
        position=position,
        team=team,
        run=run,
        attempt=attempt,
        batch=batch,
        body=body,
        stored_at=stored_at,
        is_batch=is_batch,
        is_archive=is_archive,
    )


def _too_large(body: bytes) -> TapelineError:
    return TapelineError(
        f"a batch of metrics of {len(body) // 1024} KiB is more than the broker takes",
        code="too_large",
        hint="close batches at 256 KiB",
    )
