"""Drawings of canvases: complete, safe and the same every time."""

from __future__ import annotations

import copy
import json
import random
import struct
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tapeline.canvas import EXAMPLES, Canvas, example, validate
from tapeline.canvas.drawing import Layout, lay_out, svg
from tapeline.canvas.drawing.layout import HEIGHT, WIDTH, cut
from tapeline.canvas.drawing.png import png

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
SVG = "{http://www.w3.org/2000/svg}"


def canvas_named(name: str) -> dict[str, Any]:
    return dict(json.loads(example(name))) if name in EXAMPLES else dict(GOLDEN[name]["canvas"])


def parsed(content: Any) -> Canvas:
    return validate(content).require()


def laid(name: str) -> Layout:
    return lay_out(parsed(canvas_named(name)))


@pytest.mark.parametrize("name", list(GOLDEN))
def test_every_node_has_a_box_and_no_two_overlap(name: str) -> None:
    layout = laid(name)
    assert {box.id for box in layout.boxes} == {node["id"] for node in canvas_named(name)["nodes"]}
    for one, other in combinations(layout.boxes, 2):
        assert abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT
    for box in layout.boxes:
        assert 0 <= box.x <= layout.width - WIDTH
        assert 0 <= box.y <= layout.height - HEIGHT


@pytest.mark.parametrize("name", list(GOLDEN))
def test_every_edge_leads_to_the_right_and_crosses_no_box(name: str) -> None:
    layout = laid(name)
    at = {box.id: box for box in layout.boxes}
    for edge in layout.edges:
        assert at[edge.source].x < at[edge.target].x
        assert edge.spans[0][:2] == (at[edge.source].x + WIDTH, at[edge.source].y + HEIGHT // 2)
        assert edge.spans[-1][2:] == (at[edge.target].x, at[edge.target].y + HEIGHT // 2)
        for (_, _, x, y), (_, later, _, _) in zip(edge.spans, edge.spans[1:], strict=False):
            assert y == later
            assert not any(box.x == x and abs(box.y + HEIGHT // 2 - y) < HEIGHT / 2 for box in layout.boxes)


@pytest.mark.parametrize("name", list(GOLDEN))
def test_neither_the_order_of_nodes_nor_their_places_change_a_drawing(name: str) -> None:
    content = canvas_named(name)
    shuffled = copy.deepcopy(content)
    random.Random(5).shuffle(shuffled["nodes"])
    shuffled["ui"] = {"a": {"x": 7}}
    assert svg(lay_out(parsed(shuffled))) == svg(lay_out(parsed(content)))


def test_the_svg_holds_each_node_and_edge_and_nothing_that_acts() -> None:
    layout = laid("demo")
    root = ElementTree.fromstring(svg(layout))
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        "svg", "title", "defs", "marker", "path", "rect", "text", "g"
    }  # fmt: skip
    assert len(root.findall(f"{SVG}g")) == len(layout.boxes)
    assert len(root.findall(f"{SVG}path")) == len(layout.edges)


def test_a_hostile_name_is_text_and_no_markup() -> None:
    content = canvas_named("demo")
    content["name"] = '</text><script>alert("1")</script>\x1b[2J'
    content["nodes"][0]["features"] = ["<img onerror=x>&\u200b"]
    drawn = svg(lay_out(parsed(content)))
    root = ElementTree.fromstring(drawn)
    assert not [each for each in root.iter() if each.tag.removeprefix(SVG) in ("script", "img")]
    assert "\x1b" not in drawn
    assert any((each.text or "").startswith("<img") for each in root.iter(f"{SVG}text"))


def test_shapes_are_written_where_an_asset_gives_them() -> None:
    content = canvas_named("demo")
    found = validate(
        content,
        feature_shapes={
            "bars_20_1min": (20, 8), "log_return_1min": (1,), "trade_size_1min": (2,), "volume_ratio_1min": (1,)
        },
    )  # fmt: skip
    shapes = {box.id: box.shape for box in lay_out(found.require(), shapes=found.shapes).boxes}
    assert (shapes["bars"], shapes["flat"], shapes["trunk"]) == ("20 × 8", "40", "16")
    assert {box.shape for box in laid("demo").boxes} == {""}


def test_a_frozen_node_is_dashed() -> None:
    content = canvas_named("demo")
    content["nodes"][5]["is_trainable"] = False
    assert svg(lay_out(parsed(content))).count("stroke-dasharray") == 1


def test_a_long_text_is_cut_and_says_so() -> None:
    assert cut("x" * 100) == "x" * 27 + "…"
    assert cut("a\nb") == "a\N{REPLACEMENT CHARACTER}b"


def test_the_largest_canvas_is_drawn_without_recursion() -> None:
    chain: list[dict[str, Any]] = [{"id": "n0", "kind": "input", "features": ["f"]}]
    chain += [{"id": f"n{i}", "kind": "dense", "inputs": [f"n{i - 1}", "n0"], "units": 1} for i in range(1, 511)]
    chain.append({"id": "o", "kind": "output", "inputs": ["n510"], "feature": "y"})
    layout = lay_out(parsed({"schema": "tapeline.canvas/1", "nodes": chain}))
    assert len(layout.boxes) == 512
    assert len(layout.edges) == 1020 + 1 - 1


def test_a_png_has_the_size_of_the_drawing_and_equal_bytes() -> None:
    layout = laid("demo")
    first = png(layout, scale=1.0)
    assert first == png(layout, scale=1.0)
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", first[16:24]) == (layout.width, layout.height)
    assert b"Software" not in first
