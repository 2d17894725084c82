"""Log lines of every process: one line per event, to stderr, without secrets."""

from __future__ import annotations

import atexit
import logging
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tapeline.errors import TapelineError
from tapeline.security.redact import redact


def logging_setup(name: str, *, level: str = "INFO") -> None:
    """Make structlog and the standard library write to stderr as this process.

    A terminal gets `key=value` lines, anything else JSON, one object per line; an exception is a field of
    its line.

    Parameters
    ----------
    name : str
        What the field `process` of every line says: `host`, `agent-local`, `supervisor`.
    level : str
        Lines below it are dropped.
    """
    import structlog

    _put_off.clear()
    _quiet.clear()
    # A logger is bound for each line before its level is looked at: not for those of which there is one a request.
    _quiet.update(word for word in ("debug", "info") if logging.getLevelNamesMapping()[word.upper()] < _number(level))
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _stamp,
        _process_name(name),
        structlog.processors.format_exc_info,
    ]
    render: Any
    if sys.stderr.isatty():
        render = structlog.processors.LogfmtRenderer(key_order=["at", "level", "process", "event"], bool_as_flag=False)
    else:
        render = structlog.processors.JSONRenderer(ensure_ascii=False, default=repr)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, render],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


_quiet: set[str] = set()
"""Methods whose lines are below the level."""
_put_off: list[tuple[str, str]] = []
"""The setup that was put off: what `logging_setup` is to be called with."""
_held: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
"""The lines since: method, arguments, fields."""
HELD_LINES = 100


def logging_setup_later(name: str, *, level: str = "INFO") -> None:
    """Put `logging_setup` off, for a process that has more urgent things to import.

    Until `logging_setup_now` lines below `level` are dropped, and others are held, with their times; a warning or
    worse, or too many lines, or the end of the process, ends the wait.
    """
    if level not in logging.getLevelNamesMapping():
        raise TapelineError(f"{level!r} is no level of the log", code="invalid", hint="DEBUG, INFO, WARNING or ERROR")
    _put_off[:] = [(name, level)]
    atexit.register(logging_setup_now)


def logging_setup_now() -> None:
    """Do what `logging_setup_later` has put off, if it has not happened yet, and write what was held."""
    for name, level in list(_put_off):
        logging_setup(name, level=level)
    if _held:
        import structlog

        lines, _held[:] = list(_held), []
        for method, arguments, fields in lines:
            getattr(structlog.get_logger(), method)(*arguments, **fields)


class Logger:
    """A logger of structlog that brings structlog, and what was put off, with the first line that cannot wait."""

    def __getattr__(self, method: str) -> Any:
        if method in _quiet:
            return _say_nothing
        known = logging.getLevelNamesMapping()
        for _, level in _put_off:
            number = known.get(method.upper(), logging.CRITICAL)
            if number < known[level]:
                return _say_nothing
            if number < logging.WARNING and len(_held) < HELD_LINES:
                return partial(_hold, method)
        logging_setup_now()
        import structlog

        return getattr(structlog.get_logger(), method)


def get_logger() -> Any:
    """A logger with the methods of structlog's; the import of structlog waits until a line is written."""
    return Logger()


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level]


def _hold(method: str, *arguments: Any, **fields: Any) -> None:
    """A line that can wait."""
    _held.append((method, arguments, fields | {"at": _now()}))


def _say_nothing(*_: object, **__: object) -> None:
    """A line below the level."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _stamp(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    event.setdefault("at", _now())
    return event


def _process_name(name: str) -> Any:
    def add(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["process"] = name
        return event

    return add
