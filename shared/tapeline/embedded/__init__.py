"""The embedded instance: one process that supervises a nats-server, the services and an agent.

Read in this order: `supervisor` (what `tapeline up` runs), `child` (the loop that keeps one process
running), `server` (the nats-server as a child), `launch` (a program that dies with its parent), `detached`
(start it in the background), `control` (stop, status).

Each name is imported when it is used: whoever starts an instance should not load what looks at one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapeline.embedded.control import ProcessStatus, Status, status, stop
    from tapeline.embedded.detached import start_detached
    from tapeline.embedded.supervisor import run_foreground

_HOMES = {
    "ProcessStatus": "control",
    "Status": "control",
    "run_foreground": "supervisor",
    "start_detached": "detached",
    "status": "control",
    "stop": "control",
}

__all__ = ["ProcessStatus", "Status", "run_foreground", "start_detached", "status", "stop"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
