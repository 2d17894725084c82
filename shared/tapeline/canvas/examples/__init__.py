"""The example canvases that ship with the package."""

from __future__ import annotations

from importlib.resources import files

from tapeline.errors import TapelineError

EXAMPLES = ("demo", "demo_wide")


def example(name: str) -> str:
    """The JSON text of an example canvas.

    Raises
    ------
    TapelineError
        `not_found`, with the names that there are.

    Examples
    --------
    >>> example("demo").lstrip().startswith("{")
    True
    """
    if name not in EXAMPLES:
        raise TapelineError(
            f"there is no example canvas {name!r}", code="not_found", hint=f"examples are: {', '.join(EXAMPLES)}"
        )
    return files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
