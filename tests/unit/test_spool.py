"""Points on the disk of whoever takes them: each once, in order, whatever is killed, full or wrong."""

from __future__ import annotations

import errno
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.columns import unpack
from tapeline.errors import TapelineError
from tapeline.pen import Pen, reference
from tapeline.spool import reader as reading
from tapeline.spool.reader import SpoolReader
from tapeline.spool.record import SIZE, files_of, tag_line, tags_of
from tapeline.spool.writer import Spool, mapped

RECORDS = 100
Point = tuple[str, int, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run.1"


def spool_of(folder: Path, **changes: Any) -> Spool:
    return Spool(folder, **({"file_bytes": RECORDS * SIZE} | changes))


def everything(
    folder: Path, spool: Spool | None = None, *, most: int = 37, first: int = 1
) -> tuple[list[Point], SpoolReader]:
    """All points of a spool as (tag, step, value), tag by tag within each read."""
    reader = SpoolReader(folder, spool)
    found: list[Point] = []
    while True:
        read = reader.read(first, most, end=spool.end if spool is not None else None, is_final=spool is None)
        if read.last < read.first:
            return found, reader
        assert read.first == first
        first = read.last + 1
        for tag, body in read.columns:
            points = unpack(body)
            found += [(tag, step, value) for step, value in zip(points.steps.tolist(), points.values(), strict=True)]


def test_the_last_file_with_records_stays_though_all_are_acknowledged(folder: Path) -> None:
    spool = spool_of(folder)
    for step in range(RECORDS):
        spool.log({"loss": step * 0.5}, step)
    spool.tend()  # makes the next file in advance
    _, reader = everything(folder, spool)
    reader.forget(spool.end - 1)
    spool.close()
    assert len(files_of(folder)) == 1
    assert len(everything(folder)[0]) == RECORDS


def test_an_empty_folder_holds_nothing(folder: Path) -> None:
    folder.mkdir()
    assert everything(folder)[0] == []


def test_every_value_comes_back_as_what_it_is(folder: Path) -> None:
    spool = spool_of(folder)
    given = [0.5, -0.0, math.inf, -math.inf, 7, -7, True, 2**53, 2**53 + 1, 10**400, -(10**400), np.float32(0.25),
             np.int64(3), np.bool_(True), np.float64(1.5), Fraction(1, 2)]  # fmt: skip
    for step, value in enumerate(given):
        spool.log({"a": value}, step)
    spool.log({"a": math.nan}, 99)
    found, _ = everything(folder, spool)
    want = [
        0.5,
        -0.0,
        math.inf,
        -math.inf,
        7,
        -7,
        1,
        2**53,
        float(2**53 + 1),
        math.inf,
        -math.inf,
        0.25,
        3,
        1,
        1.5,
        0.5,
    ]
    assert [(step, value) for _, step, value in found[:-1]] == list(enumerate(want))
    assert [type(value) for *_, value in found[:-1]] == [type(value) for value in want]
    assert math.isnan(found[-1][2])
    assert not spool.rejected


def test_log_raises_for_nothing_and_counts_what_it_refuses(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    spool = spool_of(folder)
    log: Any = spool.log
    log({"a": "x", "b": None, "c": 1 + 2j, "d": [1.0], "e": Odd(), "good": 1.0}, 1)
    log({"": 1.0, "x" * 201: 1.0, "a\nb": 1.0, 3: 1.0}, 2)
    for step in (-1, 2**53 + 1, 1.5, "1", None, True, 10**30):
        log({"good": 2.0}, step)
    log(Odd(), 3)
    log([1.0], 3)
    log({"good": 1.0}, 4, phase=7)
    spool.log({"good": 3.0}, np.int64(5), phase="train")
    spool.tend()
    assert everything(folder, spool)[0] == [("good", 1, 1.0), ("train/good", 5, 3.0)]
    assert spool.rejected.total() == 5 + 4 + 7 + 3
    warned = [record.message for record in caplog.records]
    assert len(warned) == len(set(warned)) == len(spool.rejected)


def test_strict_metrics_raise(folder: Path) -> None:
    spool = spool_of(folder, strict=True)
    with pytest.raises(TapelineError) as caught:
        spool.log({"a": "x"}, 1)
    assert caught.value.code == "invalid"
    with pytest.raises(TapelineError):
        spool.log({"a": 1.0}, -1)


def test_a_value_on_a_device_is_read_by_who_tends_the_spool(folder: Path) -> None:
    class Tensor:
        reads = 0

        def __float__(self) -> float:
            Tensor.reads += 1
            return 0.125

    spool = spool_of(folder)
    spool.log({"a": Tensor(), "b": 1.0}, 4)
    assert (Tensor.reads, spool.held) == (0, 1)
    spool.tend()
    assert sorted(everything(folder, spool)[0]) == [("a", 4, 0.125), ("b", 4, 1.0)]


@pytest.mark.parametrize("pen", [Pen, reference.Pen], ids=["compiled", "plain"])
def test_the_pen_writes_what_its_reference_writes(folder: Path, pen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Any] = []
    tags = {"a": 3, "b": 9}
    made = pen(tags, lambda *given: left.append(given))
    memory = bytearray(SIZE * 5)
    made.turn(memory, 5)
    assert made.put(3, 7, 0.5, 11)
    assert made.put(9, 8, -4, 12)
    made.log({"a": 1.0, "c": 2.0, "b": True}, 9)
    assert left == [({"c": 2.0, "b": True}, 9, None)]
    assert (made.end, made.last_step, made.is_full) == (4, 9, False)
    other = reference.Pen(tags, lambda *given: None)
    expected = bytearray(SIZE * 5)
    other.turn(expected, 5)
    other.put(3, 7, 0.5, 11)
    other.put(9, 8, -4, 12)
    assert memory[: 2 * SIZE] == expected[: 2 * SIZE]
    made.log({"a": 1.0, "b": 2.0}, 10)
    made.log({"a": 5.0}, 11)
    assert left[-1] == ({"a": 5.0}, 11, None)
    assert made.is_full
    assert not made.put(3, 7, 0.5, 11)


NUMBERS = st.one_of(
    st.floats(), st.integers(-(2**64), 2**64), st.booleans(), st.text(max_size=2), st.none(), st.just(np.float32(0.5))
)
STEPS = st.one_of(st.integers(-1, 9), st.sampled_from([2**53, 2**53 + 1, 2**70, True, None, 1.5, "3"]))
LOGS = st.tuples(
    st.just("log"),
    st.one_of(st.dictionaries(st.sampled_from(["a", "b", "new", 7]), NUMBERS, max_size=3), st.none(), st.just([1])),
    STEPS,
    st.sampled_from([None, None, "train", 5]),
)
PUTS = st.tuples(st.just("put"), st.sampled_from([3, 9]), st.integers(0, 9), st.one_of(st.floats(), st.integers()))
TURNS = st.tuples(st.just("turn"), st.integers(0, 6))
TOLD = st.tuples(st.just("told"), st.integers(0, 2**53))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(LOGS, LOGS, PUTS, TURNS, TOLD), max_size=12))
def test_the_pen_does_what_its_reference_does(asked: list[Any]) -> None:
    tags = {"a": 3, "b": 9}
    left: dict[int, list[Any]] = {0: [], 1: []}
    pens: list[Any] = [
        kind(tags, lambda *given, place=place: left[place].append(given))
        for place, kind in enumerate([Pen, reference.Pen])
    ]
    written: list[list[bytearray]] = [[], []]
    for what, *values in [("turn", 4), *asked]:
        told = []
        for place, pen in enumerate(pens):
            if what == "turn":
                # None is a spool without a file.
                memory = bytearray(values[0] * SIZE) if values[0] else None
                if memory is not None:
                    written[place].append(memory)
                told.append(pen.turn(memory, values[0]))
            elif what == "put":
                told.append(pen.put(*values, 11))
            else:
                told.append(getattr(pen, what)(*values))
        assert told[0] == told[1]
        assert [(pen.end, pen.last_step, pen.is_full) for pen in pens[:1]] == [
            (pen.end, pen.last_step, pen.is_full) for pen in pens[1:]
        ]
    assert repr(left[0]) == repr(left[1])
    # Their clocks differ, and with them the sums.
    records = [[bytes(memory[at : at + 24]) for memory in many for at in range(0, len(memory), SIZE)]
               for many in written]  # fmt: skip
    assert records[0] == records[1]


@pytest.mark.parametrize("pen", [Pen, reference.Pen], ids=["compiled", "plain"])
def test_a_log_that_is_rejected_changes_no_step(folder: Path, pen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapeline.spool.writer.Pen", pen)
    spool = spool_of(folder)

    class Tensor:
        def __float__(self) -> float:
            return 0.125

    assert spool.last_step == 0
    rejected: list[tuple[Any, Any, Any]] = [
        ({"a": "x"}, 50, None), ({"a": None, "b": [1]}, 51, None), ("no dict", 52, None), ({"a": 1.0}, -1, None),
        ({"a": 1.0}, 2**53 + 1, None), ({"a": 1.0}, "53", None), ({"a": 1.0}, True, None), ({"a": 1.0}, 54, 7),
        ({"": 1.0}, 55, None), ({"x" * 201: 1.0}, 56, None), ({5: 1.0}, 57, None), ({"a": "x"}, 58, "train"),
    ]  # fmt: skip
    taken: list[tuple[Any, Any, Any]] = [
        ({"a": 1.0}, 3, None), ({"a": 2.0}, 5, None), ({"a": 3.0, "b": "x"}, 8, None), ({"b": 1}, 2, None),
        ({"a": 1.0}, np.int64(9), None), ({"a": 1.0}, 11, "train"), ({"a": "x", "a2": 1.0}, 13, "train"),
        ({}, 14, None), ({}, 15, "train"), ({"a": 2**60}, 16, None), ({"t": Tensor()}, 17, None),
        ({"a": np.float32(1)}, 18, None),
    ]  # fmt: skip
    for values, step, phase in taken:
        for refused in rejected:
            before = spool.last_step, spool.end, spool.rejected.total()
            spool.log(*refused)
            assert (spool.last_step, spool.end) == before[:2]
            assert spool.rejected.total() > before[2]
        spool.log(values, step, phase)
        assert spool.last_step == step


@pytest.mark.parametrize("pen", [Pen, reference.Pen], ids=["compiled", "plain"])
def test_strict_metrics_keep_the_step_of_what_was_taken(
    folder: Path, pen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapeline.spool.writer.Pen", pen)
    spool = spool_of(folder, strict=True)
    with pytest.raises(TapelineError):
        spool.log({"a": "x"}, 4)
    assert spool.last_step == 0
    with pytest.raises(TapelineError):
        spool.log({"a": 1.0, "b": "x"}, 5)
    assert spool.last_step == 5


def test_threads_and_files_share_one_order(folder: Path) -> None:
    spool = spool_of(folder)
    stop = threading.Event()

    def tend() -> None:
        while not stop.wait(0.001):
            spool.tend()

    def work(name: str) -> None:
        for step in range(500):
            spool.log({name: step * 0.5, f"{name}/n": step}, step)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    keeper = threading.Thread(target=tend)
    for thread in (keeper, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    keeper.join()
    found, reader = everything(folder, spool)
    for i in range(4):
        assert [value for tag, _, value in found if tag == f"t{i}"] == [step * 0.5 for step in range(500)]
        assert [value for tag, _, value in found if tag == f"t{i}/n"] == list(range(500))
    assert len(files_of(folder)) >= 40
    reader.forget(spool.end - 1)
    assert len(files_of(folder)) <= 3  # the last with records, one that was begun, one made in advance
    spool.close()
    assert everything(folder, first=spool.end - 3)[0]


def test_a_full_disk_takes_memory_and_then_the_oldest(folder: Path) -> None:
    is_full = True

    def open_file(path: Path, size: int) -> Any:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return mapped(path, size)

    spool = spool_of(folder, open_file=open_file, most_leaves=3)
    for step in range(250):
        spool.log({"a": float(step)}, step)
    assert [step for _, step, _ in everything(folder, spool)[0]] == list(range(250))
    for step in range(250, 500):
        spool.log({"a": float(step)}, step)
    # Three leaves hold the newest; the two oldest are given up, and counted.
    assert (spool.dropped, len(spool.leaves)) == (200, 3)
    found, reader = everything(folder, spool)
    assert [step for _, step, _ in found] == list(range(200, 500))
    reader.forget(450)
    assert len(spool.leaves) == 1
    is_full = False
    spool._retry_at = 0.0
    for step in range(500, 700):
        spool.log({"a": float(step)}, step)
    assert len(files_of(folder)) == 2
    assert spool.dropped == 200
    assert [step for _, step, _ in everything(folder, spool, first=451)[0]] == list(range(450, 700))


def test_beyond_its_bound_a_spool_drops_what_is_new(folder: Path) -> None:
    spool = spool_of(folder, most_bytes=3 * RECORDS * SIZE)
    for step in range(450):
        spool.log({"a": float(step)}, step)
    assert spool.dropped == 150
    found, reader = everything(folder, spool)
    assert [step for _, step, _ in found] == list(range(300))
    reader.forget(300)
    spool.log({"a": 1.0}, 500)
    assert everything(folder, spool, first=301)[0] == [("a", 500, 1.0)]


def test_a_forked_process_writes_nothing_into_its_parents_spool(folder: Path) -> None:
    spool = spool_of(folder)
    spool.log({"a": 1.0}, 1)
    child = os.fork()
    if child == 0:
        spool.log({"a": 2.0}, 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    spool.log({"a": 3.0}, 3)
    assert everything(folder, spool)[0] == [("a", 1, 1.0), ("a", 3, 3.0)]


def test_a_torn_record_is_passed_over_and_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = spool_of(folder)
    for step in range(10):
        spool.log({"a": float(step)}, step)
    ((_, path),) = files_of(folder)
    with open(path, "r+b") as file:
        file.seek(4 * SIZE + 16)
        file.write(b"\xff")
    # While it is written to, the place may only be empty for now.
    reader = SpoolReader(folder, spool)
    assert reader.read(1, 100, end=spool.end).last == 4
    monkeypatch.setattr(reading, "PATIENCE_S", 0.0)
    read = reader.read(5, 100, end=spool.end)
    assert (read.first, read.last, read.torn) == (5, 10, 1)
    spool.close()
    read = SpoolReader(folder).read(1, 100, is_final=True)
    assert (read.last, read.points, read.torn) == (10, 9, 1)


def test_a_file_made_in_advance_hides_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE_S", 0.0)
    spool, reader = spool_of(folder), SpoolReader(folder)
    spool.log({"a": 0.0}, 0)
    spool.tend()
    assert len(files_of(folder)) == 2
    first = 1
    for step in range(1, 250):
        for _ in range(3):
            read = reader.read(first, 40)
            assert read.torn == 0
            first = read.last + 1
        assert first == step + 1
        spool.log({"a": float(step)}, step)
        spool.tend()
    reader.forget(first - 1)
    assert everything(folder, first=first)[0] == [("a", 249, 249.0)]


def test_a_torn_line_of_the_tags_is_none() -> None:
    data = b"".join(map(tag_line, ["a", "b/c", "ü"]))
    assert tags_of(data) == ["a", "b/c", "ü"]
    for cut in range(len(data)):
        assert tags_of(data[:cut]) == ["a", "b/c", "ü"][: data[:cut].count(b"\n")]


def test_times_increase_whatever_the_clock_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = spool_of(folder)
    for i, at in enumerate([5, 5, 3, 9, 9]):
        spool._record("a", i, float(i), at)
    reader = SpoolReader(folder, spool)
    times = [unpack(body).times.tolist() for body in (reader.read(n, 2, end=6).columns[0][1] for n in (1, 3, 5))]
    assert times == [[5, 6], [7, 9], [10]]


CHILD = """
import sys
from pathlib import Path
from tapeline.spool.writer import Spool
spool = Spool(Path(sys.argv[1]), file_bytes=3600)
step = 0
while True:
    spool.log({"a": step * 0.5, "b": step}, step)
    step += 1
    if step % 97 == 0:
        spool.tend()
    # What is told was logged before.
    if step % 10 == 0:
        print(step, flush=True)
"""


def killed(folder: Path, after_s: float) -> None:
    """Log until killed; all that was told to be logged is there, in order, once."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(after_s)
    child.send_signal(signal.SIGKILL)
    told = int((child.stdout.read().rstrip("\n").split("\n")[-1] or first).strip())
    child.wait()
    found, _ = everything(folder, most=4096)
    steps = [step for tag, step, _ in found if tag == "a"]
    assert steps == list(range(len(steps)))
    assert len(steps) >= told
    assert [value for tag, _, value in found if tag == "a"] == [step * 0.5 for step in steps]
    assert len(steps) - sum(tag == "b" for tag, *_ in found) in (0, 1)


def test_a_killed_process_loses_no_point(folder: Path) -> None:
    killed(folder, 0.05)


@pytest.mark.long
def test_a_process_killed_at_any_moment_loses_no_point(tmp_path: Path) -> None:
    dice = random.Random(50)
    for trial in range(50):
        killed(tmp_path / str(trial), dice.random() * 0.3)
