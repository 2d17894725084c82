"""What can happen to a canvas, given / when / then."""

from __future__ import annotations

import pytest

from tapeline.assets.canvas import aggregate
from tapeline.contracts.canvases import (
    CanvasCreated,
    CanvasRemoved,
    CanvasRenamed,
    CanvasSaved,
    RemoveCanvas,
    RenameCanvas,
    StoreCanvas,
)
from tapeline.errors import TapelineError


def store(content: int = 1, expected: int | None = None) -> StoreCanvas:
    return StoreCanvas(name="demo", content={"n": content}, digest=str(content), user="ann", expected_revision=expected)


REMOVE = RemoveCanvas(name="demo")


def given(*commands: aggregate.CanvasCommand) -> aggregate.State:
    state = aggregate.initial()
    for command in commands:
        for event in aggregate.decide(state, command):
            state = aggregate.evolve(state, event)
    return state


def test_the_first_save_creates_revision_1() -> None:
    assert aggregate.decide(given(), store()) == [CanvasCreated(name="demo", content={"n": 1}, digest="1", user="ann")]


def test_each_other_content_is_the_next_revision() -> None:
    events = aggregate.decide(given(store(1), store(2)), store(3))
    assert events == [CanvasSaved(revision=3, content={"n": 3}, digest="3", user="ann")]


def test_equal_content_makes_no_revision() -> None:
    assert aggregate.decide(given(store(1)), store(1)) == []


def test_a_save_in_between_is_a_conflict_that_names_both_revisions() -> None:
    with pytest.raises(TapelineError, match="revision 2, revision 1 was expected") as refused:
        aggregate.decide(given(store(1), store(2)), store(3, expected=1))
    assert (refused.value.code, refused.value.data) == ("conflict", {"expected": 1, "found": 2})


def test_another_name_is_an_event_and_its_own_is_none() -> None:
    assert aggregate.decide(given(store()), RenameCanvas(name="demo", new_name="new")) == [CanvasRenamed(name="new")]
    assert aggregate.decide(given(store()), RenameCanvas(name="demo", new_name="demo")) == []
    with pytest.raises(TapelineError, match="there is no canvas"):
        aggregate.decide(given(store(), REMOVE), RenameCanvas(name="demo", new_name="new"))


def test_a_removed_canvas_stays_removed() -> None:
    assert aggregate.decide(given(store()), REMOVE) == [CanvasRemoved()]
    assert aggregate.decide(given(store(), REMOVE), REMOVE) == []
    with pytest.raises(TapelineError, match="there is no canvas"):
        aggregate.decide(given(store(), REMOVE), store(2))
    with pytest.raises(TapelineError, match="there is no canvas"):
        aggregate.decide(given(), REMOVE)
