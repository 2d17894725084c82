"""The nouns and verbs at the top, each loaded when it is called: `tapeline up` does not wait for the others."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import typer

from tapeline.cli.nouns import Nouns, group, spellings

PLACES: dict[str, str] = {
    "up": "instance:register",
    "down": "instance:register",
    "status": "instance:register",
    "version": "instance:register",
    "demo": "instance:register",
    "doctor": "doctor:register",
    "rebuild": "log:register_top",
    "at": "history:register",
    "watch": "history:register",
    "why": "why:register",
    "dry-run": "rehearsal:register",
    "run": "run_verbs:app",
    "spool": "spool:app",
    "metrics": "metrics:app",
    "checkpoint": "checkpoint:app",
    "blueprint": "blueprint:app",
    "tape": "tape:app",
    "asset": "asset:app",
    "feature": "feature:app",
    "bars": "tape:register",
    "canvas": "canvas:app",
    "model": "model:app",
    "vault": "vault:app",
    "agent": "agent:app",
    "device": "agent:devices",
    "team": "team:app",
    "topology": "topology:app",
    "log": "log:app",
    "bundle": "backup:bundles",
    "parked": "parked:app",
    "export": "exchange:exports",
    "import": "exchange:imports",
}
"""Where each word at the top lives: a noun, or a function that puts verbs into a group."""
_WITHIN: dict[str, tuple[str, ...]] = {"log:app": ("backup", "seal", "diff")}
"""Modules that put further verbs into a noun."""


class Root(Nouns):
    """The group at the top."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every word, in the order of the guide."""
        return list(PLACES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a word, loaded now if it was not before."""
        for name in spellings(cmd_name):
            if name in PLACES:
                return self._load(name)
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments begin with; a word that is none is met with those that are near it."""
        if args and self.get_command(ctx, args[0]) is None:
            self.load_all()
        return super().resolve_command(ctx, args)

    def _load(self, name: str) -> Any:
        if name not in self.commands:
            self.commands[name] = _within(PLACES[name], name)[name]
        return self.commands[name]

    def load_all(self) -> dict[str, Any]:
        """Every command by its word."""
        return {name: self._load(name) for name in PLACES}


@cache
def _within(place: str, name: str) -> dict[str, Any]:
    module, attribute = place.split(":")
    found = getattr(import_module(f"tapeline.cli.{module}"), attribute)
    for more in _WITHIN.get(place, ()):
        import_module(f"tapeline.cli.{more}").register(found)
    top = group("")
    if isinstance(found, typer.Typer):
        top.add_typer(found, name=name)
    else:
        found(top)
    return dict(typer.main.get_group(top).commands)
