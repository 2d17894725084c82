"""Build hook: compiles the Cython kernels under ext/ for the wheel, the editable install and `make ext`."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
}
CHECKED = {"boundscheck": True, "wraparound": True, "initializedcheck": True}
# Never in what is shipped: what the compiler can watch besides, by the name that `--sanitize=` takes.
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-omit-frame-pointer", "-O1", "-g1"],
    "thread": ["-fsanitize=thread", "-fno-omit-frame-pointer", "-O1", "-g1"],
}
# No fast-math and no fused multiply-add: the same arrays give the same bits on every machine.
FLAGS = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno"]


def compile_extensions(*, debug: bool = False, force: bool = False, sanitize: str = "") -> list[str]:
    """Compile every kernel in place; gives the paths of the built modules, relative to the project.

    Parameters
    ----------
    debug : let Cython check every index
    sanitize : one of `SANITIZERS`; Python then needs that library loaded before it
    """
    from Cython.Build import cythonize
    from setuptools import Extension
    from setuptools.dist import Distribution

    directives = DIRECTIVES | (CHECKED if debug else {})
    pyx = [str(path.relative_to(ROOT.parent)) for path in sorted((ROOT / "tapeline").rglob("*.pyx"))]
    here = Path.cwd()
    os.chdir(ROOT.parent)
    try:
        extensions = []
        for source in pyx:
            name = ".".join(Path(source).with_suffix("").parts[1:])
            extra = FLAGS + SANITIZERS.get(sanitize, [])
            if name.endswith("_v3"):
                if platform.machine() not in ("x86_64", "AMD64"):
                    continue
                extra.append("-march=x86-64-v3")
            extensions.append(
                Extension(
                    name,
                    [source],
                    extra_compile_args=extra,
                    extra_link_args=SANITIZERS.get(sanitize, [])[:1],
                    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
                )
            )
        built = cythonize(extensions, compiler_directives=directives, include_path=["ext"], quiet=True, force=force)
        distribution = Distribution({"name": "tapeline", "ext_modules": built, "package_dir": {"": "ext"}})
        command: Any = distribution.get_command_obj("build_ext")
        command.inplace = True
        command.force = force
        command.parallel = os.cpu_count() or 1
        command.build_temp = "build/temp"
        command.ensure_finalized()
        command.run()
        return [str(Path(command.get_ext_fullpath(ext.name)).resolve().relative_to(ROOT.parent)) for ext in built]
    finally:
        os.chdir(here)


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    """Adds the compiled kernels to the wheel and marks it as belonging to one platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        built = compile_extensions()
        build_data["artifacts"].extend(f"/{path}" for path in built)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


if __name__ == "__main__":
    watched = next((one.removeprefix("--sanitize=") for one in sys.argv if one.startswith("--sanitize=")), "")
    if watched and watched not in SANITIZERS:
        sys.exit(f"--sanitize is {watched!r}; it may be {' or '.join(SANITIZERS)}")
    for built_path in compile_extensions(debug="--debug" in sys.argv, force="--force" in sys.argv, sanitize=watched):
        print(built_path)
