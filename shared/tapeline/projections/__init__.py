"""Projections: fold the log into tables, position and effect in one transaction.

A projection is a module with `name`, `version`, `kinds`, `tables`, `keys` and `apply`; both functions are
pure, so a rebuild is always safe. A `Projector` feeds it: it reads a stretch of the log, loads the rows
that the stretch touches, folds in memory, writes each row once, and moves the position by
compare-and-set, all in one transaction.

Reading order: `source.py` (what a projection is), `rows.py`, `folding.py`, `projector.py`, `state.py`,
`parked.py`, `reader.py`, `tail.py`.
"""

from tapeline.projections.parked import Parked, reset
from tapeline.projections.projector import Projector
from tapeline.projections.reader import Reader
from tapeline.projections.rows import Rows
from tapeline.projections.source import Lease, LogSource, Projection, Source
from tapeline.projections.state import positions
from tapeline.projections.statements import Key, Row, row_of, rows_of
from tapeline.projections.tail import Tail
from tapeline.projections.turns import CANCEL_AGAIN_S

__all__ = [
    "CANCEL_AGAIN_S",
    "Key",
    "Lease",
    "LogSource",
    "Parked",
    "Projection",
    "Projector",
    "Reader",
    "Row",
    "Rows",
    "Source",
    "Tail",
    "positions",
    "reset",
    "row_of",
    "rows_of",
]
