"""Objects made column by column: the compiled way makes what the plain one makes, and both what a class makes."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.columns import point_id, points_of
from tapeline.contracts.runs import MetricView
from tapeline.objects import _objects, reference
from tapeline.runs.metrics.queries import _plain
from tapeline.runs.moments import moment
from tapeline.sdk import measured
from tapeline.sdk.records import Metric, metric_of

BOTH = pytest.mark.parametrize("kernel", [_objects, reference], ids=["compiled", "plain"])
RUN = "0199b0a4-5c1e-7d3a-9f00-3b6c2d1e0f4a"
VALUES = st.one_of(st.floats(), st.integers(-(2**63), 2**63 - 1))
TIMES = st.integers(0, 253_402_300_799_999_999)


def lots_of(rows: list[tuple[str, int, int, int, Any]]) -> list[Any]:
    return [
        (tag, attempt, points_of([step], [at], [value], whole=isinstance(value, int)))
        for tag, attempt, step, at, value in rows
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b/ä"]), st.integers(1, 3), st.integers(0, 2**53), TIMES, VALUES),
        max_size=12,
        unique_by=lambda row: row[3],
    ),
    st.booleans(),
)
def test_measurements_are_those_that_their_class_makes(rows: list[Any], is_plain: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if is_plain:
            for name in ("made", "moments", "texts"):
                patch.setattr(f"tapeline.objects.{name}", getattr(reference, name))
        found = measured._metrics(RUN, lots_of(rows), 10)
    wanted = [
        Metric(
            id=point_id(RUN, at), created_at=datetime.fromtimestamp(at // 10**6, UTC).replace(microsecond=at % 10**6),
            run_id=RUN, global_step=step, tag=tag, value=value, job_id=f"{RUN}.{attempt}",
        )
        for tag, attempt, step, at, value in sorted(rows, key=lambda row: -row[3])[:10]
    ]  # fmt: skip
    assert repr(found) == repr(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert type(one) is Metric
        assert list(one.__dict__) == list(other.__dict__)
        assert one.model_fields_set == other.model_fields_set
        # NaN is not itself: what holds one is compared by its text.
        if other.value == other.value:
            assert one == other == one.model_copy() == copy.deepcopy(one)
            assert one.model_dump() == other.model_dump()
            assert one.model_dump_json() == other.model_dump_json()
            assert pickle.loads(pickle.dumps(one)) == other
        one.tag = "changed"
        assert one.tag == "changed"
        with pytest.raises(ValueError, match="global_step"):
            one.global_step = "many"  # type: ignore[assignment]


@given(VALUES, TIMES, st.none() | st.just(f"{RUN}.1"))
def test_a_measurement_of_a_view_is_the_one_that_its_class_makes(value: Any, at: int, job: str | None) -> None:
    view = MetricView(
        id=point_id(RUN, at), created_at=moment(at), run_id=RUN, global_step=3, tag="a", value=_plain(value), job_id=job
    )
    given = json.loads(view.model_dump_json())
    found, wanted = metric_of(given), Metric(**given)
    assert repr(found) == repr(wanted)
    assert type(found.value) is type(wanted.value)
    assert found.created_at == moment(at)
    assert found.created_at.tzinfo is UTC
    assert found.model_fields_set == wanted.model_fields_set


@BOTH
@given(times=st.lists(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999), max_size=20))
def test_moments_are_pythons_times(kernel: Any, times: list[int]) -> None:
    given = np.array(times, np.int64)
    found = kernel.moments(given)
    assert found == reference.moments(given)
    assert all(one.tzinfo is UTC for one in found)


@BOTH
@pytest.mark.parametrize("time_us", [-62_135_596_800_000_001, 253_402_300_800_000_000, 2**62])
def test_a_moment_that_no_calendar_has_is_refused(kernel: Any, time_us: int) -> None:
    with pytest.raises(OverflowError):
        kernel.moments(np.array([time_us], np.int64))


@BOTH
@given(head=st.text("0123456789abcdef-", max_size=30), times=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_texts_end_in_the_low_digits(kernel: Any, head: str, times: list[int]) -> None:
    assert kernel.texts(head, np.array(times, np.int64)) == [f"{head}{time_us % 2**48:012x}" for time_us in times]


@BOTH
def test_columns_of_different_lengths_make_nothing(kernel: Any) -> None:
    with pytest.raises(ValueError, match="a column of 2 for 3 objects"):
        kernel.made(Metric, {}, ("id",), (["a", "b"],), 3)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        kernel.made(Metric, {}, ("id", "tag"), ("a",), 3)


@BOTH
def test_what_is_made_is_let_go_again(kernel: Any) -> None:
    class Held:
        pass

    held = [Held() for _ in range(50)]
    shared = Held()

    def alive() -> int:
        gc.collect()
        return sum(isinstance(one, Held) for one in gc.get_objects())

    before = alive()
    many = kernel.made(Held, {}, ("one", "shared"), (held, shared), 50)
    assert [one.one for one in many] == held
    assert all(one.shared is shared for one in many)
    assert alive() == before + 50
    del many
    assert alive() == before
