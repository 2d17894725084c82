"""What two attempts must share for the second to go on to the bit where the first stopped."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

NUMERICS = 1
"""Counts up when a change of this package changes the numbers of a training."""


def of(
    *, loader: str, batch_size: int, steps_per_execution: int, dtype: str, jit: Any, deterministic: bool
) -> dict[str, Any]:
    """The fingerprint of a training on TensorFlow, JAX or torch, in this process."""
    import keras

    backend = keras.backend.backend()
    package = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow_cpu")}.get(backend, (backend,))
    kind, name, driver, count = _device(backend)
    return {
        "backend": backend,
        "version": _version(*package),
        "keras": keras.__version__,
        "numpy": _version("numpy"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "device_kind": kind,
        "device_name": name,
        "driver": driver,
        "device_count": count,
        "jit": jit,
        "policy": dtype,
        "deterministic": deterministic,
        "threads": os.environ.get("TF_NUM_INTRAOP_THREADS", ""),
        "batch_size": batch_size,
        "steps_per_execution": steps_per_execution,
        "loader": loader,
        "numerics": NUMERICS,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ."""
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _device(backend: str) -> tuple[str, str, str, int]:
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            details = tf.config.experimental.get_device_details(gpus[0])
            name = str(details.get("device_name", ""))
            return "gpu", name, str(details.get("compute_capability", "")), len(gpus)
    return "cpu", platform.processor() or platform.machine(), "", 1
