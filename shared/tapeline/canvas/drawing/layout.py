"""Where each node of a canvas stands in a picture, and what is written into it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tapeline.canvas import model as m
from tapeline.canvas.graph import build_order

COLUMN, ROW = 236, 92
WIDTH, HEIGHT = 188, 64
MARGIN, HEAD = 24, 44
LONGEST = 28
"""Characters of one line in a box."""
_SWEEPS = 8
_MOST_BENDS = 4096
"""Places that long edges may take in the columns between; beyond, they run straight."""
_ALWAYS = {"activation": "name", "pool1d": "mode", "window_norm": "mode", "select": "axis"}
"""What is told of a kind even where it is the default."""
_HIDDEN = frozenset({"id", "kind", "inputs", "notes", "component_name", "features", "feature"})


@dataclass(frozen=True)
class Box:
    """A node in the picture: its corner, its category, and three lines of text."""

    id: str
    category: str
    x: int
    y: int
    title: str
    detail: str
    shape: str
    is_trainable: bool


@dataclass(frozen=True)
class Edge:
    """From one box to another; `spans` are the curves to draw, each as (x1, y1, x2, y2), in order.

    Between two spans the edge runs level, through the free place that it has in a column.
    """

    source: str
    target: str
    spans: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class Layout:
    """The boxes in the order of building, the edges, and the size of the picture."""

    title: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    width: int
    height: int


def lay_out(canvas: m.Canvas, *, shapes: Mapping[str, Sequence[int]] | None = None, title: str = "") -> Layout:
    """The picture of a canvas: data flows from left to right, a node stands right of all that it reads.

    Parameters
    ----------
    canvas : Canvas
        A valid one: its graph has no cycle.
    shapes : Mapping of str to sequence of int, optional
        Shape of one sample of each node, as `validate` gives it when an asset is named.
    title : str
        Written above; the canvas's own name by default.

    Notes
    -----
    Columns are longest paths from the inputs. Within a column nodes stand in the order of the mean place of
    their neighbours, found by sweeps to and fro (Sugiyama's method), ties by id. An edge over several columns has
    a place of its own in each of those between.
    """
    nodes = build_order(canvas.nodes)
    above = {node.id: tuple(dict.fromkeys(m.inputs_of(node))) for node in nodes}
    column: dict[str, int] = {}
    for node in nodes:
        column[node.id] = max((column[source] + 1 for source in above[node.id]), default=0)
    last = max(column.values(), default=0)
    for node in nodes:
        if isinstance(node, m.Output):
            column[node.id] = last
    paths = {(source, node.id): [source, node.id] for node in nodes for source in above[node.id]}
    if sum(column[target] - column[source] - 1 for source, target in paths) <= _MOST_BENDS:
        for source, target in paths:
            bends = {f"\0{source}\0{target}\0{i}": i for i in range(column[source] + 1, column[target])}
            column |= bends
            paths[source, target] = [source, *bends, target]
    rows = _rows(column, [pair for path in paths.values() for pair in pairwise(path)])
    tallest = max((len(ids) for ids in rows), default=0)
    place = {
        node_id: (MARGIN + i * COLUMN, HEAD + MARGIN + round((tallest - len(ids)) * ROW / 2) + j * ROW)
        for i, ids in enumerate(rows)
        for j, node_id in enumerate(ids)
    }
    boxes = tuple(
        Box(
            node.id,
            node.category,
            *place[node.id],
            title=cut(f"{node.id} · {node.title}"),
            detail=cut(_detail(node)),
            shape=" × ".join(str(size) for size in shapes[node.id]) if shapes and node.id in shapes else "",
            is_trainable=node.is_trainable,
        )
        for node in nodes
    )
    return Layout(
        cut(title or canvas.name or "canvas", 80),
        boxes,
        tuple(_edge(path, place) for path in paths.values()),
        2 * MARGIN + last * COLUMN + WIDTH,
        HEAD + 2 * MARGIN + max(tallest - 1, 0) * ROW + HEIGHT,
    )


def _edge(path: Sequence[str], place: Mapping[str, tuple[int, int]]) -> Edge:
    middle = HEIGHT // 2
    spans = tuple(
        (place[here][0] + WIDTH, place[here][1] + middle, place[there][0], place[there][1] + middle)
        for here, there in pairwise(path)
    )
    return Edge(path[0], path[-1], spans)


def _rows(column: Mapping[str, int], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    above: dict[str, list[str]] = {each: [] for each in column}
    below: dict[str, list[str]] = {each: [] for each in column}
    for source, target in pairs:
        above[target].append(source)
        below[source].append(target)
    rows: list[list[str]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
    for each in sorted(column):
        rows[column[each]].append(each)
    at = {each: j - len(row) / 2 for row in rows for j, each in enumerate(row)}
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        neighbours = above if forward else below
        for row in rows if forward else reversed(rows):
            wanted = {each: (_mean(neighbours[each], at, at[each]), each) for each in row}
            row.sort(key=wanted.__getitem__)
            at |= {each: j - len(row) / 2 for j, each in enumerate(row)}
    return rows


def _mean(neighbours: Sequence[str], at: Mapping[str, float], otherwise: float) -> float:
    return sum(at[each] for each in neighbours) / len(neighbours) if neighbours else otherwise


def _detail(node: m.Node) -> str:
    """What distinguishes a node of its kind, in a few words."""
    if isinstance(node, m.Input):
        return ", ".join(node.features)
    if isinstance(node, m.Output):
        return f"{node.feature}[{node.label_index}] {node.activation}"
    set_here = node.model_dump(mode="json", exclude_defaults=True)
    if (field := _ALWAYS.get(node.kind)) is not None:
        set_here = {field: getattr(node, field)} | set_here
    return ", ".join(f"{name}={_said(value)}" for name, value in set_here.items() if name not in _HIDDEN)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def cut(text: str, longest: int = LONGEST) -> str:
    """The text on one line, of at most so many characters; what steers a terminal or a file is replaced."""
    plain = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
