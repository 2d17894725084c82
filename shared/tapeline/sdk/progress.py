"""Progress of runs, builds and imports for people: bars on a terminal, one line per 10 % when piped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Protocol

_REDRAWS_PER_S = 10


class Operation(Protocol):
    """What a bar shows: one operation, how far it is, and in which units."""

    @property
    def operation(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def final_value(self) -> float: ...
    @property
    def units(self) -> str: ...


class Bars:
    """Draws one bar per operation on standard error; a context manager."""

    def __init__(self, title: str, *, quiet: bool = False, write: Callable[[str], Any] | None = None) -> None:
        self._title = title
        self._quiet = quiet
        self._write = write
        self._tenths: dict[str, int] = {}
        self._tasks: dict[str, Any] = {}
        self._drawing: Any = None
        self._said: str | None = None
        self._open = ExitStack()

    def __enter__(self) -> Bars:
        if not self._quiet and self._write is None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._drawing = self._open.enter_context(
                Progress(
                    TextColumn("{task.description}", markup=False),
                    BarColumn(),
                    TextColumn("{task.fields[text]}", markup=False),
                    TimeRemainingColumn(),
                    console=Console(stderr=True),
                    refresh_per_second=_REDRAWS_PER_S,
                )
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def show(self, operations: Iterable[Operation], status: str = "") -> None:
        """Draw how far each operation is; a status that is new is a line of its own when piped."""
        if self._quiet:
            return
        if self._drawing is None and status and status != self._said:
            self._said = status
            self._line(f"{self._title}: {status}")
        for each in operations:
            final = each.final_value or 1
            done = min(max(each.value / final, 0.0), 1.0)
            text = f"{each.value:g} of {each.final_value:g} {each.units}"
            if self._drawing is not None:
                if each.operation not in self._tasks:
                    self._tasks[each.operation] = self._drawing.add_task(
                        f"{self._title} {each.operation}", total=1.0, text=text
                    )
                self._drawing.update(self._tasks[each.operation], completed=done, text=text)
                continue
            tenth = int(done * 10)
            if tenth > self._tenths.get(each.operation, -1):
                self._tenths[each.operation] = tenth
                self._line(f"{self._title}: {each.operation} {tenth * 10} % ({text})")

    def _line(self, text: str) -> None:
        if self._write is not None:
            self._write(text)
        else:
            print(text, file=sys.stderr, flush=True)
