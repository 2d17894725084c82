"""Days that are read before they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapeline.errors import TapelineError
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.view import OpenTape


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> PreparedTape:
    return simulate(tmp_path_factory.mktemp("expect"), days=4, trades_per_day=300)


def opened(tape: PreparedTape, read: list[str], cache_bytes: int = 2**20) -> OpenTape:
    def path_of(digest: str) -> Path:
        read.append(digest)
        return tape.path_of(digest)

    return OpenTape(tape.manifest, path_of, cache_bytes=cache_bytes)


def test_expected_days_are_read_once_and_are_those_that_are_read_alone(tape: PreparedTape) -> None:
    read: list[str] = []
    together, alone = opened(tape, read), opened(tape, [])
    (symbol,) = tape.symbols
    days = [(symbol, date) for date in tape.days]
    together.expect([*days, (symbol, "1999-01-01")])
    together.expect(days)
    assert len(read) == len(set(read)) == 4
    for _, date in days:
        assert together.trades(symbol, date).digests() == alone.trades(symbol, date).digests()
    assert len(read) == 4


def test_no_more_days_are_read_ahead_than_the_cache_holds(tape: PreparedTape) -> None:
    read: list[str] = []
    size = int(tape.manifest["days"][0]["artifact"]["size"])
    small = opened(tape, read, cache_bytes=2 * size + size // 2)
    small.expect([(tape.symbols[0], date) for date in tape.days])
    assert len(read) == 2


def test_a_day_that_was_changed_is_found_while_it_is_expected(tape: PreparedTape, tmp_path: Path) -> None:
    entry = tape.manifest["days"][2]
    content = bytearray(tape.path_of(entry["artifact"]["sha256"]).read_bytes())
    content[entry["artifact"]["places"]["price"]["at"][0] + 3] ^= 1
    (tmp_path / "spoilt.h5").write_bytes(content)

    def path_of(digest: str) -> Path:
        return tmp_path / "spoilt.h5" if digest == entry["artifact"]["sha256"] else tape.path_of(digest)

    spoilt = OpenTape(tape.manifest, path_of)
    with pytest.raises(TapelineError, match=entry["trade_date"]) as caught:
        spoilt.expect([(tape.symbols[0], date) for date in tape.days])
    assert caught.value.code == "tape_corrupt"
