"""The log on JetStream: each append ends in exactly one known outcome, or says that it does not know.

Every append carries its expectation. The broker's duplicate window is only a convenience: what settles an
append without an answer is reading the aggregate's tail and sending the same bytes under the same
expectation again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from nats.aio.client import Client
from nats.errors import MaxPayloadError, NoRespondersError
from nats.nuid import NUID

from tapeline.clock import Clock, SystemClock
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.log import Appended, Conflict, Head, NewCommit, StoredCommit, wire
from tapeline.log.codec import Codec, Encoded, digest
from tapeline.log.outcomes import (
    NEARLY_FULL,
    all_ours,
    check_batch,
    check_chain,
    check_expectation,
    check_room,
    message_id,
    ours,
)
from tapeline.log.reader import Connect, Reader, commit_of
from tapeline.logs import get_logger
from tapeline.subjects import Ref, events_of, events_of_place, ref_of

log = get_logger()

STREAM = "EVENTS"
LOG_ID = "tapeline.log_id"
BATCH = 1000
ROUNDS = 3
DEADLINE_S = 15.0
STUCK_AFTER = 3
PROBE_S = 5.0
ROOM_S = 5.0
"""How long what is known of the log's size is taken for true."""

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
MESSAGE_ID = "Nats-Msg-Id"
COMMIT = "Tl-Commit"
STORED_AT = "Tl-Stored-At"


@dataclass(frozen=True, slots=True)
class _Outbound:
    """One commit on its way: its bytes, its expectation (None: it follows in a batch) and message id."""

    commit: NewCommit
    encoded: Encoded
    expected: int | None
    id: str

    @property
    def headers(self) -> dict[str, str]:
        lines = {MESSAGE_ID: self.id, COMMIT: self.encoded.header.decode()}
        return lines if self.expected is None else {EXPECTED: str(self.expected), **lines}


class _Unknown(Exception):
    """No answer, or one that says nothing about what was stored."""


class _Moved(Exception):
    """The broker refused the expectation, or knows a message id of the batch."""


class JetStreamLog:
    """An `EventLog` on the stream EVENTS.

    Parameters
    ----------
    client
        The connection for appends and loads of aggregates; it never replays.
    codec
        Turns commits into bytes.
    connect
        Connects a fresh client for each `read`, so that a replay delays no ack.
    role
        First part of the names of consumers, such as `runs`.
    timeout_s
        How long one request may take; an append takes at most three of them and 15 s.
    """

    def __init__(
        self,
        client: Client,
        codec: Codec,
        *,
        connect: Connect,
        role: str = "tapeline",
        clock: Clock | None = None,
        timeout_s: float = wire.TIMEOUT_S,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._client = client
        self._codec = codec
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._direct = wire.DirectGet(client, STREAM)
        self._reader = Reader(connect, stream=STREAM, role=role, make=commit_of, quick=StoredCommit)
        self._nuid = NUID()
        self._unknowns = 0
        self._probe_at = 0.0
        self._reconnects = 0
        self._room: Head | None = None
        self._room_until = -math.inf

    @property
    def is_stuck(self) -> bool:
        """Whether three appends in a row stayed without an answer over a living connection.

        A broker whose disk was full stays so until it is restarted; one append every 5 s probes it.
        """
        if self._client.stats["reconnects"] != self._reconnects:
            self._settled()
        return self._unknowns >= STUCK_AFTER

    async def append(self, commit: NewCommit, *, expected: int) -> Appended:
        """Store one commit; see `EventLog.append`."""
        check_expectation(commit, expected)
        await self._check_room([commit])
        outbound = _Outbound(commit, self._codec.encode(commit), expected, message_id(commit))
        [appended] = await self._store([outbound], {commit.ref: expected})
        return appended

    async def append_all(self, commits: Sequence[tuple[NewCommit, int]]) -> list[Appended]:
        """Store several commits as one atomic batch; see `EventLog.append_all`."""
        heads = check_batch(commits)
        encoded = [self._codec.encode(commit) for commit, _ in commits]
        check_chain(commits, encoded)
        await self._check_room([commit for commit, _ in commits])
        if len(commits) == 1:
            commit = commits[0][0]
            return await self._store([_Outbound(commit, encoded[0], commits[0][1], message_id(commit))], heads)
        outbound: list[_Outbound] = []
        waiting = dict(heads)
        for k, ((commit, _), one) in enumerate(zip(commits, encoded, strict=True)):
            # The broker refuses a second expectation for a subject; the chain of digests holds the rest.
            outbound.append(_Outbound(commit, one, waiting.pop(commit.ref, None), message_id(commit, k)))
        return await self._store(outbound, heads)

    async def load(
        self, ref: Ref, *, after: int = 0, upto: int | None = None, leader: bool = False
    ) -> list[StoredCommit]:
        """The commits of one aggregate; see `EventLog.load`."""
        if leader:
            return [one async for one in self._from_leader(ref, after, upto)]
        found: list[StoredCommit] = []
        more = True
        while more and (upto is None or after < upto):
            messages, more = await self._direct.messages(ref.subject, after=after, batch=BATCH)
            found += [_stored(one) for one in messages if upto is None or one.position <= upto]
            after = messages[-1].position if messages else after
        return found

    async def page(self, *, after: int, limit: int, team: str | None = None) -> list[StoredCommit]:
        """A few commits after a position; see `EventLog.page`."""
        messages, _ = await self._direct.messages(events_of(team), after=after, batch=min(limit, BATCH))
        return [_stored(one) for one in messages]

    async def refs(self, place: str) -> list[Ref]:
        """The aggregates that are written as `<kind>/<id>`; see `EventLog.refs`."""
        held = await wire.subjects_held(self._client, STREAM, events_of_place(place))
        return [ref_of(subject) for subject in held]

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[StoredCommit], None]:
        """Every commit in lists, over a connection of its own; see `EventLog.read`."""
        lists = self._reader.read(after=after, upto=upto, follow=follow)
        try:
            async for many in lists:
                yield many
        finally:
            await lists.aclose()

    async def head(self) -> Head:
        """The end of the log; see `EventLog.head`."""
        state = await wire.stream_state(self._client, STREAM)
        log_id = state.config.get("metadata", {}).get(LOG_ID)
        if not log_id:
            raise TapelineError(
                f"{STREAM} has no {LOG_ID}", code="topology_mismatch", hint="it was not made by tapeline topology apply"
            )
        return Head(
            log_id=log_id, position=state.last, size_bytes=state.size_bytes, max_bytes=state.config["max_bytes"]
        )

    # --- one append, from sending to a known outcome -------------------------------------------------

    async def _store(self, outbound: list[_Outbound], heads: dict[Ref, int]) -> list[Appended]:
        """Send, and resolve until the outcome is known: at most three rounds, at most 15 s."""
        self._check_accepting()
        deadline = self._clock.monotonic() + self._deadline_s
        what = ", ".join(map(str, heads))
        unknown = False
        for round in range(ROUNDS):
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                break
            try:
                return await self._send(outbound, min(self._timeout_s, left_s), first=not unknown)
            except _Unknown:
                unknown = True
            except _Moved:
                pass
            try:
                found = await self._resolve(outbound, heads, deadline, sent=unknown)
            except TapelineError as error:
                if error.code != "unavailable":
                    raise
                unknown = True  # nothing could be read: whether this command stands is not known
                break
            if found is not None:
                return all_ours(found, what)
            await asyncio.sleep(0.01 * round)
        if not unknown:
            raise Conflict(f"{what} is being changed")
        raise TapelineError(
            "the log did not answer",
            code="unknown_outcome",
            hint="retry with the same command_id: it cannot happen twice",
        )

    async def _send(self, outbound: list[_Outbound], timeout_s: float, *, first: bool) -> list[Appended]:
        """One try. `first` is false once an earlier try may have been stored."""
        reconnects = self._client.stats["reconnects"]
        passed("log.before_publish")
        try:
            ack = await (
                self._publish(outbound[0], timeout_s)
                if len(outbound) == 1
                else self._publish_batch(outbound, timeout_s)
            )
        except (NoRespondersError, *wire.NOT_SENT) as error:
            if first:
                raise wire.unreachable() from error
            raise _Unknown from error
        except TimeoutError as error:
            self._unsettled(reconnects)
            raise _Unknown from error
        except MaxPayloadError as error:
            raise _too_large(outbound) from error
        code = ack.error.err_code if ack.error else 0
        if ack.error is None:
            self._settled()
            passed("log.acked")
            return await self._acknowledged(outbound, ack)
        if code in wire.CONFLICTS:
            self._settled()
            raise _Moved
        if code in wire.FULL and first:
            self._settled()
            raise TapelineError(
                f"the log stores nothing more: {ack.error.description}",
                code="insufficient_storage",
                hint="free disk, or raise max_bytes of EVENTS with tapeline topology apply",
            )
        if code in wire.TOO_LARGE:
            self._settled()
            raise _too_large(outbound)
        self._unsettled(reconnects)
        raise _Unknown(ack.error.description)

    async def _publish(self, one: _Outbound, timeout_s: float) -> wire.Ack:
        msg = await wire.answer(
            self._client,
            one.commit.ref.subject,
            one.encoded.body,
            timeout=timeout_s,
            headers=one.headers,
            sent=_published,
        )
        return wire.ack_of(msg)

    async def _publish_batch(self, outbound: list[_Outbound], timeout_s: float) -> wire.Ack:
        """All messages but the last are plain publishes; the last commits the batch and is answered."""
        id = self._nuid.next().decode()  # each try is a batch of its own: an abandoned one may still be open
        *others, last = [
            (one, {**one.headers, "Nats-Batch-Id": id, "Nats-Batch-Sequence": str(k)})
            for k, one in enumerate(outbound, 1)
        ]
        await wire.publish_all(
            self._client, ((one.commit.ref.subject, one.encoded.body, headers) for one, headers in others)
        )
        one, headers = last
        msg = await wire.answer(
            self._client,
            one.commit.ref.subject,
            one.encoded.body,
            timeout=timeout_s,
            headers={**headers, "Nats-Batch-Commit": "1"},
            sent=_published,
        )
        return wire.ack_of(msg)

    async def _acknowledged(self, outbound: list[_Outbound], ack: wire.Ack) -> list[Appended]:
        if ack.duplicate:
            return [await self._known(outbound[0], ack.seq)]
        first = ack.seq - len(outbound) + 1  # the positions of a batch are dense and end at the ack's
        return [
            Appended(
                position=first + k,
                sequence=one.commit.sequence + len(one.commit.events) - 1,
                digest=digest(one.commit.ref.subject, *one.encoded),
            )
            for k, one in enumerate(outbound)
        ]

    async def _known(self, one: _Outbound, position: int) -> Appended:
        """The commit that the broker says it has under our message id."""
        message = await wire.message(self._client, STREAM, {"seq": position}, timeout=self._timeout_s)
        if message is not None and message.subject == one.commit.ref.subject:
            appended = ours(one.commit, one.encoded, [_stored(message)], sent=False)
            if appended is not None:
                return appended
        raise TapelineError(
            f"the broker knows message id {one.id} at position {position}, which is another commit",
            code="internal",
        )

    async def _resolve(
        self, outbound: list[_Outbound], heads: dict[Ref, int], deadline: float, *, sent: bool
    ) -> list[Appended | None] | None:
        """Where each commit stands by the leader's word; None when no tail has moved."""
        since: dict[Ref, list[StoredCommit]] = {}
        moved = False
        for ref, expected in heads.items():
            tail = await self._read_tail(ref, deadline)
            moved = moved or (tail.position if tail else 0) != expected
            upto = tail.position if tail else 0
            if upto == expected + 1 and tail:
                since[ref] = [tail]
            else:
                since[ref] = [one async for one in self._from_leader(ref, expected, upto)]
        if not moved:
            return None
        return [ours(one.commit, one.encoded, since[one.commit.ref], sent=sent) for one in outbound]

    async def _read_tail(self, ref: Ref, deadline: float) -> StoredCommit | None:
        """The last commit of an aggregate from the leader, asked for until the deadline."""
        pause_s = 0.05
        while True:
            left_s = deadline - self._clock.monotonic()
            try:
                found = await wire.message(
                    self._client, STREAM, {"last_by_subj": ref.subject}, timeout=max(0.1, min(self._timeout_s, left_s))
                )
                return _stored(found) if found else None
            except TapelineError as error:
                if error.code != "unavailable" or self._client.is_closed or left_s <= pause_s:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    async def _from_leader(self, ref: Ref, after: int, upto: int | None) -> AsyncGenerator[StoredCommit, None]:
        while upto is None or after < upto:
            query = {"seq": after + 1, "next_by_subj": ref.subject}
            message = await wire.message(self._client, STREAM, query, timeout=self._timeout_s)
            if message is None or (upto is not None and message.position > upto):
                return
            after = message.position
            yield _stored(message)

    # --- whether the broker accepts writes -----------------------------------------------------------

    def _check_accepting(self) -> None:
        if self.is_stuck and self._clock.monotonic() < self._probe_at:
            raise TapelineError(
                "the log does not accept writes",
                code="unavailable",
                hint="nats-server answers reads but stores nothing: look at its disk and restart it",
            )
        self._probe_at = self._clock.monotonic() + PROBE_S

    async def _check_room(self, commits: Sequence[NewCommit]) -> None:
        """Refuse new aggregates on a log that is nearly full; see `check_room`."""
        if all(commit.sequence > 1 for commit in commits):
            return
        if self._clock.monotonic() >= self._room_until:
            try:
                state = await wire.stream_state(self._client, STREAM, timeout=min(self._timeout_s, 1.0))
            except TapelineError:
                self._room_until = self._clock.monotonic() + ROOM_S
                return  # the append that follows says better what is wrong
            self._room = Head(
                log_id="", position=state.last, size_bytes=state.size_bytes, max_bytes=state.config["max_bytes"]
            )
            is_filling = state.size_bytes >= NEARLY_FULL * state.config["max_bytes"] > 0
            # Near the end it is asked each time, so that more room is used as soon as it is there.
            self._room_until = self._clock.monotonic() + (0.0 if is_filling else ROOM_S)
            if is_filling:
                log.warning("log_nearly_full", size_bytes=state.size_bytes, max_bytes=state.config["max_bytes"])
        if self._room is not None:
            check_room(commits, self._room)

    def _settled(self) -> None:
        self._unknowns = 0
        self._reconnects = self._client.stats["reconnects"]

    def _unsettled(self, reconnects: int) -> None:
        lived = self._client.is_connected and self._client.stats["reconnects"] == reconnects
        self._unknowns = self._unknowns + 1 if lived else 0
        self._reconnects = self._client.stats["reconnects"]


def _published() -> None:
    passed("log.published")


def _stored(message: wire.Message) -> StoredCommit:
    header = message.headers.get(COMMIT)
    if header is None:
        raise TapelineError(f"the message at position {message.position} is no commit", code="log_damaged")
    original = message.headers.get(STORED_AT)
    return StoredCommit(
        position=message.position,
        subject=message.subject,
        header=header.encode(),
        body=message.body,
        stored_at=wire.time_of(original) if original else message.stored_at,
    )


def _too_large(outbound: list[_Outbound]) -> TapelineError:
    size = max(len(one.encoded.body) + len(one.encoded.header) for one in outbound)
    return TapelineError(
        f"the broker takes no commit of {size // 1024} KiB",
        code="too_large",
        hint="raise max_payload of nats-server to 1 MiB; put large values into the artifact store",
    )
