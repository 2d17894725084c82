"""What differs between two canvases, node by node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tapeline.canvas.digest import rendered
from tapeline.canvas.model import Canvas

Change = tuple[Any, Any]


@dataclass(frozen=True)
class CanvasDiff:
    """Ids added and removed, and per field its values before and after.

    `changed` maps a node's id to its changed fields; `training` and `other` (name, notes) are fields of the
    canvas. A training key that one side lacks is None there. Positions in `ui` are left out.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, dict[str, Change]]
    training: dict[str, Change]
    other: dict[str, Change]

    @property
    def is_empty(self) -> bool:
        """Whether the two are the same but for `ui` and the order of nodes."""
        return not (self.added or self.removed or self.changed or self.training or self.other)

    def to_json(self) -> dict[str, Any]:
        """The difference as JSON; each change is `[before, after]`."""

        def pairs(changes: dict[str, Change]) -> dict[str, list[Any]]:
            return {key: list(change) for key, change in changes.items()}

        return {
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": {node: pairs(changes) for node, changes in self.changed.items()},
            "training": pairs(self.training),
            "other": pairs(self.other),
        }


def diff(before: Canvas, after: Canvas) -> CanvasDiff:
    """What changed from one canvas to another, by node id; defaults count as their values."""
    old, new = rendered(before), rendered(after)
    old_nodes = {node["id"]: node for node in old["nodes"]}
    new_nodes = {node["id"]: node for node in new["nodes"]}
    both = [node_id for node_id in old_nodes if node_id in new_nodes]
    changed = {node_id: _changes(old_nodes[node_id], new_nodes[node_id]) for node_id in both}
    return CanvasDiff(
        added=tuple(node_id for node_id in new_nodes if node_id not in old_nodes),
        removed=tuple(node_id for node_id in old_nodes if node_id not in new_nodes),
        changed={node_id: changes for node_id, changes in changed.items() if changes},
        training=_changes(old["training"], new["training"]),
        other=_changes({key: old[key] for key in ("name", "notes")}, {key: new[key] for key in ("name", "notes")}),
    )


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Change]:
    keys = [*before, *(key for key in after if key not in before)]
    return {
        key: (before.get(key), after.get(key))
        for key in keys
        if before.get(key) != after.get(key) or (key in before) != (key in after)
    }
