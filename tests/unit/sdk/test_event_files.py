"""Event files of TensorBoard: what is written is read again, by us and by TensorBoard; what is torn is told."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.sdk import event_files
from tapeline.sdk.event_files import Scalar, read, write

POINTS = [
    Scalar("loss", 0, 1.7e9, 0.1),
    Scalar("loss", 1, 1.7e9 + 1e-6, float("nan")),
    Scalar("loss", 2, 1.7e9 + 0.5, -math.inf),
    Scalar("rows/über", 2**53, 1.7e9 + 1, 2**62 + 1),
    Scalar("rows/über", 3, 1.7e9 + 2, -5),
    Scalar("tiny", 4, 1.7e9 + 3, 5e-324),
]


def bits(scalars: list[Scalar]) -> list[tuple[object, ...]]:
    return [
        (s.tag, s.step, s.wall_time, s.value if isinstance(s.value, int) else struct.pack("<d", s.value))
        for s in scalars
    ]


def test_every_value_comes_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.x"
    assert write(path, POINTS, began=1.7e9) == len(POINTS)
    found = read(path)
    assert bits(found.scalars) == bits(POINTS)
    assert (found.others, found.is_torn) == (0, False)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            Scalar,
            st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
            st.integers(0, 2**53),
            st.floats(0, 4e9),
            st.one_of(st.floats(), st.integers(-(2**63), 2**63 - 1)),
        ),
        max_size=20,
    )
)
def test_any_scalars_come_back(tmp_path_factory: pytest.TempPathFactory, scalars: list[Scalar]) -> None:
    path = tmp_path_factory.mktemp("events") / "events.out.tfevents.1.x"
    write(path, scalars, began=0.0)
    assert bits(read(path).scalars) == bits(scalars)


def test_a_file_that_is_cut_anywhere_gives_what_is_whole_before(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.x"
    write(path, POINTS, began=1.7e9)
    whole = path.read_bytes()
    ends = [0]
    while ends[-1] < len(whole):
        ends.append(ends[-1] + 16 + int.from_bytes(whole[ends[-1] : ends[-1] + 8], "little"))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found = read(path)
        records = sum(end <= length for end in ends[1:])
        assert len(found.scalars) == max(records - 1, 0)
        assert found.is_torn == (length not in ends)


def test_a_damaged_record_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.x"
    write(path, POINTS, began=1.7e9)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    found = read(path)
    assert found.is_torn
    assert bits(found.scalars) == bits(POINTS)[: len(found.scalars)]
    assert len(found.scalars) < len(POINTS)


def test_a_record_that_claims_to_be_huge_is_damage_and_not_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.x"
    length = struct.pack("<Q", 2**60)
    path.write_bytes(length + struct.pack("<I", event_files._masked(length)) + b"x" * 100)
    assert read(path).is_torn


def value(content: bytes) -> bytes:
    inner = event_files._text(1, event_files._text(1, b"t") + content)
    return event_files._double(1, 5.0) + event_files._number(2, 7) + event_files._text(5, inner)


def tensor(*content: bytes) -> bytes:
    return event_files._text(8, b"".join(content))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (event_files._varint(2 << 3 | 5) + struct.pack("<f", 0.5), 0.5),
        (tensor(event_files._number(1, 1), event_files._text(5, struct.pack("<f", 0.25))), 0.25),
        (tensor(event_files._number(1, 1), event_files._varint(5 << 3 | 5) + struct.pack("<f", 0.25)), 0.25),
        (tensor(event_files._number(1, 2), event_files._text(6, struct.pack("<d", 0.1))), 0.1),
        (tensor(event_files._number(1, 3), event_files._text(7, event_files._varint(-3))), -3),
        (tensor(event_files._number(1, 9), event_files._number(10, 9)), 9),
        (tensor(event_files._number(1, 1)), 0.0),
        (tensor(event_files._number(1, 7), event_files._text(8, b"a text")), None),
        (tensor(event_files._number(1, 1), event_files._text(4, b"\0" * 8)), None),
        (
            tensor(event_files._number(1, 1), event_files._text(2, event_files._text(2, event_files._number(1, 2)))),
            None,
        ),
        (event_files._text(4, b"a picture"), None),
        (b"\xff\xff\xff", None),
    ],
)
def test_scalars_are_read_in_each_of_their_forms_and_others_are_counted(
    content: bytes, expected: float | int | None, tmp_path: Path
) -> None:
    path = tmp_path / "events.out.tfevents.1.x"
    path.write_bytes(event_files._record(value(content)))
    found = read(path)
    assert not found.is_torn
    if expected is None:
        assert (found.scalars, found.others) == ([], 1)
    else:
        assert found.scalars == [Scalar("t", 7, 5.0, expected)]
        assert type(found.scalars[0].value) is type(expected)


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    write(tmp_path / "events.out.tfevents.1.x", POINTS, began=1.7e9)
    seen = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert sorted(seen.Tags()["tensors"]) == ["loss", "rows/über", "tiny"]
    for tag in seen.Tags()["tensors"]:
        assert seen.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
        events = [
            Scalar(tag, each.step, each.wall_time, make_ndarray(each.tensor_proto).item()) for each in seen.Tensors(tag)
        ]
        assert bits(events) == bits([point for point in POINTS if point.tag == tag])


def test_what_tensorboard_writes_is_read(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    for step in range(3):
        summary = Summary(value=[Summary.Value(tag="loss", simple_value=step / 2)])
        writer.add_event(Event(wall_time=1.7e9 + step, step=step, summary=summary))
    writer.close()
    (path,) = tmp_path.iterdir()
    assert read(path).scalars == [Scalar("loss", step, 1.7e9 + step, step / 2) for step in range(3)]
