"""Names: what may be one, and how a refusal says why not."""

import contextlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline.errors import TapelineError
from tapeline.security.names import display_name, feature_name

GOOD = [
    "a",
    "spy e1",
    "90_1daybar_lp%",
    "x.*",
    "x.>",
    "a/b",
    "..",
    "Größe",
    "名前",
    "run #3 (2)",
    "'; drop table",
    "x" * 255,
]
BAD = [
    ("", "empty"),
    (" a", "blank at the start"),
    ("a ", "blank at the end"),
    ("a\u00a0", "blank at the end"),
    ("a\nb", "U\\+000A at 1"),
    ("a\x00", "U\\+0000 at 1"),
    ("abcd\u202ee", "character U\\+202E at 4 is not allowed"),
    ("\u2066x", "U\\+2066 at 0"),
    ("\ud800", "U\\+D800 at 0"),
    ("\uffff", "U\\+FFFF at 0"),
    ("a\u2028b", "U\\+2028 at 1"),
    ("\x7f", "U\\+007F"),
    ("\ufeffa", "U\\+FEFF at 0"),
    ("x" * 256, "256 characters"),
    ("x" * 10_000_000, "10000000 characters"),
    (None, "expected a text"),
    (7, "expected a text"),
    (b"x", "expected a text"),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert display_name(name) == name


@pytest.mark.parametrize(("name", "reason"), BAD, ids=[str(case[1]) for case in BAD])
def test_a_name_that_is_none_is_refused_with_the_reason(name: object, reason: str) -> None:
    with pytest.raises(TapelineError, match=reason) as caught:
        display_name(name)
    assert caught.value.code == "invalid"
    assert str(caught.value).startswith("name: ")


def test_a_name_is_brought_to_one_form() -> None:
    assert display_name(unicodedata.normalize("NFD", "Größe")) == "Größe"


@pytest.mark.parametrize("name", ["a/b", ".", "..", "_grid", "x" * 129, "/"])
def test_a_feature_is_named_more_strictly(name: str) -> None:
    with pytest.raises(TapelineError) as caught:
        feature_name(name)
    assert caught.value.code == "invalid"


@given(st.text(max_size=300))
def test_any_text_is_a_name_in_its_one_form_or_refused(text: str) -> None:
    name = None
    with contextlib.suppress(TapelineError):
        name = display_name(text)
    if name is not None:
        assert display_name(name) == name == unicodedata.normalize("NFC", text)
        assert 1 <= len(name) <= 255
