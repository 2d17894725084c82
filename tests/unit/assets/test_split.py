"""Whole sessions in order, purged, with an embargo: laws over random samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.asset_files import TEST, TRAIN, VALIDATION
from tapeline.assets.split import DROPPED, assign, session_parts
from tapeline.errors import TapelineError


def split(test: float = 0.2, validation: float = 0.1, test_from: str | None = None) -> dict[str, object]:
    return {"test_fraction": test, "validation_fraction": validation, "test_from": test_from}


def test_parts_follow_one_another() -> None:
    dates = [f"2024-01-{day:02d}" for day in range(1, 11)]
    assert session_parts(dates, split()).tolist() == [TRAIN] * 7 + [VALIDATION] + [TEST] * 2
    assert session_parts(dates, split(0, 0)).tolist() == [TRAIN] * 10
    assert session_parts(dates, split(0, 0, "2024-01-04")).tolist() == [TRAIN] * 3 + [TEST] * 7


def test_what_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(TapelineError, match="leave none to train on"):
        session_parts(["2024-01-01", "2024-01-02"], split(0.5, 0.5))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sessions=st.integers(3, 12),
    horizon=st.integers(1, 400),
    embargo=st.integers(0, 300),
    length=st.integers(20, 100),
)
def test_no_row_of_an_earlier_part_reads_into_a_later_one(
    seed: int, sessions: int, horizon: int, embargo: int, length: int
) -> None:
    draw = np.random.default_rng(seed)
    # Sessions touch, as on a market that never closes: the hardest case for horizons.
    opens = np.arange(sessions, dtype=np.int64) * length
    t0 = np.sort(draw.integers(1, sessions * length, 300)).astype(np.int64)
    session = np.minimum((t0 - 1) // length, sessions - 1)
    t1 = t0 + draw.integers(1, horizon + 1, len(t0))
    of_session = session_parts([f"{k:03d}" for k in range(sessions)], split(0.3, 0.2))
    parts = assign(t0, t1, session, opens, of_session, embargo)
    for later in (VALIDATION, TEST):
        rows = parts.part == later
        if not rows.any():
            continue
        assert (t1[parts.part < later] < t0[rows].min()).all()
        border = opens[np.flatnonzero(of_session == later)[0]]
        assert (t0[rows] >= border + embargo).all()
    kept = parts.part != DROPPED
    assert (of_session[session[kept]] == parts.part[kept]).all()
    assert int((~kept).sum()) == parts.purged + parts.embargoed
