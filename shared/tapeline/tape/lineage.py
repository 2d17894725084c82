"""What an extension must hold: every day of its parent, with the same trades."""

from __future__ import annotations

from tapeline.tape.manifest import Manifest


def lacking(child: Manifest, parent: Manifest) -> list[str]:
    """The days of a parent that a child does not hold with the same trades; empty for a true extension."""
    held = {(day["symbol"], day["trade_date"]): day["columns"] for day in child["days"]}
    return [
        f"{day['symbol']} {day['trade_date']}"
        for day in parent["days"]
        if held.get((day["symbol"], day["trade_date"])) != day["columns"]
    ]
