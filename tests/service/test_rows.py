"""Rows that a stretch of the log touches: what is taken back, what is remembered, and what is looked for again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, create_engine, select
from sqlalchemy.pool import StaticPool

from tapeline.projections import Rows
from tapeline.projections import rows as kept

META = MetaData()
counts = Table("counts", META, Column("name", String, primary_key=True), Column("n", Integer), Column("note", String))
said = Table("said", META, Column("place", Integer, primary_key=True), Column("text", String))


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.connect() as connection:
        META.create_all(connection)
        yield connection
    engine.dispose()


def stored(connection: Connection, table: Table) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]


def test_a_row_is_changed_where_it_stands(connection: Connection) -> None:
    rows = Rows(is_whole=True)
    rows.put(counts, {"name": "a", "n": 1})
    rows.store(connection)
    row = rows.edit(counts, "a")
    assert row is not None
    row["n"] = 2
    rows.store(connection)
    assert stored(connection, counts) == [("a", 2, None)]


def test_what_is_changed_added_and_put_is_taken_back(connection: Connection) -> None:
    rows = Rows()
    rows.expect(counts, [("a",), ("b",)])
    rows.put(counts, {"name": "a", "n": 1})
    rows.add(said, {"place": 1, "text": "one"})
    rows.keep()
    row = rows.edit(counts, "a")
    assert row is not None
    row["n"] = 99
    rows.add(said, {"place": 2, "text": "two"})
    rows.put(counts, {"name": "b", "n": 5})
    rows.rewind()
    rows.store(connection)
    assert stored(connection, counts) == [("a", 1, None)]
    assert stored(connection, said) == [(1, "one")]


def test_a_row_that_is_not_there_is_none_and_one_that_was_not_announced_is_a_fault() -> None:
    rows = Rows()
    rows.expect(counts, [("a",)])
    assert (rows.edit(counts, "a"), rows.get(counts, "a")) == (None, None)
    for look in (rows.edit, rows.get):
        with pytest.raises(LookupError, match="not among the keys"):
            look(counts, "b")
    whole = Rows(is_whole=True)
    assert (whole.edit(counts, "b"), whole.get(counts, "b")) == (None, None)


def test_what_was_added_is_written_once(connection: Connection) -> None:
    rows = Rows(is_whole=True)
    rows.add(said, {"place": 1, "text": "one"})
    rows.store(connection)
    rows.trim()
    rows.add(said, {"place": 2, "text": "two"})
    rows.store(connection)
    assert stored(connection, said) == [(1, "one"), (2, "two")]
    rows.add(said, {"place": 3, "text": "lost"})
    rows.forget()
    rows.store(connection)
    assert len(stored(connection, said)) == 2


def test_a_table_that_outgrows_memory_is_looked_up_from_then_on(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KEPT_WHOLE", 2)
    rows = Rows(is_whole=True)
    assert rows.get(counts, "a") is None
    for name in "abc":
        rows.put(counts, {"name": name, "n": 1})
    rows.store(connection)
    assert rows.is_whole
    rows.trim()
    assert not rows.is_whole
    with pytest.raises(LookupError):
        rows.get(counts, "a")
    rows.load(connection, counts, [("a",)])
    assert rows.get(counts, "a") == {"name": "a", "n": 1, "note": None}


def test_a_table_that_is_only_written_to_does_not_cost_the_others_their_memory(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KEPT_WHOLE", 2)
    rows = Rows(is_whole=True)
    for place in range(5):
        rows.put(said, {"place": place, "text": "x"})
    rows.put(counts, {"name": "a", "n": 1})
    rows.store(connection)
    rows.trim()
    assert rows.is_whole
    assert rows.get(counts, "a") is not None
    with pytest.raises(LookupError):
        rows.get(said, 1)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "edit", "delete", "add", "keep", "rewind", "store"]), st.integers(0, 3)),
        max_size=40,
    ),
    st.booleans(),
)
def test_rows_are_those_of_a_plain_dictionary(steps: list[tuple[str, int]], is_whole: bool) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.connect() as connection:
        META.create_all(connection)
        rows = Rows(is_whole=is_whole)
        rows.expect(counts, [(f"n{i}",) for i in range(4)])
        model: dict[str, int] = {}
        texts: list[int] = []
        before: tuple[dict[str, int], list[int]] | None = None
        for turn, (what, which) in enumerate(steps):
            name = f"n{which}"
            if what == "put":
                rows.put(counts, {"name": name, "n": turn})
                model[name] = turn
            elif what == "edit":
                row = rows.edit(counts, name)
                assert (row is None) == (name not in model)
                if row is not None:
                    row["n"] = model[name] = -turn
            elif what == "delete":
                rows.delete(counts, name)
                model.pop(name, None)
            elif what == "add":
                rows.add(said, {"place": turn, "text": "t"})
                texts.append(turn)
            elif what == "keep":
                rows.keep()
                before = (dict(model), list(texts))
            elif what == "rewind" and before is not None:
                rows.rewind()
                model, texts = dict(before[0]), list(before[1])
            elif what == "store":
                rows.store(connection)
                rows.trim()
                rows.expect(counts, [])
                before = None
        rows.store(connection)
        assert {name: n for name, n, _ in stored(connection, counts)} == model
        assert [place for place, _ in stored(connection, said)] == texts
    engine.dispose()
