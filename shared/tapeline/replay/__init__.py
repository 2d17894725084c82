"""Reading the log as its operator: look at it, check it, save and restore it, rebuild the tables from it.

Reading order: `reading.py` (open, tail, show), `chain.py` (what is checked of each commit), `check.py`
(verify), `seals.py`, `segments.py` (export), `restore.py`, `rebuild.py`.
"""

from tapeline.replay.chain import Fault, Recorded
from tapeline.replay.check import Report, verify
from tapeline.replay.reading import Line, opened, show, tail
from tapeline.replay.rebuild import Rebuilt, dump, rebuild, rebuild_tables
from tapeline.replay.restore import Imported, import_log, restore, verify_export, verify_only
from tapeline.replay.seals import Seal, last_seal
from tapeline.replay.segments import ExportedLog, Manifest, Segment, export, read_manifest

__all__ = [
    "ExportedLog",
    "Fault",
    "Imported",
    "Line",
    "Manifest",
    "Rebuilt",
    "Recorded",
    "Report",
    "Seal",
    "Segment",
    "dump",
    "export",
    "import_log",
    "last_seal",
    "opened",
    "read_manifest",
    "rebuild",
    "rebuild_tables",
    "restore",
    "show",
    "tail",
    "verify",
    "verify_export",
    "verify_only",
]
