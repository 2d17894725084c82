"""The guide's page of the command line, made from the commands themselves: `python -m tapeline.cli.page`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

_HEAD = """# The command line

`tapeline <noun> <verb>`. Each verb is a shell over the SDK function of the same name.
Plurals (`runs`) and `list` for `ls` work too.

Before the noun: `--url`, `--team`, `--profile` say where to connect (else the running instance), `--json`
prints JSON, `--quiet` prints errors only, `--no-color` no colour. `--json` may also follow any verb that
reads: one JSON document, or one object a line for streams; times in UTC, NaN as the string `"NaN"`.

On a terminal lists are tables; piped, they are lines with tabs. Verbs that destroy ask, unless `--yes`;
without a terminal and `--yes` they exit 2.

Errors go to standard error: a sentence and a hint, or with `--json`
`{"error": {"code", "status", "message", "hint"}}`.

| exit | meaning | | exit | meaning |
|---|---|---|---|---|
| 0 | done | | 5 | a check found a fault, or a difference |
| 1 | failed otherwise; a run that was waited for did not complete | | 6 | unauthenticated, forbidden |
| 2 | wrong usage | | 7 | invalid input |
| 3 | not found | | 8 | unavailable, time-out |
| 4 | conflict; `up` refused to start | | 130 | interrupted |

"""


def page() -> str:
    """The page as Markdown."""
    from tapeline.cli.app import app

    root: Any = typer.main.get_command(app)
    root.load_all()
    return _HEAD + "\n".join(_described(root, "tapeline")) + "\n"


def _described(group: Any, path: str) -> Iterator[str]:
    verbs = [each for each in group.commands.items() if not hasattr(each[1], "commands")]
    if verbs:
        yield f"## `{path}`\n"
        if path != "tapeline" and group.help:
            yield f"{group.help}\n"
        yield "| verb | options | does |"
        yield "|---|---|---|"
        for name, verb in verbs:
            yield f"| `{name}{_arguments(verb)}` | {_options(verb)} | {_first_line(verb.help)} |"
        yield ""
    for name, inner in group.commands.items():
        if hasattr(inner, "commands"):
            yield from _described(inner, f"{path} {name}")


def _arguments(verb: Any) -> str:
    names = [each.metavar or each.name.upper() for each in verb.params if each.param_type_name == "argument"]
    return "".join(f" {name}" for name in names)


def _options(verb: Any) -> str:
    found = []
    for each in verb.params:
        if each.param_type_name != "option" or each.name == "help":
            continue
        help = f" {each.help}" if getattr(each, "help", None) else ""
        found.append(f"`{'`, `'.join(each.opts)}`{help}")
    return "; ".join(found).replace("|", "\\|")


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


if __name__ == "__main__":
    print(page(), end="")
