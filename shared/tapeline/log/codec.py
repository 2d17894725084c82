"""The bytes of a commit: one header line of JSON and a body of JSON, checked before they are sent.

The codec takes its registry of event classes as an argument; `tapeline.contracts` has the real one. A
stored body is never encoded again: its bytes are what the digest covers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol, TypeVar, Union
from uuid import UUID

import msgspec

from tapeline.clock import time_text
from tapeline.errors import TapelineError
from tapeline.ids import named_id
from tapeline.log import GENESIS, NewCommit, StoredCommit, StoredEvent
from tapeline.log.erased import ERASED, blanks
from tapeline.subjects import Ref, ref_of

NAMESPACE = UUID("6f2c1d5e-8b0a-5c57-9d0e-7461706c696e")
_SPACE = NAMESPACE.bytes
"""Tapeline's name space of event ids; it never changes."""

FORMAT = 1
MAX_EVENTS = 100
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 512 * 1024

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

_COMMAND_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_COMMAND = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
_ACTOR = re.compile(r"(user|agent|service|operator):[a-z0-9][a-z0-9_-]{0,62}")
_CAUSE = re.compile(r"[0-9a-f-]{36}@[0-9]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Header(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The header of a commit, in the order of its fields on the wire."""

    v: int
    team: str
    types: list[str]
    schemas: list[int]
    seq: int
    n: int
    actor: str
    command: str
    cmd: str
    cause: str | None
    corr: str
    prev: str
    app: str
    content: str | None = None
    erased: str | None = None


class Brief(msgspec.Struct, frozen=True, gc=False):
    """What chains and idempotency need of a header: first sequence, count, command id, previous digest."""

    v: int
    seq: int
    n: int
    cmd: str
    prev: str
    erased: str | None = None


H = TypeVar("H", Header, Brief)


class _Line(msgspec.Struct, frozen=True, gc=False):
    id: str
    sequence: int
    type: str
    schema: int
    created_at: str
    data: Any


class Placed(Protocol):
    """An event's id and its place in its aggregate."""

    @property
    def id(self) -> str: ...

    @property
    def sequence(self) -> int: ...


class _StoredLine(msgspec.Struct, frozen=True, gc=False):
    id: str
    sequence: int
    type: str
    schema: int
    created_at: datetime
    data: msgspec.Raw


class Encoded(NamedTuple):
    """The two byte strings of a commit."""

    header: bytes
    body: bytes


_encoder = msgspec.json.Encoder()
_headers = msgspec.json.Decoder(Header)
_briefs = msgspec.json.Decoder(Brief)
_lines = msgspec.json.Decoder(list[_StoredLine])


def digest(subject: str, header: bytes, body: bytes) -> str:
    """The digest of a commit: SHA-256 over its subject, header and body, lower-case hex."""
    return hashlib.sha256(b"tl1\n%b\n%b\n%b" % (subject.encode(), header, body)).hexdigest()


def link(commit: StoredCommit) -> str:
    """The digest that the next commit of the same aggregate names.

    It is the commit's own, or the one that it had before something in it was erased.
    """
    if b'"erased":"' in commit.header and (before := read_brief(commit.header, commit.position).erased):
        return before
    return digest(commit.subject, commit.header, commit.body)


def event_id(subject: str, command_id: str, index: int) -> str:
    """The id of a command's event: the same whenever the command is repeated.

    It is the UUIDv5 of `<subject>:<command id>:<index>` in `NAMESPACE`.
    """
    return named_id(_SPACE, f"{subject}:{command_id}:{index}")


def read_header(header: bytes, position: int) -> Header:
    """All fields of a stored header; `schema_unknown` when it is of a newer format."""
    return _decoded(_headers, header, position)


def read_brief(header: bytes, position: int) -> Brief:
    """The few fields of a stored header that chains need, at a third of the cost."""
    return _decoded(_briefs, header, position)


def _decoded(decoder: msgspec.json.Decoder[H], header: bytes, position: int) -> H:
    try:
        found = decoder.decode(header)
    except msgspec.MsgspecError as error:
        raise TapelineError(
            f"the header of the commit at position {position} cannot be read: {error}", code="log_damaged"
        ) from error
    if found.erased is not None and not _DIGEST.fullmatch(found.erased):
        raise TapelineError(
            f"the commit at position {position} was erased from {found.erased!r}, which is no digest",
            code="log_damaged",
        )
    if found.v > FORMAT:
        raise TapelineError(
            f"the commit at position {position} has envelope format {found.v}; this code knows up to {FORMAT}",
            code="schema_unknown",
            hint="run a version of tapeline that is at least as new as the one that wrote it",
        )
    return found


class Codec:
    """Turns commits into bytes and back, for one registry of event classes.

    Parameters
    ----------
    events
        Every event class by (tag, schema); the highest schema of a tag is the one that is written.
    upcasters
        By (tag, n): the pure function from data of schema n to data of schema n + 1.
    tombstones
        By tag: the event that one of this tag is read as once its data was erased.
    app
        Version written into headers; informative.
    """

    def __init__(
        self,
        events: Mapping[tuple[str, int], type],
        upcasters: Mapping[tuple[str, int], Upcaster] | None = None,
        tombstones: Mapping[str, Any] | None = None,
        *,
        app: str | None = None,
    ) -> None:
        self._events = dict(events)
        self._upcasters = dict(upcasters or {})
        self._tombstones = dict(tombstones or {})
        self._app = app or version("tapeline")
        self._newest: dict[str, int] = {}
        for tag, schema in self._events:
            self._newest[tag] = max(schema, self._newest.get(tag, 0))
        for tag, newest in self._newest.items():
            for schema in range(1, newest):
                if (tag, schema) not in self._upcasters:
                    raise TapelineError(
                        f"no upcaster turns {tag} schema {schema} into {schema + 1}",
                        hint="register a pure function for it in tapeline.contracts.UPCASTERS",
                    )
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {
            tag: msgspec.json.Decoder(self._events[tag, newest]) for tag, newest in self._newest.items()
        }
        # A body of newest schemas is decoded in one pass, by a class for the line of each tag.
        self._line_tags = {_line_of(tag, self._events[tag, newest]): tag for tag, newest in self._newest.items()}
        union: Any = Union[tuple(self._line_tags) or (None,)]  # noqa: UP007 - made of a list
        self._whole: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[union])

    def encode(self, commit: NewCommit) -> Encoded:
        """The header and body of a commit, checked so that no fault of ours can enter the log.

        Raises
        ------
        TapelineError
            `too_large` beyond a limit; `invalid` for NaN, infinity or a malformed command id; `internal`
            with the failed rule for anything else.
        """
        self._check(commit)
        subject = commit.ref.subject
        schemas = [self._schema_of(event) for event in commit.events]
        types = [type(event).__name__ for event in commit.events]
        created_at = time_text(commit.created_at)
        lines = [
            _Line(
                event_id(subject, commit.command_id, index),
                commit.sequence + index,
                types[index],
                schemas[index],
                created_at,
                event,
            )
            for index, event in enumerate(commit.events)
        ]
        header = _encoder.encode(
            Header(
                v=FORMAT,
                team=commit.ref.team,
                types=types,
                schemas=schemas,
                seq=commit.sequence,
                n=len(lines),
                actor=commit.actor,
                command=commit.command,
                cmd=commit.command_id,
                cause=commit.cause,
                corr=commit.correlation_id or commit.command_id,
                prev=commit.prev,
                app=self._app,
                content=commit.content,
            )
        )
        try:
            body = _encoder.encode(lines)
        except (TypeError, ValueError, OverflowError) as error:
            raise _fault(commit, f"its events cannot be written as JSON: {error}") from error
        _check_sizes(header, body)
        if not header.isascii():
            raise _fault(commit, "its header is not ASCII")
        self._check_reading(commit, body)
        return Encoded(header, body)

    def decode(self, commit: StoredCommit) -> list[StoredEvent]:
        """The events of a stored commit, each upcast to the newest schema that this code knows.

        Raises
        ------
        TapelineError
            `schema_unknown`, with position, type and schema, for a type or schema that this code does not
            know; `log_damaged` for bytes that are not what their schema says.
        """
        if (found := self._read_newest(commit)) is None:
            return self._decode_any(commit)
        header, lines = found
        ref = ref_of(commit.subject)
        tags, newest, position = self._line_tags, self._newest, commit.position
        actor, command, cmd = header.actor, header.command, header.cmd
        cause, corr, content = header.cause, header.corr, header.content
        if len(lines) == 1:  # most commits: what follows, without its bookkeeping
            [line] = lines
            tag = tags[line.__class__]
            return [
                StoredEvent(
                    ref, line.id, line.sequence, tag, newest[tag], line.created_at, line.data, position, 0,
                    actor, command, cmd, cause, corr, content,
                )
            ]  # fmt: skip
        return [
            StoredEvent(
                ref, line.id, line.sequence, (tag := tags[line.__class__]), newest[tag], line.created_at, line.data,
                position, index, actor, command, cmd, cause, corr, content,
            )
            for index, line in enumerate(lines)
        ]  # fmt: skip

    def check(self, commit: StoredCommit) -> tuple[Header, Sequence[Placed]]:
        """The header of a stored commit and the places of its events, once all of it was decoded.

        Raises
        ------
        TapelineError
            As `decode`; `log_damaged` also when header and body do not name the same types and schemas.
        """
        if (found := self._read_newest(commit)) is not None:
            header, lines = found
            if len(lines) == 1 == len(header.types):
                [line] = lines
                if header.types[0] == self._line_tags[line.__class__] and header.schemas == [line.schema]:
                    return found
            named = [(self._line_tags[line.__class__], line.schema) for line in lines]
            placed: Sequence[Placed] = lines
        else:
            header = read_header(commit.header, commit.position)
            events = self._decode_any(commit)
            named = [(event.type, event.schema) for event in events]
            placed = events
        if named != list(zip(header.types, header.schemas, strict=False)) or len(header.types) != len(header.schemas):
            raise TapelineError(
                f"the header of the commit at position {commit.position} names {header.types} of the schemas "
                f"{header.schemas}, its body {[tag for tag, _ in named]} of {[schema for _, schema in named]}",
                code="log_damaged",
            )
        return header, placed

    def _read_newest(self, commit: StoredCommit) -> tuple[Header, list[Any]] | None:
        """Header and lines of a commit whose events are all of the newest schemas; None for any other."""
        try:
            header = _headers.decode(commit.header)
            lines = self._whole.decode(commit.body)
        except msgspec.MsgspecError:
            return None  # `_decode_any` reads it, or says what is wrong
        if header.v > FORMAT or header.erased is not None:
            return None
        newest, tags = self._newest, self._line_tags
        for line in lines:
            if line.schema != newest[tags[line.__class__]]:
                return None
        return header, lines

    def _decode_any(self, commit: StoredCommit) -> list[StoredEvent]:
        """The events of a commit, one after another: of older schemas, erased ones, or none that can be read."""
        header = read_header(commit.header, commit.position)
        ref = ref_of(commit.subject)
        try:
            lines = _lines.decode(commit.body)
        except msgspec.MsgspecError as error:
            raise TapelineError(
                f"the body of the commit at position {commit.position} cannot be read: {error}",
                code="log_damaged",
            ) from error
        return [
            StoredEvent(
                ref=ref,
                id=line.id,
                sequence=line.sequence,
                type=line.type,
                schema=line.schema,
                created_at=line.created_at,
                data=self._data(line, commit.position, erased=header.erased is not None),
                position=commit.position,
                index=index,
                actor=header.actor,
                command=header.command,
                command_id=header.cmd,
                cause=header.cause,
                correlation_id=header.corr,
                content=header.content,
                is_erased=header.erased is not None,
            )
            for index, line in enumerate(lines)
        ]

    def _data(self, line: _StoredLine, position: int, *, erased: bool) -> Any:
        newest = self._newest.get(line.type, 0)
        if not 1 <= line.schema <= newest:
            knows = f"up to {newest}" if newest else "no event of that type"
            raise TapelineError(
                f"{line.type} schema {line.schema} at position {position}; this code knows {knows}",
                code="schema_unknown",
                hint="run a version of tapeline that is at least as new as the one that wrote it",
            )
        try:
            if line.schema == newest and not erased:
                return self._decoders[line.type].decode(line.data)
            data = msgspec.json.decode(line.data, type=dict[str, Any])
            if erased:
                if data == ERASED and line.type in self._tombstones:
                    return self._tombstones[line.type]
                data = blanks(self._events.get((line.type, line.schema), self._events[line.type, newest])) | data
            for schema in range(line.schema, newest):
                data = self._upcasters[line.type, schema](data)
            return msgspec.convert(data, self._events[line.type, newest])
        except msgspec.MsgspecError as error:
            raise TapelineError(
                f"{line.type} schema {line.schema} at position {position} cannot be read: {error}",
                code="log_damaged",
            ) from error

    def tombstone(self, tag: str) -> Any:
        """What an event of a tag is read as once its data was erased; None when it must not be."""
        return self._tombstones.get(tag)

    def newest(self, tag: str) -> type:
        """The class that an event of a tag is read as."""
        return self._events[tag, self._newest[tag]]

    def _schema_of(self, event: Any) -> int:
        return self._newest[type(event).__name__]

    def _check(self, commit: NewCommit) -> None:
        if len(commit.events) > MAX_EVENTS:
            raise TapelineError(
                f"a commit of {len(commit.events)} events; the limit is {MAX_EVENTS}",
                code="too_large",
                hint="split the work into several commands",
            )
        if not _COMMAND_ID.fullmatch(commit.command_id):
            raise TapelineError(
                f"{commit.command_id!r} is not a command id",
                code="invalid",
                hint="use a UUID, or 1 to 64 of A-Z, a-z, 0-9, _ and -",
            )
        if not commit.events:
            raise _fault(commit, "it has no events")
        if commit.sequence < 1 or not _DIGEST.fullmatch(commit.prev):
            raise _fault(commit, f"sequence {commit.sequence} after {commit.prev!r} is no place in a chain")
        if (commit.sequence == 1) != (commit.prev == GENESIS):
            raise _fault(commit, f"sequence {commit.sequence} does not fit the previous digest {commit.prev}")
        if not _ACTOR.fullmatch(commit.actor):
            raise _fault(commit, f"{commit.actor!r} is not an actor")
        if not _COMMAND.fullmatch(commit.command):
            raise _fault(commit, f"{commit.command!r} is not a type of command")
        if commit.cause is not None and not _CAUSE.fullmatch(commit.cause):
            raise _fault(commit, f"{commit.cause!r} is not <event id>@<position>")
        if commit.correlation_id is not None and not _COMMAND_ID.fullmatch(commit.correlation_id):
            raise _fault(commit, f"{commit.correlation_id!r} is not a correlation id")
        if commit.created_at.tzinfo is None:
            raise _fault(commit, "its time has no zone")
        _check_subject(commit.ref)
        for event in commit.events:
            newest = self._newest.get(type(event).__name__, 0)
            if self._events.get((type(event).__name__, newest)) is not type(event):
                raise _fault(commit, f"{type(event).__name__} is not the newest registered class of its tag")

    def _check_reading(self, commit: NewCommit, body: bytes) -> None:
        """Refuse what would be read back as something else."""
        lines = _lines.decode(body)
        for event, line in zip(commit.events, lines, strict=True):
            try:
                same = self._decoders[line.type].decode(line.data) == event
            except msgspec.MsgspecError:
                same = False
            if not same:
                for path, number in _non_finite(event, line.type):
                    raise TapelineError(
                        f"{path} is {number}; a number in an event is finite",
                        code="invalid",
                        hint="leave the field out, or write a number",
                    )
                raise _fault(commit, f"{line.type} is read back as another value")


@lru_cache(maxsize=10_000)
def _check_subject(ref: Ref) -> None:
    """Refuse an aggregate that no subject can name; remembered for those that passed."""
    ref_of(ref.subject)


def _line_of(tag: str, event: type) -> type:
    """The class of a line whose `type` is a tag, with its data decoded along with it."""
    fields: list[tuple[str, Any]] = [
        ("id", str), ("sequence", int), ("schema", int), ("created_at", datetime), ("data", event),
    ]  # fmt: skip
    return msgspec.defstruct(f"{tag}Line", fields, tag_field="type", tag=tag, frozen=True, gc=False)


def _check_sizes(header: bytes, body: bytes) -> None:
    for what, size, limit in (
        ("commit", len(body), MAX_BODY_BYTES),
        ("commit header", len(header), MAX_HEADER_BYTES),
    ):
        if size > limit:
            raise TapelineError(
                f"a {what} of {math.ceil(size / 1024)} KiB; the limit is {limit // 1024} KiB",
                code="too_large",
                hint="put large values into the artifact store and name their digest",
            )


def _fault(commit: NewCommit, rule: str) -> TapelineError:
    return TapelineError(f"the commit of {commit.command} on {commit.ref} was not sent: {rule}", code="internal")


def _non_finite(value: Any, path: str) -> Iterator[tuple[str, float]]:
    """Each NaN or infinity within a value, with the path that leads to it."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield path, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _non_finite(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _non_finite(item, f"{path}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield from _non_finite(item, f"{path}[{index}]")
