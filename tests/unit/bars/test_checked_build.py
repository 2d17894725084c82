"""The tests of the kernels on a build that checks every index, and where the compiler can, every address."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMPILER = shutil.which("gcc")


def library(name: str) -> str:
    """The path of a library of the compiler, empty where it has none."""
    if COMPILER is None:
        return ""
    path = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    return path.strip() if Path(path.strip()).is_absolute() else ""


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("watch", ["indices", "addresses"])
def test_the_kernels_pass_their_tests_when_every_step_is_checked(tmp_path: Path, watch: str) -> None:
    if watch == "addresses" and not library("libasan.so"):
        pytest.skip("needs gcc with its address sanitizer")
    shutil.copytree(ROOT / "ext", tmp_path / "ext", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    build = [sys.executable, str(tmp_path / "ext/hatch_build.py"), "--debug"]
    subprocess.run(build + ["--sanitize=address"] * (watch == "addresses"), check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "ext")}
    if watch == "addresses":
        # Python itself is not built so: the library comes first, and what Python keeps to its end is no leak.
        environment["LD_PRELOAD"] = f"{library('libasan.so')} {library('libstdc++.so.6')}"
        environment |= {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1"}
    asked = subprocess.run(
        [sys.executable, "-c", "from tapeline.bars import front; print(front._run.__file__)"],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert asked.stdout.startswith(str(tmp_path))
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not long",
        str(Path(__file__).parent),
    ]
    done = subprocess.run(tests, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
