"""Metrics to and from TensorBoard's event files, without TensorFlow."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.errors import ConflictError, RunDoesNotExistError
from tapeline.ids import born_of
from tapeline.sdk import arguments, event_files, runs
from tapeline.sdk.client import Client, client_of
from tapeline.sdk.event_files import Scalar
from tapeline.sdk.projects import get_project_id

if TYPE_CHECKING:
    from tapeline.sdk.runs import Run

__all__ = ["Imported", "export_tensorboard", "import_tensorboard"]

BATCH_POINTS = 4096
MAX_TAG, MAX_STEP = 200, 2**53
_MARK = "tfevents"


def export_tensorboard(run: Run | str, folder: str | os.PathLike[str]) -> Path:
    """Write the effective points of a run as an event file; its path.

    Parameters
    ----------
    run : Run or str
        A run, or its id or number.
    folder : path
        Made when it is not there; TensorBoard shows each folder as a run. Exporting again replaces the file.

    Notes
    -----
    Values are written as doubles and 64-bit ints: nothing is rounded on the way.
    """
    found = runs.find(str(run)) if isinstance(run, str | int) else run
    points = sorted(found.get_all_metrics(), key=lambda point: (point.created_at, point.tag))
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    began = points[0].created_at.timestamp() if points else 0.0
    path = target / f"events.out.{_MARK}.{int(began)}.tapeline.{found.id}"
    scalars = (Scalar(point.tag, point.global_step, point.created_at.timestamp(), point.value) for point in points)
    event_files.write(path, scalars, began=began)
    return path


@dataclass(frozen=True)
class Imported:
    """What one folder of event files became.

    Attributes
    ----------
    points : how many are in the run
    passed_over : values that are no scalars, or have a tag or a step that a run cannot have
    torn : files whose last record is cut or damaged
    """

    run: Run
    folder: Path
    points: int
    passed_over: int
    torn: int


def import_tensorboard(
    folder: str | os.PathLike[str], name: str | None = None, project: str = "default", *, team: str | None = None
) -> list[Imported]:
    """Make a run of each folder with event files, of their scalars; importing the same files again makes none.

    Parameters
    ----------
    folder : path
        It and every folder in it are looked at.
    name : str, optional
        Of the runs: a folder inside is called `name/inside`. Default: the folder's own name.

    Raises
    ------
    FileNotFoundError
        There is no event file in the folder.
    """
    root = Path(folder)
    chosen = arguments.name("name", name if name is not None else root.resolve().name)
    client, project_id = client_of(team), get_project_id(project)
    made = []
    for inner, files in _groups(root):
        within = inner.relative_to(root).as_posix()
        called = chosen if within == "." else f"{chosen}/{within}"
        made.append(_import(client, inner, files, called[:255], project_id))
    if not made:
        raise FileNotFoundError(f"there is no event file (*{_MARK}*) in {root}")
    return made


def _groups(root: Path) -> list[tuple[Path, list[Path]]]:
    groups: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob(f"*{_MARK}*")):
        if path.is_file() and not path.name.startswith("."):
            groups.setdefault(path.parent, []).append(path)
    return sorted(groups.items())


def _import(client: Client, folder: Path, files: Sequence[Path], name: str, project_id: str) -> Imported:
    found = [event_files.read(path) for path in files]
    scalars = [each for part in found for each in part.scalars]
    good = [each for each in scalars if _fits(each)]
    good.sort(key=lambda each: each.wall_time)
    passed_over = sum(part.others for part in found) + len(scalars) - len(good)
    command_id = _command_id(client.team, project_id, name, good)
    run = _run(client, command_id, name, project_id, folder.name, good)
    return Imported(run, folder, len(good), passed_over, sum(part.is_torn for part in found))


def _fits(scalar: Scalar) -> bool:
    is_named = 1 <= len(scalar.tag) <= MAX_TAG and scalar.tag.isprintable()
    return is_named and 0 <= scalar.step <= MAX_STEP and 0 <= scalar.wall_time < 2**33


def _command_id(team: str, project_id: str, name: str, scalars: Sequence[Scalar]) -> str:
    """A UUIDv7 of what is imported: its time is that of the first point, the rest a hash of all of them."""
    hashed = hashlib.sha256("\x1f".join((team, project_id, name)).encode())
    for each in scalars:
        hashed.update(repr(tuple(each)).encode())
    at_ms = int(scalars[0].wall_time * 1000) if scalars else 0
    raw = bytearray(at_ms.to_bytes(6, "big") + hashed.digest()[:10])
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return str(uuid.UUID(bytes=bytes(raw)))


def _run(client: Client, command_id: str, name: str, project_id: str, source: str, scalars: Sequence[Scalar]) -> Run:
    """The run with these points: as it is when it was imported before, else made and filled."""
    run_id = born_of(command_id, "run", client.team)
    fields: dict[str, Any] = {"host": "import", "pid": os.getpid()}
    born: str | None = None
    try:
        known = runs.find(run_id, client.team)
        if known.is_finished:
            return known
        # An import that was cut off: the same attempt is taken up, and what it has sent already is known by number.
        fields |= {"run": run_id, "attempt": known.attempt or 1}
    except RunDoesNotExistError:
        born = command_id
        fields |= {
            "name": name, "project_id": project_id,
            "config": {"imported_from": "tensorboard", "folder": source[:255]},
        }  # fmt: skip
    view = client.command("runs", "start", command_id=born, **fields).view
    batches = _send(client, view, scalars)
    end: dict[str, Any] = {
        "kind": "completed", "global_step": max((each.step for each in scalars), default=0), "batches": batches,
        "points": len(scalars),
    }  # fmt: skip
    try:
        client.command("runs", "finish", run=run_id, epoch=view["epoch"], **end)
    except ConflictError:
        # Two imports of the same files at once: the other one has ended it.
        if not runs.find(run_id, client.team).is_finished:
            raise
    return runs.find(run_id, client.team)


def _send(client: Client, view: dict[str, Any], scalars: Sequence[Scalar]) -> int:
    """Send the points as batches of the attempt; how many there were."""
    from tapeline.columns import pack, points_of

    last_us, batch, record = -1, 0, 1
    for start in range(0, max(len(scalars), 1), BATCH_POINTS):
        part = scalars[start : start + BATCH_POINTS]
        by_tag: dict[tuple[str, bool], list[tuple[int, int, float | int]]] = {}
        for each in part:
            # Times of a run increase; event files repeat them within a step.
            last_us = max(round(each.wall_time * 1e6), last_us + 1)
            by_tag.setdefault((each.tag, isinstance(each.value, int)), []).append((each.step, last_us, each.value))
        columns, crc = [], 0
        for (tag, whole), rows in by_tag.items():
            steps, times, values = zip(*rows, strict=True)
            body = pack(points_of(steps, times, values, whole=whole))
            crc = zlib.crc32(body, crc)
            columns.append({"tag": tag, "body": base64.b64encode(body).decode()})
        batch += 1
        is_last = start + BATCH_POINTS >= len(scalars)
        client.command(
            "runs", "append_metrics", run=view["run_id"], attempt=view["attempt"], epoch=view["epoch"], batch=batch,
            first=record, last=record + len(part) - 1, columns=columns, crc=crc, is_last=is_last,
        )  # fmt: skip
        record += len(part)
    return batch
