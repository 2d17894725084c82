"""The agent's journal: what is read back is always a prefix of what was written."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tapeline.trainer.journal import Journal, crc32c, parse

RECORDS = [{"t": "report", "kind": "started", "data": {"i": i, "text": "é" * i}} for i in range(4)]


def _written(path: Path) -> bytes:
    journal = Journal.open(path)
    for record in RECORDS:
        journal.append(record)
    journal.close()
    return path.read_bytes()


def test_the_checksum_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_a_journal_torn_at_any_byte_opens_with_its_whole_records(tmp_path: Path) -> None:
    data = _written(tmp_path / "whole")
    for size in range(len(data) + 1):
        torn = tmp_path / "torn"
        torn.write_bytes(data[:size])
        journal = Journal.open(torn)
        count = len(journal.records)
        assert journal.records == RECORDS[:count]
        journal.append({"t": "more"})
        journal.close()
        again = Journal.open(torn)
        assert again.records == [*RECORDS[:count], {"t": "more"}]
        again.remove()
    assert parse(data) == (RECORDS, len(data))


def test_a_changed_byte_ends_the_journal_before_its_record(tmp_path: Path) -> None:
    data = bytearray(_written(tmp_path / "whole"))
    for i in range(len(data)):
        data[i] ^= 0x01
        records, _ = parse(bytes(data))
        assert records == RECORDS[: len(records)]
        assert len(records) < len(RECORDS)
        data[i] ^= 0x01


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    _, size = parse(data)
    assert 0 <= size <= len(data)


def test_a_removed_journal_leaves_no_file(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j")
    journal.append({"t": "x"})
    journal.remove()
    assert not os.listdir(tmp_path)
