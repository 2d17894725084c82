"""Reading the log as its operator: look at it, check it, rebuild the tables from it and compare.

Reading order: `reading.py` (open, tail, show), `check.py` (verify), `rebuild.py`.
"""

from tapeline.replay.check import Fault, Report, verify
from tapeline.replay.reading import Line, opened, show, tail
from tapeline.replay.rebuild import Rebuilt, dump, rebuild, rebuild_tables

__all__ = [
    "Fault",
    "Line",
    "Rebuilt",
    "Report",
    "dump",
    "opened",
    "rebuild",
    "rebuild_tables",
    "show",
    "tail",
    "verify",
]
