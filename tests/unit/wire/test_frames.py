"""The compiled cutter of frames agrees with the one in plain Python, however the bytes are split."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapeline.wire import _frames, reference

SID = 7


def made(position: int, subject: str, header: bytes, body: bytes, at: datetime) -> tuple[Any, ...]:
    return position, subject, header, body, at


def message(subject: bytes, sid: int, reply: bytes, body: bytes, headers: bytes | None) -> bytes:
    words = [subject, b"%d" % sid, *([reply] if reply else [])]
    if headers is None:
        return b"MSG %b %d\r\n%b\r\n" % (b" ".join(words), len(body), body)
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (b" ".join(words), len(headers), len(headers) + len(body), headers, body)


def delivery(
    position: int, body: bytes = b"[]", *, domain: bool = False, ns: int = 1_767_225_600_123_456_789, lines: bytes = b""
) -> bytes:
    place = b"EVENTS.c.1.%d.%d.%d.5" % (position, position, ns)
    reply = b"$JS.ACK." + (b"hub.acc." if domain else b"") + place + (b".token" if domain else b"")
    headers = b"NATS/1.0\r\nNats-Msg-Id: m\r\nTl-Commit: {}\r\n%b\r\n" % lines
    return message(b"evt.contoso.run.t1", SID, reply, body, headers)


TEXTS = st.binary(max_size=40)
WORDS = st.sampled_from([b"evt.a.run.x", b"_INBOX.abc.1", b"$JS.ACK.EVENTS.c.1.4.4.99.0", b"42", "é".encode()])
STORED = st.sampled_from(
    [b"2026-02-28T23:59:59.000001Z", b"2024-02-29T00:00:00.000000Z", b"2026-02-29T00:00:00.000000Z", b"yesterday",
     b"2026-01-01T00:00:00Z", b"2026-13-01T00:00:00.000000Z", b"2026-01-01T24:00:00.000000Z"]
)  # fmt: skip
PIECES = st.one_of(
    st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'no'\r\n", b'INFO {"a":1}\r\n']),
    st.builds(delivery, st.integers(1, 5), TEXTS, domain=st.booleans(), ns=st.integers(0, 9 * 10**18 - 1)),
    st.builds(lambda at, text: delivery(at, lines=b"Tl-Stored-At: %b\r\n" % text), st.integers(1, 5), STORED),
    st.builds(
        message,
        WORDS,
        st.sampled_from([SID, 8]),
        st.one_of(st.just(b""), WORDS),
        TEXTS,
        st.one_of(
            st.none(),
            st.sampled_from(
                [b"NATS/1.0\r\n\r\n", b"NATS/1.0 404 No Messages\r\n\r\n", b"NATS/1.0\r\nTl-Commit: {}\r\n\r\n",
                 b"NATS/1.0\r\nTl-Commit: 1\r\nTl-Commit: 2\r\nTl-Stored-At: 2026-01-01T00:00:00.5Z\r\n\r\n", b"\r\n"]
            ),
        ),
    ),
)  # fmt: skip


def parts(text: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


def joined(frames: list[Any]) -> list[Any]:
    """Runs that meet, as one: where a run ends depends on how the bytes were split."""
    found: list[Any] = []
    for frame in frames:
        if len(frame) == 4 and isinstance(frame, tuple) and found and len(found[-1]) == 4:
            first, last, _, values = found[-1]
            if isinstance(found[-1], tuple) and frame[0] == last + 1:
                found[-1] = (first, frame[1], frame[2], values + frame[3])
                continue
        found.append(frame)
    return found


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 4000), max_size=8))
@example([delivery(i, b"x" * 30) for i in range(1, 6)], list(range(0, 800, 7)))
@settings(max_examples=300, deadline=None)
def test_the_compiled_frames_are_those_of_plain_python(pieces: list[bytes], cuts: list[int]) -> None:
    text = b"".join(pieces)
    fast, plain, whole = _frames.Frames(), reference.Frames(), reference.Frames()
    for each in (fast, plain, whole):
        each.divert(SID, made)
    at_once = whole.feed(text)
    split = parts(text, cuts)
    assert joined([frame for part in split for frame in fast.feed(part)]) == joined(at_once)
    assert joined([frame for part in split for frame in plain.feed(part)]) == joined(at_once)


def test_a_run_is_what_follows_without_a_hole() -> None:
    for frames in (_frames.Frames(), reference.Frames()):
        frames.divert(SID, made)
        text = delivery(1) + delivery(2) + delivery(4) + b"PING\r\n" + delivery(5)
        found = frames.feed(text)
        assert [frame[:3] if isinstance(frame, tuple) else frame for frame in found] == [
            (1, 2, 5), (4, 4, 5), b"PING\r\n", (5, 5, 5),
        ]  # fmt: skip
        [(position, subject, header, body, at)] = found[1][3]  # type: ignore[misc]
        assert (position, subject, header, body) == (4, "evt.contoso.run.t1", b"{}", b"[]")
        assert at.isoformat() == "2026-01-01T00:00:00.123456+00:00"


def test_other_subscriptions_and_lines_of_status_come_as_messages() -> None:
    status = message(b"_INBOX.x", SID, b"", b"", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n")
    other = delivery(3).replace(b" 7 ", b" 9 ")
    for frames in (_frames.Frames(), reference.Frames()):
        frames.divert(SID, made)
        assert [len(frame) for frame in frames.feed(status + other)] == [5, 5]


@pytest.mark.parametrize(
    "text",
    [
        b"MSG a\r\n", b"MSG a x 3\r\n", b"HMSG a 1 9 3\r\n", b"MSG a 1 99999999999\r\n", b"MSG a 1 r s 3\r\n",
        b"HMSG a 1 3\r\n",
    ],
)  # fmt: skip
def test_what_is_no_protocol_is_refused(text: bytes) -> None:
    for frames in (_frames.Frames(), reference.Frames()):
        with pytest.raises(ValueError, match="a message line that is none"):
            frames.feed(text)


def test_a_line_without_an_end_is_refused() -> None:
    for frames in (_frames.Frames(), reference.Frames()):
        with pytest.raises(ValueError, match="a line without an end"):
            frames.feed(b"x" * (reference.MOST_LINE + 1))


def test_what_was_half_received_is_forgotten_on_reset() -> None:
    for frames in (_frames.Frames(), reference.Frames()):
        assert frames.feed(delivery(1)[:-5]) == []
        frames.reset()
        assert frames.feed(b"PING\r\n") == [b"PING\r\n"]


def test_a_large_message_comes_whole_from_many_parts() -> None:
    text = delivery(1, b"x" * 3_000_000)
    for frames in (_frames.Frames(), reference.Frames()):
        frames.divert(SID, made)
        found = [frame for part in range(0, len(text), 65_536) for frame in frames.feed(text[part : part + 65_536])]
        assert len(found) == 1
        assert len(found[0][3][0][3]) == 3_000_000  # type: ignore[index]
