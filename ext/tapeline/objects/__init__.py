"""Objects made column by column: so many of one class, and the texts and times that they hold.

Reading order: `reference.py` (what is made, in plain Python), `_objects.pyx` (the same, compiled).
"""

try:
    from tapeline.objects._objects import made, moments, texts
except ImportError:  # built without a compiler: the same objects, in three times the time
    from tapeline.objects.reference import made, moments, texts

__all__ = ["made", "moments", "texts"]
