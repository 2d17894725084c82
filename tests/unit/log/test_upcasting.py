"""Events of older schemas are read as the newest, step by step; what is newer than the code stops it, by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline.errors import TapelineError
from tapeline.log import StoredCommit
from tapeline.log.codec import Codec
from tapeline.log.erased import ERASED
from tapeline.replay.chain import Walk
from tapeline.testing.golden import AT, read_back, stored
from tapeline.testing.recorded import Fold, folded


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Schema 3: where something is, in metres, and on which floor; schema 1 had feet, schema 2 no floor."""

    SCHEMA: ClassVar[int] = 3
    metres: float
    floor: int
    by: str = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rested:
    """Still at its first schema."""

    SCHEMA: ClassVar[int] = 1
    hours: int


def to_metres(data: dict[str, Any]) -> dict[str, Any]:
    return {"metres": data.pop("feet") / 4, **data}


def to_floors(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"floor": int(data["metres"] // 3)}


EVENTS: dict[tuple[str, int], type] = {("Moved", 3): Moved, ("Rested", 1): Rested}
UPCASTERS = {("Moved", 1): to_metres, ("Moved", 2): to_floors}
CODEC = Codec(EVENTS, UPCASTERS, {"Moved": Rested(hours=0)})


@pytest.mark.parametrize(
    ("schema", "data", "read_as"),
    [
        (1, {"feet": 28}, Moved(metres=7.0, floor=2)),
        (1, {"feet": 28, "by": "ann"}, Moved(metres=7.0, floor=2, by="ann")),
        (2, {"metres": 7.0}, Moved(metres=7.0, floor=2)),
        (3, {"metres": 7.0, "floor": -1}, Moved(metres=7.0, floor=-1)),
    ],
)
def test_each_older_schema_is_read_as_the_newest(schema: int, data: dict[str, Any], read_as: Moved) -> None:
    (event,) = CODEC.decode(stored(CODEC, "Moved", schema, data))
    assert event.data == read_as
    assert event.schema == schema, "what is stored stays what it was"


@given(feet=st.integers(0, 10_000), by=st.text(max_size=5))
def test_one_step_after_the_other_is_the_same_as_all_at_once(feet: int, by: str) -> None:
    first = {"feet": feet, "by": by}
    second = to_metres(dict(first))
    third = to_floors(dict(second))
    assert (
        read_back(CODEC, "Moved", 1, first)
        == read_back(CODEC, "Moved", 2, second)
        == read_back(CODEC, "Moved", 3, third)
    )


def test_a_commit_may_hold_events_of_several_schemas() -> None:
    whole = stored(CODEC, "Moved", 1, {"feet": 28})
    (line,) = json.loads(whole.body)
    lines = [line, line | {"sequence": 2, "type": "Rested", "schema": 1, "data": {"hours": 8}}]
    header = json.loads(whole.header) | {"types": ["Moved", "Rested"], "schemas": [1, 1], "n": 2}
    commit = StoredCommit(
        position=1, subject=whole.subject, header=json.dumps(header).encode(), body=json.dumps(lines).encode(),
        stored_at=AT,
    )  # fmt: skip
    assert [event.data for event in CODEC.decode(commit)] == [Moved(metres=7.0, floor=2), Rested(hours=8)]


def test_only_the_newest_schema_is_written() -> None:
    from tapeline.log import GENESIS, NewCommit
    from tapeline.subjects import Ref

    new = NewCommit(
        ref=Ref("contoso", "run", "x"), events=(Moved(metres=1.0, floor=0),), sequence=1, prev=GENESIS,
        created_at=AT, actor="user:ann", command="Move", command_id="c",
    )  # fmt: skip
    assert json.loads(CODEC.encode(new).body)[0]["schema"] == 3


def test_a_step_that_is_missing_is_found_when_the_code_starts() -> None:
    with pytest.raises(TapelineError, match="no upcaster turns Moved schema 2 into 3"):
        Codec(EVENTS, {("Moved", 1): to_metres})


@pytest.mark.parametrize(
    ("tag", "schema", "sentence"),
    [("Moved", 4, "Moved schema 4 at position 1; this code knows up to 3"), ("Flown", 1, "no event of that type")],
)
def test_a_newer_schema_and_an_unknown_type_are_named_and_stop_a_check(tag: str, schema: int, sentence: str) -> None:
    commit = stored(CODEC, tag, schema, {"metres": 1.0, "floor": 1})
    with pytest.raises(TapelineError, match=sentence) as refused:
        CODEC.decode(commit)
    assert refused.value.code == "schema_unknown"
    assert [fault.kind for fault in Walk(CODEC).add(commit)] == ["decode"]


def test_an_upcaster_that_makes_nonsense_is_damage_with_its_place() -> None:
    codec = Codec(EVENTS, {("Moved", 1): lambda _data: {"metres": "far"}, ("Moved", 2): lambda data: data})
    with pytest.raises(TapelineError, match="Moved schema 1 at position 1 cannot be read") as refused:
        codec.decode(stored(codec, "Moved", 1, {"feet": 1}))
    assert refused.value.code == "log_damaged"


def test_what_is_read_of_an_old_schema_fills_tables_as_the_new_one_does() -> None:
    from sqlalchemy import Column, Float, Integer, MetaData, String, Table

    table = Table(
        "places", MetaData(), Column("id", String, primary_key=True), Column("m", Float), Column("f", Integer)
    )

    class Places:
        kinds = frozenset({"run"})

        @staticmethod
        def apply(rows: Fold, event: Any) -> None:
            rows.put(table, {"id": event.ref.id, "m": event.data.metres, "f": event.data.floor})

    old, new = stored(CODEC, "Moved", 1, {"feet": 28}), stored(CODEC, "Moved", 3, {"metres": 7.0, "floor": 2})
    projections: Any = [Places]
    assert folded([old], projections, CODEC) == folded([new], projections, CODEC)


@pytest.mark.parametrize(
    ("schema", "data", "read_as"),
    [
        (1, ERASED, Rested(hours=0)),
        (3, ERASED, Rested(hours=0)),
        (2, {"metres": 7.0, "by": "ann"}, Moved(metres=7.0, floor=2, by="ann")),
    ],
)
def test_an_erased_event_of_any_schema_is_read(schema: int, data: dict[str, Any], read_as: Any) -> None:
    whole = stored(CODEC, "Moved", schema, data)
    header = json.dumps(json.loads(whole.header) | {"erased": "a" * 64}).encode()
    commit = StoredCommit(position=1, subject=whole.subject, header=header, body=whole.body, stored_at=whole.stored_at)
    (event,) = CODEC.decode(commit)
    assert (event.data, event.is_erased) == (read_as, True)
