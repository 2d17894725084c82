"""The same spec on the same tapes gives the same bytes on another machine.

`digests.json` was printed by one machine: every other one that runs this is a second. Processes that are kept from
the newer instructions of this processor, or live in another place, are more of them. After a formula was changed on
purpose: `python tests/assets/builds/build.py FOLDER > tests/assets/builds/digests.json`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline.assets.components import FEATURES, LABELS

BUILDS = Path(__file__).parents[2] / "assets" / "builds"
NEWER = " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", []))
OLD_LIBRARY = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F"}
OLD_ALGEBRA = {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1"}
ELSEWHERE = {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1", "PYTHONUTF8": "0"}
MACHINES: dict[str, dict[str, str]] = {
    "this": {},
    "numpy without what is newer": {"NPY_DISABLE_CPU_FEATURES": NEWER},
    "an old C library": OLD_LIBRARY,
    "other linear algebra": {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2"},
    "another place": ELSEWHERE,
}
OLD = {"NPY_DISABLE_CPU_FEATURES": NEWER} | OLD_LIBRARY | OLD_ALGEBRA | ELSEWHERE


@pytest.mark.parametrize(
    "machine", [pytest.param(OLD, id="old"), *(pytest.param(each, id=name, marks=pytest.mark.long)
                                               for name, each in MACHINES.items())]
)  # fmt: skip
def test_every_feature_and_label_has_the_same_bytes_on_another_machine(tmp_path: Path, machine: dict[str, str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "OPENBLAS_"))}
    ran = subprocess.run(
        [sys.executable, str(BUILDS / "build.py"), str(tmp_path)],
        env=environment | machine,
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == expected()


def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BUILDS / "digests.json").read_text())
    return found


def test_the_digests_cover_the_registry() -> None:
    assert expected()["components"] == [f"{each.id}/{each.version}" for each in (*FEATURES, *LABELS)]
