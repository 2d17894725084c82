"""SHA-256 of many messages at once, as the columns of a tape's days are.

`hashlib` works at one message, and at some 250 MB/s where the processor has no instruction for it. Messages do not
depend on each other: here each element of a vector works at one of its own, on every thread that is wanted. Read
`reference.py` first.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tapeline.digests import _lanes
from tapeline.digests.reference import sha256_of_each as one_by_one

LANES = _lanes.lanes()
STEPS = {4: 1.3, 8: 0.66, 16: 1.0}
"""By lanes, how long a step of all of them takes; in fewer lanes each of them goes faster."""
PIECE = 1 << 14
FEW_BYTES = 1 << 20
"""Below this a second thread costs more than it gives."""


def sha256_of_each(messages: Sequence[Any], *, n_threads: int | None = None, lanes: int | None = None) -> list[str]:
    """The SHA-256 of each message, in hex.

    Parameters
    ----------
    messages : contiguous arrays or bytes
    n_threads : how many threads to use; None: one a processor, 4 at most
    lanes : how many messages a thread works at in one go: 4, 8 or 16, and no more than `LANES`; None: what is fastest
    """
    if lanes is not None and (lanes not in STEPS or lanes > LANES):
        raise ValueError(f"lanes is {lanes}; this processor has {LANES}")
    plain = [np.frombuffer(message, np.uint8) if _size(message) else np.empty(0, np.uint8) for message in messages]
    if len(plain) < 2:
        # One message has nothing to share a vector with.
        return one_by_one(plain)
    sizes = np.array([each.nbytes for each in plain], np.int64)
    wanted = min(os.cpu_count() or 1, 4) if n_threads is None else n_threads
    threads = max(1, min(wanted, len(plain))) if int(sizes.sum()) > FEW_BYTES else 1
    # The longest come first, and go round: the threads end together, and the lanes of each.
    order = np.argsort(-sizes, kind="stable").astype(np.int64)
    shares = [np.ascontiguousarray(order[k::threads]) for k in range(threads)]
    widths = [lanes or _fastest(sizes[share].tolist()) for share in shares]
    out = np.empty((len(plain), 32), np.uint8)
    if threads == 1:
        _lanes.digest(plain, shares[0], widths[0], out)
    else:
        with ThreadPoolExecutor(threads - 1) as helpers:
            others = [
                helpers.submit(_lanes.digest, plain, share, width, out)
                for share, width in zip(shares[1:], widths[1:], strict=True)
            ]
            _lanes.digest(plain, shares[0], widths[0], out)
            for each in others:
                each.result()
    text = out.tobytes().hex()
    return [text[64 * k : 64 * k + 64] for k in range(len(plain))]


def _fastest(sizes: list[int]) -> int:
    """The number of lanes in which messages of these sizes, longest first, are done soonest."""
    soonest = {}
    for lanes in (each for each in STEPS if each <= LANES):
        busy = [0] * min(lanes, max(len(sizes), 1))
        for size in sizes:
            heapq.heapreplace(busy, busy[0] + size // 64 + 2)
        soonest[lanes] = max(busy) * STEPS[lanes]
    return min(soonest, key=soonest.__getitem__)


def sha256_of_pieces(content: bytes | memoryview) -> bytes:
    """The SHA-256 of the digests of each 16 KiB of some bytes, one after another: 32 bytes.

    A digest of its own kind, several times as fast to compute as that of the whole.
    """
    whole = memoryview(content)
    pieces = [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)]
    return hashlib.sha256(bytes.fromhex("".join(sha256_of_each(pieces, n_threads=1)))).digest()


def _size(message: Any) -> int:
    return memoryview(message).nbytes


__all__ = ["LANES", "sha256_of_each", "sha256_of_pieces"]
