"""The bytes of a broker's connection, cut into frames. No part of this knows the log.

Reading order: `reference.py` (what a frame is, in plain Python), `_frames.pyx` (the same, compiled).
"""

try:
    from tapeline.wire._frames import Frames
except ImportError:  # built without a compiler: the same frames, at a fifth of the speed
    from tapeline.wire.reference import Frames  # type: ignore[assignment]

__all__ = ["Frames"]
