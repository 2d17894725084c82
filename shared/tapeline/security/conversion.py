"""Saving models anew, those in HDF5 too, in a process of its own: `python -I -m tapeline.security.conversion`.

The file may be hostile, and HDF5 and Keras are large. What reads them here has limits on its memory and time, no
credentials and no connection; what comes out is a `.keras` file that our own scan has passed.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.security import models

TIME_S = 120.0
MAX_MEMORY = 8 << 30
"""Bytes of data that the child may have; TensorFlow alone takes about one GiB."""
_KEPT = ("PATH", "LANG", "LC_ALL", "KERAS_BACKEND", "LD_LIBRARY_PATH")


def converted(
    source: str | Path,
    target: str | Path,
    *,
    name: str | None = None,
    replace: Mapping[str, Mapping[str, Any]] | None = None,
) -> models.ModelScan:
    """The scan of the `.keras` file that is made of a model in HDF5, or of another `.keras` file.

    Parameters
    ----------
    source, target : str or Path
        The target is replaced in one step; its suffix is `.keras`.
    name : str, optional
        What the source is called, where its own name is a digest.
    replace : Mapping, optional
        By the name of a layer, `{"class": "SelectFields", ...}`: one of our own layers in place of a `Lambda`.

    Raises
    ------
    TapelineError
        `not_found`; `model_refused` with the layer or object and the reason; `dependency_missing` without Keras.
    """
    called = name or Path(source).name
    said = {"source": str(Path(source).resolve()), "target": str(Path(target).resolve()), "replace": replace or {}}
    with tempfile.TemporaryDirectory(prefix="tapeline-convert-") as folder:
        given = {key: os.environ[key] for key in _KEPT if key in os.environ}
        environment = given | {
            "HOME": folder, "TMPDIR": folder, "KERAS_HOME": folder, "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1",
        }  # fmt: skip
        try:
            child = subprocess.run(
                [sys.executable, "-I", "-m", "tapeline.security.conversion"],
                input=json.dumps(said).encode(), env=environment, cwd=folder, timeout=TIME_S,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise models.refused(f"{called}: reading it took more than {TIME_S:.0f} s") from error
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise models.refused(f"{called}: the process that read it ended with {child.returncode}") from error
    if fault := answer.get("error"):
        raise TapelineError(f"{called}: {fault['message']}", code=fault["code"], hint=fault["hint"])
    # The child's word is not taken for it: what it wrote is scanned like any other file.
    return models.scan(target)


def main() -> None:
    """Read the order, convert, and print what came of it as one line of JSON."""
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, MAX_MEMORY),
        (resource.RLIMIT_CPU, int(TIME_S)),
        (resource.RLIMIT_FSIZE, models.MAX_UNPACKED),
    ):
        _, hard = resource.getrlimit(limit)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (bound, bound))
    said = json.loads(sys.stdin.buffer.read())
    answer: dict[str, Any] = {}
    try:
        models.convert_here(said["source"], said["target"], replace=said["replace"])
    except TapelineError as error:
        answer = {"error": {"code": str(error.code), "message": error.message, "hint": error.hint}}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
    # Tearing a backend down takes seconds.
    os._exit(0)
