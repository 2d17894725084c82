"""The blueprints that come with this version, by name; each is a module with `train(job) -> Done`."""

from __future__ import annotations

from collections.abc import Callable

from tapeline.errors import TapelineError
from tapeline.trainer.job import Done, Job

BUNDLED = {"canvas": "1.0.0", "selftest": "1.0.0"}
"""Name and version of each."""


def find(name: str) -> Callable[[Job], Done]:
    """The training function of a blueprint.

    Raises
    ------
    TapelineError
        `not_found` for a name that this agent does not have.
    """
    match name:
        case "canvas":
            from tapeline.trainer.blueprints.canvas import train as train_canvas

            return train_canvas
        case "selftest":
            from tapeline.trainer.blueprints.selftest import train as train_selftest

            return train_selftest
    raise TapelineError(
        f"this agent has no blueprint {name!r}", code="not_found", hint=f"it has: {', '.join(sorted(BUNDLED))}"
    )


def prepare(name: str) -> None:
    """Import in advance what a blueprint needs, so that a later start is quick."""
    if name == "canvas":
        from tapeline.trainer.blueprints.canvas import prepare as prepare_canvas

        prepare_canvas()
