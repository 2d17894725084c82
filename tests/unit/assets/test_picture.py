"""The picture of an asset: bars, outcomes, parts and embargo, in plain SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from tapeline.sdk import asset_picture
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


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (13.56, 14.28, ["13.6", "13.8", "14.0", "14.2"]),
        (166.2, 169.9, ["166.5", "167.0", "169.5"]),
        (0.0, 0.02, ["0.000", "0.005", "0.010", "0.015", "0.020"]),
        (5.0, 5.0, ["5.0"]),
    ],
)
def test_prices_are_marked_where_they_are_round(low: float, high: float, texts: list[str]) -> None:
    marked = "".join(asset_picture._prices(low, high, lambda price: price))
    assert all(f">{text}</text>" in marked for text in texts), marked


def test_each_session_has_its_date_where_there_is_room() -> None:
    day = 86_400 * 10**9
    for days, most in ((3, 3), (400, asset_picture.COLUMNS // asset_picture.DATE_WIDTH + 1)):
        end = np.arange(1, days + 1, dtype=np.int64) * day
        empty = np.zeros(0)
        picture = asset_picture.Picture(
            "t", "l", end, np.arange(days, dtype=np.int32), *(np.ones(days),) * 3, empty.astype(np.int64),
            empty.astype(np.uint8), empty, 0,
        )  # fmt: skip
        text = asset_picture.drawn(picture)
        assert text.count('class="date"') == most
        assert "1970-01-01<" in text
