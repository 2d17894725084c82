"""How far an import is, stage by stage: bars on a terminal, a line a stage and one every 10 s when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

REDRAWS_PER_S = 10
LINE_EVERY_S = 10.0
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


class Stages:
    """Takes steps `{stage, done, total, unit, rows}` and shows them on standard error; a context manager.

    Parameters
    ----------
    quiet : show nothing
    tell : called with each step, to which `rate` (units a second) and `eta_s` have been added
    """

    def __init__(
        self,
        title: str,
        *,
        quiet: bool = False,
        tell: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._quiet, self._tell, self._clock = title, quiet, tell, clock
        self._begun: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._over: set[str] = set()
        self._tasks: dict[str, Any] = {}
        self._drawing: Any = None
        self._open = ExitStack()

    def __enter__(self) -> Stages:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            self._drawing = self._open.enter_context(
                Progress(
                    TextColumn("{task.description}", markup=False),
                    BarColumn(),
                    TaskProgressColumn(),
                    TextColumn("{task.fields[text]}", markup=False),
                    console=Console(stderr=True),
                    refresh_per_second=REDRAWS_PER_S,
                )
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def show(self, step: dict[str, Any]) -> None:
        """Show a step."""
        now, stage = self._clock(), str(step["stage"])
        begun = self._begun.setdefault(stage, now)
        took, done, total = now - begun, step["done"], step["total"]
        rate = done / took if took > 0 else 0.0
        eta = (total - done) / rate if rate > 0 else None
        if self._tell is not None:
            self._tell(step | {"rate": round(rate, 1), "eta_s": None if eta is None else round(eta, 1)})
        if self._quiet:
            return
        over = total > 0 and done >= total
        text = f"{_short(done)} of {_short(total)} {step['unit']}"
        if took > 0:
            text += f", {_short(rate)}/s"
            if stage == "read":
                text += f", {_short(step['rows'] / took)} rows/s"
        if eta is not None and not over:
            text += f", {eta:.0f} s left"
        if self._drawing is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._drawing.add_task(f"{self._title}: {stage}", total=1.0, text=text)
            self._drawing.update(self._tasks[stage], completed=done / total if total else 0.0, text=text)
        elif stage not in self._over and (over or stage not in self._told or now - self._told[stage] >= LINE_EVERY_S):
            self._told[stage] = now
            share = f"{100 * done / total:.0f} %" if total else "0 %"
            print(f"{self._title}: {stage} {share} ({text})", file=sys.stderr, flush=True)
        if over:
            self._over.add(stage)


def _short(number: float) -> str:
    """A number in few characters: 12.3M."""
    for size, name in UNITS:
        if number >= size:
            return f"{number / size:.1f}{name}"
    return f"{number:g}" if number == int(number) else f"{number:.1f}"
