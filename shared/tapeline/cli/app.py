"""The root of the command line: its nouns, its options, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import typer

from tapeline.cli.failures import INTERRUPTED, WRONG_USAGE, is_interrupt, tell
from tapeline.cli.nouns import group
from tapeline.cli.output import OPTIONS
from tapeline.cli.root import Root

app = group("From a market tape to a trained, traceable model.", cls=Root)


@app.callback()
def options(
    url: Annotated[str | None, typer.Option(help="Address of the server.")] = None,
    team: Annotated[str | None, typer.Option(help="Team to act for.")] = None,
    profile: Annotated[str | None, typer.Option(help="Profile of config.toml.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Print without colour.")] = False,
) -> None:
    """From a market tape to a trained, traceable model."""
    for name, value in (("URL", url), ("TEAM", team), ("PROFILE", profile)):
        if value is not None:
            os.environ[f"TAPELINE_{name}"] = value
    OPTIONS.json, OPTIONS.quiet = json, quiet
    OPTIONS.no_color = no_color or "NO_COLOR" in os.environ


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    as_json = "--json" in arguments or "--format=json" in arguments or ("--format", "json") in pairwise(arguments)
    command: Any = typer.main.get_command(app)
    try:
        found = command.main(args=list(arguments), prog_name="tapeline", standalone_mode=False)
        sys.stdout.flush()
    except typer.Exit as left:
        return int(left.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough; what is left in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if is_interrupt(error):
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        if hasattr(error, "show") and hasattr(error, "format_message"):
            return _usage(error, as_json)
        if os.environ.get("TAPELINE_TRACEBACK") == "1":
            raise
        return tell(error, as_json=as_json)
    if found == INTERRUPTED:  # what typer makes of Ctrl-C
        print("interrupted", file=sys.stderr)
    return int(found) if isinstance(found, int) and not isinstance(found, bool) else 0


def _usage(error: Any, as_json: bool) -> int:
    import json

    if as_json:
        fault = {"code": "usage", "status": 400, "message": error.format_message(), "hint": "tapeline --help"}
        print(json.dumps({"error": fault}), file=sys.stderr)
    else:
        error.show(file=sys.stderr)
    return WRONG_USAGE
