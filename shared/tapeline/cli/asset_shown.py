"""What `tapeline asset show` prints: the recipe of an asset, its samples, files and certificate, for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tapeline.cli import output

View = Mapping[str, Any]
_SPANS = ((86_400, "day"), (3600, "h"), (60, "min"), (1, "s"))
_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def show(view: View, tapes: Mapping[str, str]) -> None:
    """Print an asset; `tapes` are the names of tapes by id."""
    output.fields({name: value for name, value in head(view, tapes).items() if value is not None})
    spec = view["spec"]
    rows = [(each, "feature", "x".join(map(str, view["features"].get(each["name"], [])))) for each in spec["features"]]
    rows += [(each, "label", ", ".join(view["labels"].get(each["name"], []))) for each in spec["labels"]]
    print()
    output.table(
        ("data set", "kind", "component", "params", "shape or columns"),
        ((each["name"], kind, each["component"], written(each["params"]), holds) for each, kind, holds in rows),
    )
    if view.get("files"):
        print()
        output.table(
            ("file", "rows", "size", "sha256"),
            ((f["name"], view["rows"].get(f["name"]), size(f["size_bytes"]), f["sha256"]) for f in view["files"]),
        )


def head(view: View, tapes: Mapping[str, str]) -> dict[str, Any]:
    """The fields of an asset, a sentence each; None for what it does not have."""
    spec = view["spec"]
    split, rows = spec["split"], (view.get("stats") or {}).get("rows") or {}
    return {
        "name": view["name"],
        "id": view["id"],
        "status": view["status"],
        "message": view.get("message"),
        "hint": view.get("hint"),
        "failed at": view.get("shard"),
        "built": f"{_time(view['updated_at'])} by {view['user'] or '-'}" if view.get("files") else None,
        "tapes": "; ".join(
            f"{tapes.get(item['tape'], item['tape'])} ({', '.join(item['symbols'])})" for item in spec["tapes"]
        ),
        "range": f"{spec['range']['from']} to {spec['range']['to']}, calendar {spec['calendar']}, {spec['view']} hours",
        "sampling": sampled(spec["sampling"]),
        "samples": samples(view) if rows else None,
        "embargo": span(split["embargo_ns"]),
        "left out": ", ".join(f"{name} {count}" for name, count in _left_out(view).items()) or None,
        "layout": f"{spec['layout']}, missing: {spec['missing']}" + (", uniqueness" if spec["uniqueness"] else ""),
        "certificate": certified(view),
        "built again": again(view),
        "rebuildable": f"no: {view['not_rebuildable']}" if view.get("not_rebuildable") else None,
        "spec digest": view["spec_digest"],
        "data digest": view.get("data_digest"),
    }


def samples(view: View) -> str:
    """How many samples an asset has, part by part."""
    rows = (view.get("stats") or {}).get("rows") or {}
    return f"{sum(rows.values())}: " + ", ".join(f"{part} {count}" for part, count in rows.items())


def certified(view: View) -> str | None:
    """What the certificate says, and which checks did not pass."""
    certificate = view.get("certificate")
    if not certificate:
        return None
    others = [check["name"] for check in certificate["checks"] if check["verdict"] != "passed"]
    ahead = "; it looks ahead on purpose" if certificate.get("lookahead") else ""
    told = f" by {', '.join(others)}: tapeline asset check {view['name']}" if others else ""
    return f"{certificate['verdict']}{told}{ahead}"


def again(view: View) -> str | None:
    """How the last build again goes or ended."""
    found = view.get("rebuild")
    if not found:
        return None
    match found["status"]:
        case "same":
            return f"{_time(found['at'])}: the same data"
        case "building":
            return f"begun {_time(found['at'])}"
        case _:
            return f"{_time(found['at'])}: {found['message']}"


def sampled(sampling: View) -> str:
    """When samples are taken."""
    match sampling["kind"]:
        case "at_times":
            return f"at {', '.join(sampling['times'])}"
        case "cusum":
            return f"where returns of {sampling['size']} {sampling['unit']} add up to {sampling['threshold']:g}"
        case _:
            return f"every {sampling['size']} {sampling['unit']}"


def span(ns: int) -> str:
    """A length of time in its largest whole unit."""
    seconds = ns // 10**9
    unit, name = next((each for each in _SPANS if seconds and seconds % each[0] == 0), _SPANS[-1])
    return f"{seconds // unit} {name}"


def size(count: int) -> str:
    """A number of bytes."""
    unit, name = next((each for each in _SIZES if count >= each[0]), (1, "B"))
    return f"{count / unit:.4g} {name}"


def written(params: View) -> str:
    """Parameters as `key=value`, what is nested in short."""
    return ", ".join(f"{key}={value['name'] if isinstance(value, dict) else value}" for key, value in params.items())


def _left_out(view: View) -> dict[str, int]:
    dropped = (view.get("stats") or {}).get("dropped") or {}
    return {name: count for name, count in dropped.items() if count}


def _time(at: str) -> str:
    return datetime.fromisoformat(at).strftime("%Y-%m-%d %H:%M:%SZ")
