"""Many commits at once: their digests and roots, the lines of an export, the publishes of an import.

Reading order: `reference.py` (all of it in plain Python), `_bulk.pyx` (the same, compiled), `roots.h`.
"""

try:
    from tapeline.bulk._bulk import digests, lines, publishes, roots
except ImportError:  # built without a compiler: the same results, slower
    from tapeline.bulk.reference import digests, lines, publishes, roots

__all__ = ["digests", "lines", "publishes", "roots"]
