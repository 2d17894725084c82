"""Writes points into mapped memory, one record each; `tapeline.spool` says what a record is and keeps the files.

Reading order: `reference.py` (what is written, in plain Python), `_pen.pyx` (the same, compiled).
"""

try:
    from tapeline.pen._pen import Pen
except ImportError:  # built without a compiler: the same records, in a few microseconds each
    from tapeline.pen.reference import Pen  # type: ignore[assignment]

__all__ = ["Pen"]
