"""`tapeline doctor`: what is wrong here, and what helps."""

from __future__ import annotations

import typer

from tapeline.cli import output
from tapeline.cli.output import Json


def register(app: typer.Typer) -> None:
    """Put the verb at the top."""
    app.command()(doctor)


def doctor(json: Json = False) -> None:
    """Look at this machine, the home and its instance; exit 1 for a warning, 2 for a fault."""
    from tapeline import doctor as examination

    findings = examination.examine()
    if output.wants_json(json):
        output.document([each.to_json() for each in findings])
    else:
        output.table(
            ("check", "verdict", "what", "what helps"),
            ((each.check, each.verdict, each.message, each.hint) for each in findings),
        )
    code = examination.exit_of(findings)
    if code:
        raise typer.Exit(code)
