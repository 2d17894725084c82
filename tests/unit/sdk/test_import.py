"""Importing the SDK loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("tensorflow", "keras", "h5py", "pandas", "numpy", "sqlalchemy", "nats")


def _loaded(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def test_the_sdk_loads_nothing_heavy() -> None:
    assert not _loaded("from tapeline import sdk as tl").intersection(HEAVY)


def test_touching_every_name_but_the_adapter_loads_nothing_heavy() -> None:
    # An adapter is a reader of bars: it comes with NumPy and the kernels.
    names = "[name for name in tl.__all__ if name != 'BaseAdapter']"
    assert not _loaded(f"from tapeline import sdk as tl\n[getattr(tl, name) for name in {names}]").intersection(HEAVY)


def test_the_command_line_loads_nothing_heavy() -> None:
    assert not _loaded("import tapeline.cli.app").intersection({*HEAVY, "pydantic", "rich"})
