"""Points and their bytes: what goes in comes out, bit for bit, and nothing else is taken for points."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.columns import Points, _packed, _unpacked, count_of, joined, pack, points_of, unpack
from tapeline.errors import TapelineError

INT64 = st.integers(-(2**63), 2**63 - 1)
POINT = st.tuples(
    INT64, INT64, INT64 | st.floats().map(lambda x: struct.unpack("<q", struct.pack("<d", x))[0]), st.booleans()
)


def made(rows: list[tuple[int, int, int, bool]]) -> Points:
    steps, times, bits, whole = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Points(*(np.array(each, "<i8") for each in (steps, times, bits)), np.array(whole, bool))


def rows(points: Points) -> list[tuple[int, ...]]:
    return list(zip(*(each.tolist() for each in (points.steps, points.times, points.bits, points.whole)), strict=True))


@settings(max_examples=150, deadline=None)
@given(st.lists(POINT, max_size=40))
def test_every_point_comes_back_bit_for_bit(given_rows: list[tuple[int, int, int, bool]]) -> None:
    body = pack(made(given_rows))
    assert rows(unpack(body)) == given_rows
    assert count_of(body) == len(given_rows)
    assert pack(unpack(body)) == body


@settings(max_examples=300, deadline=None)
@given(POINT)
def test_one_point_has_the_bytes_of_a_column_of_one(row: tuple[int, int, int, bool]) -> None:
    body = pack(made([row]))
    assert body == _packed(made([row]))
    assert rows(unpack(body)) == rows(_unpacked(body)) == [row]


@settings(max_examples=300, deadline=None)
@given(POINT, st.data())
def test_what_is_nearly_a_column_of_one_is_read_as_any_other(
    row: tuple[int, int, int, bool], data: st.DataObject
) -> None:
    body = bytearray(pack(made([row])))
    # A count of millions would be taken at its word, for even steps take no byte a point.
    body[data.draw(st.sampled_from([0, *range(4, len(body))]))] = data.draw(st.integers(0, 255))
    found: list[object] = []
    for read in (unpack, _unpacked):
        try:
            found.append(rows(read(bytes(body))))
        except TapelineError as error:
            found.append(error.message)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 0.5, 0.1, 1e300, 5e-324, 1e-45, 3.4e38, 3.5e38, float("inf"), float("nan")]
)
def test_a_value_of_one_point_is_short_where_that_is_exact(value: float) -> None:
    point = points_of([1], [2], [value])
    assert pack(point) == _packed(point)
    assert pack(unpack(pack(point))) == pack(point)


@settings(max_examples=150, deadline=None)
@given(st.lists(POINT, min_size=1, max_size=6), st.data())
def test_bytes_that_are_cut_or_longer_are_refused(
    given_rows: list[tuple[int, int, int, bool]], data: st.DataObject
) -> None:
    body = pack(made(given_rows))
    with pytest.raises(TapelineError) as caught:
        unpack(body[: data.draw(st.integers(0, len(body) - 1))])
    assert caught.value.code == "invalid"
    with pytest.raises(TapelineError):
        unpack(body + b"\0")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    with contextlib.suppress(TapelineError):
        assert len(unpack(noise)) == count_of(noise)


def test_even_steps_and_single_precision_take_few_bytes() -> None:
    values = np.random.default_rng(0).normal(size=4096)
    steps, times = np.arange(4096), 1_700_000_000_000_000 + np.arange(4096) * 1000 + np.arange(4096) % 7
    assert len(pack(points_of(steps, times, values))) < 9.1 * 4096
    assert len(pack(points_of(steps, times, values.astype(np.float32).astype(float)))) < 5.1 * 4096


def test_values_are_pythons_numbers_and_ints_stay_ints() -> None:
    both = joined([points_of([1], [1], [2**53 + 1], whole=True), points_of([2, 3], [2, 3], [0.5, float("inf")])])
    assert both.values() == [2**53 + 1, 0.5, float("inf")]
    assert [type(value) for value in both.values()] == [int, float, float]
    assert both.finite().tolist() == [True, True, False]
    assert unpack(pack(both)).floats().tolist() == [float(2**53 + 1), 0.5, float("inf")]
