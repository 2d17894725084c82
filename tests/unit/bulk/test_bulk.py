"""The compiled work on many commits agrees with the one in plain Python, and that one with the log's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tapeline.bulk import _bulk, reference
from tapeline.log import StoredCommit, codec, wire
from tapeline.replay.segments import Line

AT = datetime(2026, 2, 28, 23, 59, 59, 1, UTC)
TIMES = st.one_of(
    st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC)),
    st.just(datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-5)))),
)
COMMITS = st.lists(
    st.builds(
        StoredCommit,
        position=st.integers(1, 10**18 - 1),
        subject=st.one_of(st.sampled_from(["evt.contoso.run.t1", "evt.é.run.1", ""]), st.text(max_size=20)),
        header=st.binary(max_size=200),
        body=st.binary(max_size=300),
        stored_at=TIMES,
    ),
    max_size=20,
)
ROOT = bytes(32)


@given(COMMITS)
def test_digests_are_those_of_the_codec(commits: list[StoredCommit]) -> None:
    found = _bulk.digests(commits)
    assert found == reference.digests(commits)
    assert [one.hex() for one in found] == [codec.digest(one.subject, one.header, one.body) for one in commits]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64])
def test_a_text_of_any_length_keeps_its_digest_whatever_stands_beside_it(n: int) -> None:
    """Every length around the ends of blocks, and very different ones in the same eight lanes."""
    sizes = [*range(40, 140), 0, 511 * 1024, 1]
    commits = [StoredCommit(k, "s", b"h", bytes([k % 251]) * size, AT) for k, size in enumerate(sizes)]
    found = [one for start in range(0, len(commits), n) for one in _bulk.digests(commits[start : start + n])]
    assert found == [sha256(b"tl1\ns\nh\n" + one.body).digest() for one in commits]


@given(st.binary(min_size=32, max_size=32), st.lists(st.binary(min_size=32, max_size=32), max_size=9))
def test_roots_follow_from_digests(root: bytes, digests: list[bytes]) -> None:
    found = _bulk.roots(root, digests)
    assert found == reference.roots(root, digests)
    for digest, after in zip(digests, found, strict=True):
        root = sha256(root + digest).digest()
        assert root == after


@pytest.mark.parametrize(("root", "digests"), [(b"short", []), (ROOT, [b"short"]), (ROOT, [None])])
def test_what_is_no_root_or_digest_is_refused(root: bytes, digests: list[Any]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        _bulk.roots(root, digests)


def line(
    position: int = 4, time: str = "2026-02-28T23:59:59.000001Z", subject: str = "evt.a.run.x", **more: str
) -> bytes:
    made = Line(position, time, subject, more.get("header", '{"v":1}'), more.get("body", "[]"))
    return msgspec.json.encode(made) + b"\n"


LINES = st.one_of(
    st.builds(line, st.integers(-1, 10**20), header=st.text('ab"\\{} ', max_size=9), body=st.text('ab"\\[]\n é\x7f/')),
    st.builds(
        line,
        time=st.sampled_from(
            ["2026-02-29T00:00:00.000000Z", "2024-02-29T00:00:00.000000Z", "2026-01-01T24:00:00.000000Z",
             "2026-13-01T00:00:00.000000Z", "0000-01-01T00:00:00.000000Z", "2026-01-01T00:00:00Z", "yesterday"]
        ),
        subject=st.sampled_from(["evt.a.run.x", "evt.é.run.x", 'evt."', ""]),
    ),
    st.binary(max_size=80),
    st.sampled_from(
        [b"\n", b'{"p":1}\n', b'{"t":"x","p":1,"s":"","h":"","b":""}\n', line()[:-1], line()[:-2] + b" }\n"]
    ),
)  # fmt: skip


@given(st.lists(LINES, max_size=6))
@example([line(), line(5), line(0), line(6)])
@example([line(10**17), line(10**18)])
@example([line().replace(b"[]", b"\\u0041")])
@example([line().replace(b"[]", b"\\")])
def test_lines_are_read_alike_up_to_the_first_strange_one(texts: list[bytes]) -> None:
    text = b"".join(texts)
    found, size = _bulk.lines(text, StoredCommit)
    assert (found, size) == reference.lines(text, StoredCommit)
    decoder = msgspec.json.Decoder(Line)
    for one, raw in zip(found, text[:size].split(b"\n"), strict=False):
        read = decoder.decode(raw)
        assert (one.position, one.subject, one.header, one.body, wire.time_text(one.stored_at)) == (
            read.p, read.s, read.h.encode(), read.b.encode(), read.t,
        )  # fmt: skip


def test_lines_are_read_a_few_at_a_time() -> None:
    text = b"".join(line(at) for at in range(1, 8))
    whole, _ = _bulk.lines(text, StoredCommit)
    for module in (_bulk, reference):
        found: list[StoredCommit] = []
        start = 0
        while start < len(text):
            some, start = module.lines(text, StoredCommit, start, 3)
            assert 1 <= len(some) <= 3
            found += some
        assert found == whole
    with pytest.raises(ValueError, match="within"):
        _bulk.lines(text, StoredCommit, len(text) + 1)


def test_a_line_that_lost_or_changed_a_byte_is_never_read_as_something_else() -> None:
    """Whatever the kernel takes, JSON takes for the same; what it leaves is read, and named, by the slower way."""
    whole = line(17, header='{"v":1,"team":"a\\\\b"}', body='[{"id":"x"}]')
    decoder = msgspec.json.Decoder(Line)
    for at in range(len(whole) - 1):
        for changed in (whole[:at] + whole[at + 1 :], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            found, _ = _bulk.lines(changed, StoredCommit)
            assert (found, _) == reference.lines(changed, StoredCommit)
            for one in found:
                read = decoder.decode(changed.split(b"\n")[0])
                assert (one.position, one.subject, one.header.decode(), one.body.decode()) == (
                    read.p, read.s, read.h, read.b,
                )  # fmt: skip


@given(COMMITS.filter(bool), st.integers(0, 10**18))
def test_publishes_are_the_same_bytes(commits: list[StoredCommit], after: int) -> None:
    assert _bulk.publishes(commits, after, b"_INBOX.a.b") == reference.publishes(commits, after, b"_INBOX.a.b")


def test_a_publish_reads_as_the_broker_reads_it() -> None:
    commit = StoredCommit(8, "evt.a.run.x", b'{"v":1}', b"[]", AT)
    headers = (
        b'NATS/1.0\r\nNats-Expected-Last-Sequence: 7\r\nTl-Commit: {"v":1}\r\n'
        b"Tl-Stored-At: 2026-02-28T23:59:59.000001Z\r\n\r\n"
    )
    text = b"HPUB evt.a.run.x inbox %d %d\r\n%b[]\r\n" % (len(headers), len(headers) + 2, headers)
    assert _bulk.publishes([commit], 7, b"inbox") == text
