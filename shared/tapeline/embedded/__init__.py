"""The embedded instance: one process that supervises a nats-server, the services and an agent.

Read in this order: `supervisor` (what `tapeline up` runs), `child` (the loop that keeps one process
running), `server` (the nats-server as a child), `launch` (a program that dies with its parent), `control`
(start detached, stop, status).
"""

from tapeline.embedded.control import ProcessStatus, Status, start_detached, status, stop
from tapeline.embedded.supervisor import run_foreground

__all__ = ["ProcessStatus", "Status", "run_foreground", "start_detached", "status", "stop"]
