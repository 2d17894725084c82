"""Runs that the SDK makes of views: the same as those that their class makes and checks."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.contracts.runs import RunView
from tapeline.sdk.records import Progress, Resources
from tapeline.sdk.runs import Run, run_of

TEXT = st.none() | st.text(max_size=8)
TIME = st.none() | st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC))
RESOURCES = st.none() | st.fixed_dictionaries(
    {"cpu": st.sampled_from(["1", "500m"]), "memory": st.just("1Gi")},
    optional={
        "ephemeral_storage": st.sampled_from([None, "2Gi"]),
        "gpu": st.none() | st.fixed_dictionaries({"count": st.integers(1, 3), "type": st.just("H200")}),
    },
)
VIEWS = st.fixed_dictionaries(
    {},
    optional={
        "id": TEXT, "name": TEXT, "number": st.none() | st.integers(1, 9), "status": TEXT, "notes": TEXT,
        "created_at": TIME, "status_updated_at": TIME, "progress_updated_at": TIME, "resources": RESOURCES,
        "config": st.none() | st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3),
        "progress": st.none() | st.lists(
            st.fixed_dictionaries({
                "operation": st.text(max_size=3), "value": st.floats(0, 9), "final_value": st.just(9.0),
                "units": st.just("step"),
            }),
            max_size=2,
        ),
    },
)  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(VIEWS)
def test_a_run_of_a_view_is_the_run_that_its_class_makes(fields: dict[str, Any]) -> None:
    import json

    view = json.loads(RunView(**fields).model_dump_json())
    found = run_of(view | {"something_newer": 1}, "contoso")
    wanted = Run(**{key: value for key, value in view.items() if value is not None and key in Run.model_fields})
    wanted._team = "contoso"
    assert found == wanted
    assert repr(found) == repr(wanted)
    assert list(found.__dict__) == list(wanted.__dict__)
    assert found.model_fields_set == wanted.model_fields_set
    assert found.model_dump_json() == wanted.model_dump_json()
    for name in ("created_at", "status_updated_at", "progress_updated_at"):
        at = getattr(found, name)
        assert at is None or at.tzinfo is UTC
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == wanted


def test_two_runs_of_views_share_nothing_that_can_change() -> None:
    one, other = run_of({"id": "a"}), run_of({"id": "b"})
    one._seen["loss"] = [(1, 0.5)]
    one._given["url"] = "x"
    one.status = "job_failed"
    assert other._seen == {}
    assert other._given == {}
    assert other.status is None
    assert other._team is None


def test_what_is_changed_in_a_run_of_a_view_is_checked() -> None:
    run = run_of({"resources": {"cpu": "1", "memory": "1Gi", "newer": 1}, "progress": [{"operation": "fit"}]})
    assert isinstance(run.resources, Resources)
    assert run.progress is not None
    assert isinstance(run.progress[0], Progress)
    assert not hasattr(run.resources, "newer")
    with pytest.raises(ValueError, match="5K"):
        run.resources.memory = "5K"
    with pytest.raises(ValueError, match="number"):
        run.number = "many"  # type: ignore[assignment]
