"""How nouns and verbs are found: plurals, `list` for `ls`, and a hint at a near name."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

_ALIASES = {"list": "ls", "remove": "rm", "trainer": "agent"}


class Nouns(TyperGroup):
    """A group whose commands are also found by their plural and by `list`, `remove`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, or of what the name stands for."""
        for name in spellings(cmd_name):
            if (found := super().get_command(ctx, name)) is not None:
                return found
        return None


def spellings(word: str) -> list[str]:
    """What a word may stand for, itself first."""
    return [word, *([_ALIASES[word]] if word in _ALIASES else []), word.removesuffix("s"), word.removesuffix("es")]


def group(help: str, cls: type[Nouns] = Nouns) -> typer.Typer:
    """A noun."""
    return typer.Typer(help=help, cls=cls, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
