"""What this process uses of its machine: processor, memory, and the memory of its GPUs."""

from __future__ import annotations

import sys
import time


class SystemLoad:
    """Measures now and then.

    Parameters
    ----------
    every_s : float
        How long after one measurement the next is due; the first is due at once.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next = 0.0
        self._before: tuple[float, float] | None = None

    def due(self) -> dict[str, float]:
        """What is used now, or nothing while no measurement is due.

        Returns
        -------
        dict of str to float
            `cpu_percent` (100 is one core, since the last measurement), `memory_bytes`, `gpu<n>_memory_bytes`.
        """
        now = time.monotonic()
        if now < self._next:
            return {}
        self._next = now + self._every_s
        import psutil

        found = {"memory_bytes": float(psutil.Process().memory_info().rss)}
        used = time.process_time()
        if self._before is not None and now > self._before[0]:
            found["cpu_percent"] = 100 * (used - self._before[1]) / (now - self._before[0])
        self._before = (now, used)
        return found | _gpus()


def _gpus() -> dict[str, float]:
    """Bytes in use on each GPU, of the backend that is loaded already."""
    if (tensorflow := sys.modules.get("tensorflow")) is not None:
        names = [f"GPU:{i}" for i, _ in enumerate(tensorflow.config.list_logical_devices("GPU"))]
        used = [tensorflow.config.experimental.get_memory_info(name)["current"] for name in names]
    elif (jax := sys.modules.get("jax")) is not None:
        used = [(each.memory_stats() or {}).get("bytes_in_use", 0) for each in jax.devices() if each.platform == "gpu"]
    else:
        used = []
    return {f"gpu{i}_memory_bytes": float(value) for i, value in enumerate(used)}
