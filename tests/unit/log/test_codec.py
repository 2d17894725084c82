"""The bytes of a commit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar
from uuid import UUID, uuid5

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.errors import TapelineError
from tapeline.log import Appended, NewCommit, StoredCommit
from tapeline.log.codec import NAMESPACE, Codec, digest, read_brief, read_header
from tapeline.testing.commits import AT, Counted, Opened, codec, commit, till


def stored(new: NewCommit, position: int = 1) -> StoredCommit:
    header, body = codec().encode(new)
    return StoredCommit(position=position, subject=new.ref.subject, header=header, body=body, stored_at=AT)


def test_the_header_has_its_fields_in_order() -> None:
    header, _ = codec().encode(commit("cmd-1", Opened(name="x"), Counted(amount=1.0)))
    assert list(json.loads(header)) == [
        "v", "team", "types", "schemas", "seq", "n", "actor", "command", "cmd", "cause", "corr", "prev", "app",
    ]  # fmt: skip
    assert json.loads(header) == {
        "v": 1,
        "team": "contoso",
        "types": ["Opened", "Counted"],
        "schemas": [1, 2],
        "seq": 1,
        "n": 2,
        "actor": "user:ann",
        "command": "Count",
        "cmd": "cmd-1",
        "cause": None,
        "corr": "cmd-1",
        "prev": "0" * 64,
        "app": "test",
    }
    assert b"\n" not in header
    assert header.isascii()


def test_the_body_lists_the_events_with_derived_ids() -> None:
    at = datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC)
    _, body = codec().encode(commit("cmd-1", Counted(amount=1.0), created_at=at))
    assert json.loads(body) == [
        {
            "id": str(uuid5(NAMESPACE, "evt.contoso.run.t1:cmd-1:0")),
            "sequence": 1,
            "type": "Counted",
            "schema": 2,
            "created_at": "2026-11-20T10:00:00.123456Z",
            "data": {"amount": 1.0, "at": None},
        }
    ]


def test_the_name_space_of_event_ids_never_changes() -> None:
    assert UUID("6f2c1d5e-8b0a-5c57-9d0e-7461706c696e") == NAMESPACE


def test_times_are_written_in_utc_with_microseconds() -> None:
    local = datetime(2026, 11, 20, 11, 0, 0, tzinfo=timezone(timedelta(hours=1)))
    _, body = codec().encode(commit("a", created_at=local))
    assert b'"created_at":"2026-11-20T10:00:00.000000Z"' in body


def test_the_digest_is_that_of_an_independent_implementation() -> None:
    header, body = codec().encode(commit("a"))
    text = b"tl1\nevt.contoso.run.t1\n" + header + b"\n" + body
    assert digest("evt.contoso.run.t1", header, body) == hashlib.sha256(text).hexdigest()


def test_the_brief_of_a_header_agrees_with_the_whole() -> None:
    one = stored(commit("a", Counted(amount=1.0), Counted(amount=2.0)))
    brief, header = read_brief(one.header, 1), read_header(one.header, 1)
    assert (brief.seq, brief.n, brief.cmd, brief.prev) == (header.seq, header.n, header.cmd, header.prev)


@pytest.mark.parametrize(
    ("changed", "code", "says"),
    [
        ({"events": ()}, "internal", "no events"),
        ({"events": (Counted(amount=1.0),) * 101}, "too_large", "101 events; the limit is 100"),
        ({"command_id": "a b"}, "invalid", "not a command id"),
        ({"command_id": "x" * 65}, "invalid", "not a command id"),
        ({"actor": "ann"}, "internal", "actor"),
        ({"command": "Größe"}, "internal", "command"),
        ({"cause": "x"}, "internal", "event id"),
        ({"correlation_id": "a b"}, "internal", "correlation"),
        ({"prev": "0"}, "internal", "chain"),
        ({"prev": "f" * 64}, "internal", "previous digest"),
        ({"sequence": 0}, "internal", "chain"),
        ({"sequence": 2}, "internal", "previous digest"),
        ({"created_at": datetime(2026, 1, 1)}, "internal", "zone"),
        ({"ref": till("UPPER")}, "invalid", "subject of the log"),
        ({"events": ("text",)}, "internal", "registered"),
        ({"events": (Opened(name="x", labels={"a": (1, 2)}),)}, "internal", "another value"),
        ({"events": (Opened(name="x", labels={"a": object()}),)}, "internal", "JSON"),
        ({"events": (Opened(name="x", labels={"a": [{"b": float("nan")}]}),)}, "invalid", "labels.a.*b is nan"),
        ({"events": (Counted(amount=float("-inf")),)}, "invalid", "Counted.amount is -inf"),
    ],
)  # fmt: skip
def test_a_commit_that_breaks_a_rule_is_not_encoded(changed: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(TapelineError, match=says) as refused:
        codec().encode(replace(commit("a"), **changed))
    assert refused.value.code == code


def test_a_long_header_is_refused() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Verbose:
        SCHEMA: ClassVar[int] = 1

    Verbose.__name__ = "V" * 200
    with pytest.raises(TapelineError, match="header of 21 KiB; the limit is 16 KiB") as refused:
        Codec({("V" * 200, 1): Verbose}).encode(commit("a", *[Verbose()] * 100))
    assert refused.value.code == "too_large"


def test_an_older_class_of_a_tag_is_not_written() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Counted:
        SCHEMA: ClassVar[int] = 1
        cents: int

    with pytest.raises(TapelineError, match="newest"):
        codec().encode(commit("a", Counted(cents=3)))


def line(type: str, schema: int, data: Any) -> bytes:
    return json.dumps(
        [
            {
                "id": "x",
                "sequence": 1,
                "type": type,
                "schema": schema,
                "created_at": "2026-01-01T00:00:00Z",
                "data": data,
                "later": 1,
            }
        ]
    ).encode()


def with_body(body: bytes) -> StoredCommit:
    return msgspec.structs.replace(stored(commit("a"), position=880), body=body)


def test_data_of_an_older_schema_is_turned_into_the_newest() -> None:
    [event] = codec().decode(with_body(line("Counted", 1, {"cents": 250})))
    assert event.data == Counted(amount=2.5)
    assert event.schema == 1


def test_unknown_fields_are_ignored() -> None:
    [event] = codec().decode(with_body(line("Opened", 1, {"name": "x", "colour": "red"})))
    assert event.data == Opened(name="x")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (line("Counted", 3, {"amount": 1}), "Counted schema 3 at position 880; this code knows up to 2"),
        (line("Burnt", 1, {}), "Burnt schema 1 at position 880; this code knows no event of that type"),
    ],
)
def test_what_this_code_does_not_know_is_named(body: bytes, says: str) -> None:
    with pytest.raises(TapelineError, match=says) as refused:
        codec().decode(with_body(body))
    assert refused.value.code == "schema_unknown"


def test_a_newer_envelope_is_refused() -> None:
    one = stored(commit("a"))
    newer = msgspec.structs.replace(one, header=one.header.replace(b'"v":1', b'"v":2'))
    with pytest.raises(TapelineError, match="format 2") as refused:
        codec().decode(newer)
    assert refused.value.code == "schema_unknown"


@pytest.mark.parametrize("body", [b"[", line("Counted", 2, {}), line("Counted", 2, {"amount": "x"})])
def test_bytes_that_are_not_what_their_schema_says_are_damage(body: bytes) -> None:
    with pytest.raises(TapelineError, match="880") as refused:
        codec().decode(with_body(body))
    assert refused.value.code == "log_damaged"


def test_a_missing_upcaster_is_found_at_the_start() -> None:
    with pytest.raises(TapelineError, match="Counted schema 1 into 2"):
        Codec({("Counted", 2): Counted})


def test_the_published_language_can_be_read_and_written() -> None:
    Codec(EVENTS, UPCASTERS)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FINITE | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)  # fmt: skip


@given(
    labels=st.dictionaries(st.text(), JSON),
    amounts=st.lists(FINITE, max_size=5),
)
def test_what_is_encoded_is_decoded(labels: dict[str, Any], amounts: list[float]) -> None:
    events = (Opened(name="x", labels=labels), *(Counted(amount=one) for one in amounts))
    after = Appended(position=9, sequence=9, digest="a" * 64)
    new = commit("a", *events, after=after)
    decoded = codec().decode(stored(new, position=11))
    assert tuple(one.data for one in decoded) == events
    assert [one.sequence for one in decoded] == list(range(10, 10 + len(events)))
    assert [one.index for one in decoded] == list(range(len(events)))
