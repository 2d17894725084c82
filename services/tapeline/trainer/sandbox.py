"""What a training child may see and do: its environment, its limits, its death with the agent.

The child applies the limits to itself, first of all, before it imports anything of a run; what it does not
need in order to start (credentials, the bus, foreign descriptors) it never receives.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Literal

from tapeline import failpoints

LEVEL: Literal["basic", "full"] = "basic"
"""The level that this version reaches: no network name space of its own and no other user id."""

MAX_FILE_BYTES = 16 * 1024**3
MAX_DESCRIPTORS = 1024

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def environment(folder: Path, *, pipe: tuple[int, int], device: str, backend: str, threads: int) -> dict[str, str]:
    """The whole environment of a child, built from nothing.

    Parameters
    ----------
    folder : Path
        The child's own folder; it is also its `HOME` and `TMPDIR`.
    pipe : (int, int)
        Descriptors for reading from and writing to the agent.
    device : str
        `cpu<n>` hides every GPU, `gpu<n>` shows that one.
    """
    given = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", failpoints.VARIABLE) if name in os.environ}
    return given | {
        "TZ": "UTC",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "KERAS_HOME": str(folder / "keras"),
        "TAPELINE_PIPE": f"{pipe[0]},{pipe[1]}",
        "TAPELINE_AGENT_PID": str(os.getpid()),
        "CUDA_VISIBLE_DEVICES": device.removeprefix("gpu") if device.startswith("gpu") else "-1",
        "KERAS_BACKEND": backend,
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def enter() -> None:
    """Limit this process; it ends with its agent from here on, and leaves no core."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    _lower(resource.RLIMIT_NOFILE, MAX_DESCRIPTORS)
    os.umask(0o077)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        for option, value in (
            (_PR_SET_PDEATHSIG, signal.SIGKILL),
            (_PR_SET_NO_NEW_PRIVS, 1),
            (_PR_SET_DUMPABLE, 0),
        ):
            if libc.prctl(option, value, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), f"prctl option {option} was refused")
    agent = os.environ.get("TAPELINE_AGENT_PID")
    if agent is not None and os.getppid() != int(agent):
        # The agent died before the kernel knew that this process dies with it.
        os._exit(1)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (bound, bound))
