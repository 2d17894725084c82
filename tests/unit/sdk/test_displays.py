"""What a notebook shows: complete, escaped, and never an error."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

import pytest

from tapeline import sdk as tl
from tapeline.sdk import displays
from tapeline.sdk.runs import Runs

HOSTILE = '"><script>alert(1)</script>\x1b[2J\u202e'


class Tags(HTMLParser):
    """The names of the tags of a text, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)
        self.open.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def is_safe(text: str) -> bool:
    tags = Tags(text)
    return not tags.open and "script" not in tags.names and "\x1b" not in text and "\u202e" not in text


def run(**fields: Any) -> tl.Run:
    return tl.Run(id="r1", number=7, name="first", status="job_running", **fields)  # type: ignore[call-arg]


def test_a_run_shows_its_status_progress_and_config() -> None:
    progress = [tl.Progress(operation="epochs", value=3, final_value=4, units="epochs")]
    shown = run(progress=progress, config={"epochs": 4})._repr_html_()
    for part in ("run 7 first", "job_running", "epochs 3 of 4 epochs", "width:180px", "config"):
        assert part in shown
    assert is_safe(shown)


def test_a_local_run_is_shown_without_asking_anybody() -> None:
    assert "run - " in tl.Run()._repr_html_()


def test_every_value_of_a_run_is_escaped() -> None:
    progress = [tl.Progress(operation=HOSTILE, value=1, final_value=0, units=HOSTILE)]
    shown = tl.Run(
        id=HOSTILE, name=HOSTILE, notes=HOSTILE, status=HOSTILE, progress=progress, config={HOSTILE: HOSTILE},
        project_id=HOSTILE, version=HOSTILE,
    )  # fmt: skip
    shown._seen = {HOSTILE: [(0, 1.0), (1, 2.0)]}
    assert is_safe(shown._repr_html_())
    assert is_safe(Runs([shown])._repr_html_())


def test_points_that_were_read_are_drawn() -> None:
    drawn = run()
    drawn._seen = {"loss": [(2, 0.5), (0, 1.0), (1, math.nan), (3, 0.25)], "one": [(0, 1.0)]}
    shown = drawn._repr_html_()
    assert shown.count("<path") == 1
    assert "M0.0 2.0 M160.0" in shown


@pytest.mark.parametrize(
    "values", [[], [1.0], [math.nan, math.inf], [1.0, 1.0], [-1e308, 1e308], [5e-324, 0.0], [math.inf, 1.0, 2.0]]
)
def test_any_values_make_a_line_or_none(values: list[float]) -> None:
    drawn = displays.sparkline(values)
    assert drawn == "" or "nan" not in drawn
    assert is_safe(drawn)


@pytest.mark.parametrize(("value", "final"), [(0, 0), (5, 4), (-1, 4), (math.nan, 4), (1, math.inf), (1, -1)])
def test_a_bar_is_never_longer_than_its_place(value: float, final: float) -> None:
    width = int(displays.bar(value, final, "x").split("width:")[2].split("px")[0])
    assert 0 <= width <= 240


def test_a_long_list_says_how_much_of_it_is_shown() -> None:
    shown = Runs([run() for _ in range(130)])._repr_html_()
    assert shown.count("<tr>") == 101
    assert "100 of 130" in shown


def test_an_asset_and_a_vault_item_show_what_is_loaded() -> None:
    asset = tl.Asset.__new__(tl.Asset)
    asset.team, asset.name = "main", HOSTILE
    asset.view = {
        "status": "ready", "rows": {"a_test.h5": 3, "a_train_0.h5": 9}, "files": [{"name": "a_test.h5"}],
        "features": {HOSTILE: [20, 8]}, "labels": {"up": ["binary"]},
    }  # fmt: skip
    shown = asset._repr_html_()
    assert is_safe(shown)
    assert "12" in shown
    assert "(20, 8)" in shown
    assert is_safe(tl.VaultItem("main", HOSTILE)._repr_html_())


def test_what_cannot_be_drawn_is_named_instead() -> None:
    broken = tl.Asset.__new__(tl.Asset)
    assert "Asset (AttributeError while it was drawn)" in broken._repr_html_()


def test_a_long_value_is_cut() -> None:
    assert len(displays.text("x" * 10_000)) == displays.LONGEST
