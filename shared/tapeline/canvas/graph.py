"""The shape of the graph: what is named twice, leads nowhere, or runs in a circle; and the order to build in."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from tapeline.canvas.faults import Fault, Nearest, pointer_to
from tapeline.canvas.limits import MAX_EDGES, MAX_FAULTS
from tapeline.canvas.model import Node, inputs_of


class Vertex(NamedTuple):
    """What the graph needs to know of a node, read from JSON whose other fields may be wrong."""

    place: int
    id: str
    kind: str
    inputs: tuple[tuple[int, str], ...]
    component_name: str
    is_whole: bool


def vertices_of(nodes: Iterable[Any]) -> list[Vertex]:
    """The vertices among the parsed nodes; one without a text as id is none."""
    vertices = []
    for place, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("id"), str):
            continue
        given = node.get("inputs", [])
        sources = given if isinstance(given, list) else []
        inputs = tuple((j, source) for j, source in enumerate(sources) if isinstance(source, str))
        name = node.get("component_name", "")
        vertices.append(
            Vertex(
                place,
                node["id"],
                str(node.get("kind", "")),
                inputs,
                name if isinstance(name, str) else "",
                isinstance(given, list) and len(inputs) == len(given),
            )
        )
    return vertices


def graph_faults(vertices: Sequence[Vertex], total: int, nearest: Nearest) -> list[Fault]:
    """The faults of the graph, as many as are told, in the order of the nodes; a cycle with its path.

    Parameters
    ----------
    vertices : sequence of Vertex
        From `vertices_of`.
    total : int
        How many nodes the canvas has; fewer vertices mean that some could not be read.
    nearest : Nearest
        Finds what a misspelt id may have meant.
    """
    return list(islice(_faults(vertices, total, nearest), MAX_FAULTS))


def _faults(vertices: Sequence[Vertex], total: int, nearest: Nearest) -> Iterator[Fault]:
    is_whole = len(vertices) == total and all(vertex.is_whole for vertex in vertices)
    first: dict[str, int] = {}
    for node in vertices:
        if node.id in first:
            yield Fault(
                node.id,
                "id",
                "duplicate_id",
                pointer_to("nodes", node.place, "id"),
                f"id {node.id!r} is used by /nodes/{first[node.id]} too",
                "give each node its own id",
            )
        first.setdefault(node.id, node.place)

    edges = sum(len(node.inputs) for node in vertices)
    if edges > MAX_EDGES:
        yield Fault(
            None,
            "nodes",
            "too_many_edges",
            "/nodes",
            f"{edges} edges, the limit is {MAX_EDGES}",
            "join inputs with a concat node once and use its result",
        )
        return

    used: set[str] = set()
    outputs = {node.id: node for node in vertices if node.kind == "output"}
    for node in vertices:
        for j, source in node.inputs:
            used.add(source)
            pointer = pointer_to("nodes", node.place, "inputs", j)
            if source not in first and is_whole:
                yield Fault(
                    node.id,
                    "inputs",
                    "unknown_node",
                    pointer,
                    f"there is no node {source!r}",
                    nearest(source, first) or "name other nodes by their id",
                )
            elif source in outputs:
                yield Fault(
                    node.id,
                    "inputs",
                    "output_as_input",
                    pointer,
                    f"{source!r} is an output, nothing can follow it",
                    "use what the output itself reads",
                )
    for node in vertices:
        if is_whole and node.id not in used and node.kind != "output":
            yield Fault(
                node.id,
                "id",
                "dangling",
                pointer_to("nodes", node.place, "id"),
                f"nothing uses the result of {node.id!r}",
                "lead it to an output, or remove it",
            )
    if not any(node.kind == "input" for node in vertices):
        yield Fault(None, "nodes", "no_input", "/nodes", "there is no input node", "add a node of kind 'input'")
    if not outputs:
        yield Fault(None, "nodes", "no_output", "/nodes", "there is no output node", "add a node of kind 'output'")
    named: dict[str, str] = {}
    for node in vertices:
        if node.component_name and node.component_name in named:
            yield Fault(
                node.id,
                "component_name",
                "duplicate_component_name",
                pointer_to("nodes", node.place, "component_name"),
                f"component name {node.component_name!r} is used by {named[node.component_name]!r} too",
                "give each component its own name, or none",
            )
        named.setdefault(node.component_name, node.id)
    # `end_<id>_concatenate` is the layer of one output and may be the name of another.
    for node in outputs.values():
        if node.id.endswith("_concatenate"):
            other = node.id.removesuffix("_concatenate")
            if other in outputs and len(outputs[other].inputs) > 1:
                yield Fault(
                    node.id,
                    "id",
                    "duplicate_id",
                    pointer_to("nodes", node.place, "id"),
                    f"the layers of outputs {other!r} and {node.id!r} would have one name",
                    "use another id",
                )
    cycle = _cycle({node.id: [source for _, source in node.inputs] for node in vertices})
    if cycle:
        yield Fault(
            cycle[0],
            "inputs",
            "cycle",
            pointer_to("nodes", first[cycle[0]], "inputs"),
            f"nodes run in a circle: {' -> '.join(cycle[:12])}{' -> ...' if len(cycle) > 12 else ''}",
            "remove one of these edges",
        )


def build_order(nodes: Sequence[Node]) -> list[Node]:
    """The nodes so that each follows its inputs, ties by id; what lies on or behind a cycle is left out."""
    by_id = {node.id: node for node in nodes}
    return [by_id[node_id] for node_id in _order({node.id: inputs_of(node) for node in nodes})]


def _order(sources: Mapping[str, Sequence[str]]) -> list[str]:
    known = {node_id: {source for source in above if source in sources} for node_id, above in sources.items()}
    readers: dict[str, list[str]] = {node_id: [] for node_id in sources}
    for node_id, above in known.items():
        for source in above:
            readers[source].append(node_id)
    waiting = {node_id: len(above) for node_id, above in known.items()}
    ready = [node_id for node_id, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        node_id = heapq.heappop(ready)
        order.append(node_id)
        for reader in readers[node_id]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def _cycle(sources: Mapping[str, Sequence[str]]) -> list[str]:
    """The ids along one cycle in the direction of data, the first repeated at the end; empty if none."""
    left = set(sources) - set(_order(sources))
    if not left:
        return []
    # What cannot be ordered has an input that cannot be ordered either: walking upwards must meet itself.
    at = min(left)
    path: list[str] = []
    place: dict[str, int] = {}
    while at not in place:
        place[at] = len(path)
        path.append(at)
        at = min(source for source in sources[at] if source in left)
    ring = path[place[at] :][::-1]
    start = ring.index(min(ring))
    return [*ring[start:], *ring[:start], ring[start]]
