"""Text to columns: every decimal is the nearest float64, every time an exact integer."""

from __future__ import annotations

import math
import os
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.bars import BarsError
from tapeline.bars.text import Column, Kind, TextError, parse

EXAMPLES = int(os.environ.get("TAPELINE_EXAMPLES", "40"))  # thousands in a nightly run
NUMBER = [Column(0, Kind.DECIMAL)]


def numbers(*texts: str) -> list[float]:
    return list(parse(("\n".join(texts) + "\n").encode(), NUMBER).columns[0])


def equal(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))


@settings(max_examples=EXAMPLES, deadline=None)
@given(value=st.floats(), places=st.integers(0, 40))
def test_a_decimal_is_read_as_python_reads_it(value: float, places: int) -> None:
    texts = [repr(value)]
    if math.isfinite(value):
        texts += [f"{value:.{places}f}", f"{value:.{places}e}", f"{value:+.{places}g}"]
    assert all(equal(*pair) for pair in zip(numbers(*texts), map(float, texts), strict=True))


@settings(max_examples=EXAMPLES, deadline=None)
@given(digits=st.from_regex(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?", fullmatch=True))
def test_any_form_of_a_decimal_is_read_as_python_reads_it(digits: str) -> None:
    if digits.isascii():
        assert equal(numbers(digits)[0], float(digits))


@settings(max_examples=EXAMPLES, deadline=None)
@given(ns=st.integers(0, 2**62), places=st.sampled_from([0, 3, 6, 9]))
def test_a_time_is_read_without_a_float(ns: int, places: int) -> None:
    text = f"{Decimal(ns).scaleb(-places):f}\n".encode()
    if ns < 9 * 10**18:
        assert parse(text, [Column(0, Kind.FIXED, places)]).columns[0][0] == ns


@pytest.mark.parametrize("text", ["x", "1x", "1..2", "--1", "1e", "1e+", ".", "+", "0x10", "1_000", " 1", "nanx"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(TextError, match="line 2, column 1 is not a number") as caught:
        numbers("1", text)
    assert (caught.value.line, caught.value.column, caught.value.code) == (2, 0, "invalid_row")


@pytest.mark.parametrize("text", ["", "1.0000000001", "9" * 25, "1e3", "nan", "-"])
def test_what_is_no_exact_time_is_refused(text: str) -> None:
    with pytest.raises(TextError):
        parse(f"{text},1\n".encode(), [Column(0, Kind.FIXED, 9)])


def test_lines_columns_quotes_and_blank_lines() -> None:
    table = parse(
        b'a;"1,5";ff\r\n\n"b;c";2;0\nd;3;A0',
        [Column(2, Kind.HEX), Column(0, Kind.TEXT), Column(1, Kind.DECIMAL)],
        delimiter=";",
        decimal=",",
    )
    assert [list(column) for column in table.columns] == [[255, 0, 160], ["a", "b;c", "d"], [1.5, 2.0, 3.0]]
    assert table.lines == 4


def test_more_slow_numbers_than_there_is_room_for() -> None:
    text = "0.30000000000000004440892098500626\n" * 5000
    assert set(numbers(*text.split())) == {0.30000000000000004}


def test_unreadable_rows_can_be_left_out() -> None:
    seen: list[TextError] = []
    table = parse(b"1\nx\n2\ny\n", NUMBER, first_line=10, on_bad=seen.append)
    assert np.array_equal(table.columns[0], [1.0, 2.0])
    assert [error.line for error in seen] == [11, 13]


def test_a_column_cannot_be_wanted_twice() -> None:
    with pytest.raises(BarsError, match="wanted twice"):
        parse(b"1\n", [Column(0, Kind.DECIMAL), Column(0, Kind.HEX)])
