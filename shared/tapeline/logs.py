"""Log lines of every process: one line per event, to stderr, without secrets."""

from __future__ import annotations

import logging
import sys
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
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
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


_put_off: list[tuple[str, str]] = []
"""The setup that was put off: what `logging_setup` is to be called with."""


def logging_setup_later(name: str, *, level: str = "INFO") -> None:
    """Do `logging_setup` when the first line is written, for a process that has more urgent things to import.

    Until then lines below `level` are dropped; `logging_setup_now` ends the wait.
    """
    if level not in logging.getLevelNamesMapping():
        raise TapelineError(f"{level!r} is no level of the log", code="invalid", hint="DEBUG, INFO, WARNING or ERROR")
    _put_off[:] = [(name, level)]


def logging_setup_now() -> None:
    """Do what `logging_setup_later` has put off, if it has not happened yet."""
    for name, level in list(_put_off):
        logging_setup(name, level=level)


class Logger:
    """A logger of structlog that brings structlog, and what was put off, with its first line."""

    def __getattr__(self, method: str) -> Any:
        known = logging.getLevelNamesMapping()
        for _, level in _put_off:
            if known.get(method.upper(), logging.CRITICAL) < known[level]:
                return _say_nothing
        logging_setup_now()
        import structlog

        return getattr(structlog.get_logger(), method)


def get_logger() -> Any:
    """A logger with the methods of structlog's; the import of structlog waits for the first line."""
    return Logger()


def _say_nothing(*_: object, **__: object) -> None:
    """A line below the level."""


def _process_name(name: str) -> Any:
    def add(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["process"] = name
        return event

    return add
