"""Reading the log as its operator: look at it, check it, save and restore it, rebuild the tables from it.

Reading order: `reading.py` (open, tail, show), `chain.py` (what is checked of each commit), `check.py`
(verify), `seals.py`, `manifest.py`, `segments.py` and `exports.py` (export), `restore.py`, `bundles.py`,
`rebuild.py`.
"""

from typing import TYPE_CHECKING, Any

from tapeline.projections.parked import Parked
from tapeline.replay.archivist import Archivist, forget_after, list_seals, seal_now
from tapeline.replay.artifacts import add_artifacts, missing_artifacts
from tapeline.replay.backups import Backed, Backup, backup_of
from tapeline.replay.bundles import Bundled, Grafted, import_bundle, pack, read_bundle, take_in, unpacked
from tapeline.replay.causes import Chain, Edge, Link, why
from tapeline.replay.chain import Fault, Recorded
from tapeline.replay.check import Report, verify
from tapeline.replay.copies import CopiedLog, copy_in
from tapeline.replay.delivery import Bookmark, Mark, Sheet, begun, deliver
from tapeline.replay.diff import Change, Difference, diff, diff_aggregates
from tapeline.replay.exports import export, export_erased, export_part
from tapeline.replay.fill import Fill, fill, fill_of
from tapeline.replay.health import Health, gauges, health
from tapeline.replay.index import EventIndex, index_of, opened_with_index
from tapeline.replay.lag import Lag, lag, lag_of
from tapeline.replay.manifest import Erasure, Manifest, Segment, read_manifest
from tapeline.replay.measurements import MetricsReport, verify_metrics
from tapeline.replay.parked import parked, parked_of, retry, retry_of
from tapeline.replay.past import Past, at, parse_when, position_at
from tapeline.replay.reading import Line, find_ref, opened, opened_with_metrics, tail
from tapeline.replay.rebuild import Options, Rebuilt, dump, rebuild, rebuild_projectors
from tapeline.replay.rehearsal import Dissent, Parted, Rehearsal, dry_run, lines_of
from tapeline.replay.restore import Imported, import_log, restore, verify_export, verify_only
from tapeline.replay.seals import Seal, Shelf, check_seals, last_seal, shelf
from tapeline.replay.segments import ExportedLog
from tapeline.replay.showing import RawCommit, ShownCommit, show, show_commit, show_raw
from tapeline.replay.watching import Watched, since_of, watch

if TYPE_CHECKING:
    from tapeline.replay.processes import dry_run_process
    from tapeline.replay.world import World
    from tapeline.replay.worlds import Worlds, at_team, worlds_of

__all__ = [
    "Archivist",
    "Backed",
    "Backup",
    "Bookmark",
    "Bundled",
    "Chain",
    "Change",
    "CopiedLog",
    "Difference",
    "Dissent",
    "Edge",
    "Erasure",
    "EventIndex",
    "ExportedLog",
    "Fault",
    "Fill",
    "Grafted",
    "Health",
    "Imported",
    "Lag",
    "Line",
    "Link",
    "Manifest",
    "Mark",
    "MetricsReport",
    "Options",
    "Parked",
    "Parted",
    "Past",
    "RawCommit",
    "Rebuilt",
    "Recorded",
    "Rehearsal",
    "Report",
    "Seal",
    "Segment",
    "Sheet",
    "Shelf",
    "ShownCommit",
    "Watched",
    "World",
    "Worlds",
    "add_artifacts",
    "at",
    "at_team",
    "backup_of",
    "begun",
    "check_seals",
    "copy_in",
    "deliver",
    "diff",
    "diff_aggregates",
    "dry_run",
    "dry_run_process",
    "dump",
    "export",
    "export_erased",
    "export_part",
    "fill",
    "fill_of",
    "find_ref",
    "forget_after",
    "gauges",
    "health",
    "import_bundle",
    "import_log",
    "index_of",
    "lag",
    "lag_of",
    "last_seal",
    "lines_of",
    "list_seals",
    "missing_artifacts",
    "opened",
    "opened_with_index",
    "opened_with_metrics",
    "pack",
    "parked",
    "parked_of",
    "parse_when",
    "position_at",
    "read_bundle",
    "read_manifest",
    "rebuild",
    "rebuild_projectors",
    "restore",
    "retry",
    "retry_of",
    "seal_now",
    "shelf",
    "show",
    "show_commit",
    "show_raw",
    "since_of",
    "tail",
    "take_in",
    "unpacked",
    "verify",
    "verify_export",
    "verify_metrics",
    "verify_only",
    "watch",
    "why",
    "worlds_of",
]

_OF_SERVICES = frozenset({"World", "Worlds", "at_team", "dry_run_process", "worlds_of"})


def __getattr__(name: str) -> Any:
    # These need every service and the bus; who only reads the log does not wait for them.
    if name not in _OF_SERVICES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tapeline.replay import processes, worlds

    return getattr(processes if name == "dry_run_process" else worlds, name)
