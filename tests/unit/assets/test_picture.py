"""The picture of an asset: bars, outcomes, parts and embargo, in plain SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from tapeline.sdk.asset_picture import DOWN, EMBARGO, UP, Picture, drawn, outcomes

MINUTE = 60_000_000_000
SVG = "{http://www.w3.org/2000/svg}"


def picture(sessions: int = 3, bars: int = 60, title: str = "demo: <SPY> & more", embargo: int = 5) -> Picture:
    n = sessions * bars
    end = np.concatenate([(day * 1440 + 1 + np.arange(bars)) * MINUTE for day in range(sessions)]).astype(np.int64)
    session = np.repeat(np.arange(sessions, dtype=np.int32), bars)
    close = 100 + np.cumsum(np.random.default_rng(1).normal(size=n))
    close[:2] = np.nan
    kept = np.arange(n) % bars >= 10
    return Picture(
        title, "up column 0", end, session, close + 1, close - 1, close, end[kept],
        np.minimum(session[kept], 2).astype(np.uint8), np.where(np.arange(kept.sum()) % 3 > 0, 1.0, -1.0),
        embargo * MINUTE,
    )  # fmt: skip


def test_a_picture_shows_each_part_and_the_embargo_of_the_later_ones() -> None:
    text = drawn(picture())
    root = ElementTree.fromstring(text)
    parts = [each for each in root.iter(f"{SVG}rect") if each.get("class") == "part"]
    assert [round(float(each.get("width", 0))) for each in parts] == [353, 353, 353]
    assert "train, 50 samples" in text
    assert "test, 50 samples" in text
    embargoes = [each for each in root.iter(f"{SVG}rect") if each.get("class") == "embargo"]
    # Five of sixty bars, from where the later part opens.
    assert [round(float(each.get("width", 0))) for each in embargoes] == [29, 29]
    assert [each.get("x") for each in embargoes] == [each.get("x") for each in parts[1:]]
    colors = {each.get("stroke") for each in root.iter(f"{SVG}path") if each.get("class") == "samples"}
    assert colors == {UP, DOWN}
    assert EMBARGO in text
    assert "demo: &lt;SPY&gt; &amp; more" in text
    assert drawn(picture()) == text


def test_a_long_asset_is_drawn_in_as_many_columns_as_the_picture_has() -> None:
    assert len(drawn(picture(sessions=300, bars=390))) < 200_000
    assert "hatched" in drawn(picture(sessions=1, bars=30, embargo=0))


@pytest.mark.parametrize(
    ("values", "types", "expected", "column"),
    [
        ([[0.2, 1.0], [-0.1, 0.0]], ["regression", "binary"], [1.0, -1.0], 1),
        ([[0.2], [-0.1], [0.0]], ["regression"], [1.0, -1.0, 0.0], 0),
        ([[0.0], [1.0], [2.0]], ["multiclass(3)"], [-1.0, 0.0, 1.0], 0),
    ],
    ids=["binary first", "regression", "classes"],
)
def test_an_outcome_is_up_flat_or_down(
    values: list[list[float]], types: list[str], expected: list[float], column: int
) -> None:
    found, chosen = outcomes(np.array(values, np.float32), types)
    assert (found.tolist(), chosen) == (expected, column)
