"""What an agent has: devices, and the backends that are installed; nothing heavy is imported to find out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from typing import Any

import psutil

from tapeline.contracts.agents import DeviceInfo
from tapeline.logs import get_logger

logger = get_logger()

_BACKENDS = {"tensorflow": ("tensorflow", "tensorflow-cpu"), "jax": ("jax",), "torch": ("torch",)}


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_devices() -> list[DeviceInfo]:
    """`cpu0`, and `gpu0`, `gpu1`, ... where the NVIDIA library finds some."""
    memory = psutil.virtual_memory()
    cpu = DeviceInfo(
        name="cpu0",
        kind="cpu",
        type=platform.processor() or platform.machine(),
        cores=cores(),
        memory=memory.total,
        free=memory.available,
    )
    return [*_gpus(), cpu]


def _gpus() -> list[DeviceInfo]:
    if importlib.util.find_spec("pynvml") is None:
        return []
    import pynvml  # pyright: ignore[reportMissingImports]  # part of the extra `gpu`

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.info("no_gpu_library", why=str(error))
        return []
    try:
        return [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        logger.warning("gpus_not_read", why=str(error))
        return []
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> DeviceInfo:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return DeviceInfo(
        name=f"gpu{index}",
        kind="gpu",
        type=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        memory=int(memory.total),
        free=int(memory.free),
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
        compute=f"{major}.{minor}",
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def find_backends() -> dict[str, str]:
    """Version of each installed backend of Keras; empty without Keras."""
    if version_of("keras") is None:
        return {}
    found = {}
    for backend, packages in _BACKENDS.items():
        version = next((version for package in packages if (version := version_of(package)) is not None), None)
        if version is not None:
            found[backend] = version
    return found


def version_of(package: str) -> str | None:
    """The installed version of a package, from its metadata."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
