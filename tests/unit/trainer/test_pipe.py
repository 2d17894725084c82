"""Lines between agent and child: what is not the next line of the protocol is refused with its reason."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline.errors import TapelineError
from tapeline.trainer import pipe


def test_lines_come_out_as_they_went_in() -> None:
    decoder = pipe.Decoder(pipe.FROM_CHILD)
    assert decoder.decode(pipe.encode(1, "alive", {"step": 3}))["step"] == 3
    assert decoder.decode(pipe.encode(2, "log", {"text": "é\n"}))["text"] == "é\n"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"nonsense\n",
        b'{"v":1,"n":1,"kind":"alive"}',
        b'{"v":2,"n":1,"kind":"alive"}\n',
        b'{"v":1,"n":2,"kind":"alive"}\n',
        b'{"v":1,"n":true,"kind":"alive"}\n',
        b'{"v":1,"n":1,"kind":"start"}\n',
        b'{"v":1,"n":1,"kind":["alive"]}\n',
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
    ],
)
def test_what_is_no_line_of_the_protocol_is_refused(line: bytes) -> None:
    with pytest.raises(TapelineError, match="protocol") as caught:
        pipe.Decoder(pipe.FROM_CHILD).decode(line)
    assert len(caught.value.message) < 400


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\n", b"") + b"\n"))
def test_no_line_breaks_the_decoder(line: bytes) -> None:
    decoder = pipe.Decoder(pipe.FROM_CHILD)
    with pytest.raises(TapelineError):
        decoder.decode(line)


def test_an_overlong_line_is_not_written() -> None:
    with pytest.raises(TapelineError) as caught:
        pipe.encode(1, "log", {"text": "x" * pipe.MAX_LINE})
    assert caught.value.code == "too_large"


def test_numbers_that_json_has_not_are_names() -> None:
    assert [pipe.number(value) for value in (1.5, math.nan, math.inf, -math.inf)] == [
        1.5, "NaN", "Infinity", "-Infinity",
    ]  # fmt: skip
    assert json.loads(pipe.encode(1, "metrics", {"columns": {"a": [[1, pipe.number(math.nan)]]}}))
