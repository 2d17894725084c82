"""One file for every event type and schema ever shipped: what was stored, and what it is read back as.

    python -m tapeline.testing.golden tests/assets/events

writes the files that are missing and changes none that is there: what was once shipped is read for ever.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.log import GENESIS, NewCommit, StoredCommit
from tapeline.log.codec import Codec
from tapeline.subjects import Ref

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def sample(kind: Any, name: str = "x") -> Any:
    """A value of a type, every field set, the same each time."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return sample(inner[0], name)
    if origin is typing.Literal:
        return inner[0]
    if origin in (typing.Union, types.UnionType):
        return sample(next(each for each in inner if each is not type(None)), name)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind, include_extras=True)
        return kind(**{field.name: sample(hints[field.name], field.name) for field in fields(kind) if field.init})
    if origin in (list, tuple) or (isinstance(origin, type) and issubclass(origin, list | tuple)):
        return origin([sample(inner[0], name)])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {name: sample(inner[1], name)}
    plain: dict[Any, Any] = {str: f"a {name}", int: 7, float: 0.5, bool: True, bytes: b"x", datetime: AT, Any: name}
    if kind in plain:
        return plain[kind]
    if isinstance(kind, type) and issubclass(kind, str):
        return next(iter(kind)) if hasattr(kind, "__members__") else kind(f"a {name}")  # type: ignore[call-overload]
    raise TypeError(f"{name} has the type {kind!r}, of which no sample is known")


def name_of(tag: str, schema: int) -> str:
    """The file of an event type."""
    return f"{tag}.v{schema}.json"


def stored(codec: Codec, tag: str, schema: int, data: Any) -> StoredCommit:
    """A commit of one event with this data, as it would stand on the log."""
    event = {"id": GENESIS[:36], "sequence": 1, "type": tag, "schema": schema, "created_at": "2026-01-02T03:04:05Z"}
    header = {
        "v": 1, "team": "contoso", "types": [tag], "schemas": [schema], "seq": 1, "n": 1, "actor": "user:ann",
        "command": "Golden", "cmd": "golden", "cause": None, "corr": "golden", "prev": GENESIS, "app": "0",
    }  # fmt: skip
    return StoredCommit(
        position=1,
        subject=Ref("contoso", "run", "golden").subject,
        header=json.dumps(header).encode(),
        body=json.dumps([event | {"data": data}]).encode(),
        stored_at=AT,
    )


def read_back(codec: Codec, tag: str, schema: int, data: Any) -> Any:
    """What today's code makes of stored data, as JSON."""
    (event,) = codec.decode(stored(codec, tag, schema, data))
    return msgspec.to_builtins(event.data)


def write_missing(folder: Path) -> list[Path]:
    """Write the file of each newest event type that has none; those that were written."""
    codec = Codec(EVENTS, UPCASTERS, TOMBSTONES)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for (tag, schema), kind in sorted(EVENTS.items(), key=lambda each: each[0]):
        path = folder / name_of(tag, schema)
        if path.exists():
            continue
        new = NewCommit(
            ref=Ref("contoso", "run", "golden"), events=(sample(kind),), sequence=1, prev=GENESIS, created_at=AT,
            actor="user:ann", command="Golden", command_id="golden",
        )  # fmt: skip
        data = json.loads(codec.encode(new).body)[0]["data"]
        document = {"type": tag, "schema": schema, "data": data, "read_as": read_back(codec, tag, schema, data)}
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        made.append(path)
    return made


if __name__ == "__main__":
    for written in write_missing(Path(sys.argv[1])):
        print(written)
