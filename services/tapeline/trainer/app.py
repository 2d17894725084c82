"""The agent process put together: settings, connection, store, devices."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from pathlib import Path

from tapeline.address import find_url
from tapeline.clock import SystemClock
from tapeline.connection import connect
from tapeline.contracts.agents import BlueprintOffer
from tapeline.errors import TapelineError
from tapeline.home import find_home
from tapeline.logs import get_logger, logging_setup_later, logging_setup_now
from tapeline.readiness import tell_ready
from tapeline.store.local import LocalStore
from tapeline.subjects import check_slug
from tapeline.trainer import blueprints, devices
from tapeline.trainer.agent import Agent, Equipment
from tapeline.trainer.hold import Patience

SHUTDOWN_GRACE_S = 20.0
"""How long a run may take to checkpoint when its agent leaves; less than a supervisor's patience with the agent."""

logger = get_logger()


class LeaseClock(SystemClock):
    """The machine's clocks; the monotonic one goes on while the machine sleeps, so that a lease ends there too."""

    def monotonic(self) -> float:
        boot = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boot is None else time.clock_gettime(boot)


def equipment() -> Equipment:
    """What this machine offers."""
    return Equipment(
        version=devices.version_of("tapeline") or "0",
        devices=devices.find_devices(),
        backends=devices.find_backends(),
        blueprints=[BlueprintOffer(name=name, version=version) for name, version in blueprints.BUNDLED.items()],
    )


async def serve(name: str, *, threads: int, has_spare: bool) -> None:
    """Run one agent until SIGTERM or SIGINT."""
    home = find_home()
    stop = asyncio.Event()
    agents: list[Agent] = []

    async def reconnected() -> None:
        for agent in agents:
            agent.announce_soon()

    async def closed() -> None:
        # The server ended the connection for good: the key was revoked. Nothing can be held without it.
        stop.set()

    credentials = os.environ.get("TAPELINE_CREDS")
    connection = await connect(
        Path(credentials) if credentials else home.credential(f"agent-{name}"),
        await find_url(home, os.environ.get("TAPELINE_URL")),
        name=f"agent-{name}",
        on_reconnect=reconnected,
        on_close=closed,
        on_error=lambda error: logger.warning("bus_error", code=error.code, why=error.message),
    )
    agent = Agent(
        connection=connection,
        folder=home.agents / name,
        store=LocalStore(Path(os.environ.get("TAPELINE_STORE") or home.store)),
        clock=LeaseClock(),
        equipment=equipment(),
        threads=threads,
        has_spare=has_spare,
        patience=Patience(shutdown_grace_s=SHUTDOWN_GRACE_S),
    )
    agents.append(agent)
    # Until here a signal ends the process as it stands: it holds nothing yet.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await agent.run(stop, ready)
    finally:
        await connection.close()


def ready() -> None:
    """Tell the operator and the supervisor that the agent serves."""
    tell_ready()
    logging_setup_now()
    logger.info("agent_ready")


def main(arguments: list[str] | None = None) -> int:
    """`python -m tapeline.trainer --agent local`."""
    parser = argparse.ArgumentParser(prog="python -m tapeline.trainer", description="A trainer agent of Tapeline.")
    parser.add_argument("--agent", required=True, help="the agent's name; its key is creds/agent-<name>.nk")
    parser.add_argument(
        "--threads", type=int, default=max(1, min(4, devices.cores() // 2)), help="threads of one operation"
    )
    parser.add_argument("--no-spare", action="store_true", help="keep no child with TensorFlow imported in advance")
    given = parser.parse_args(arguments)
    logging_setup_later(f"agent-{given.agent}")
    try:
        if os.name == "nt":
            raise TapelineError(
                "a trainer agent needs Linux or macOS", code="unsupported", hint="run the agent on another machine"
            )
        name = check_slug(given.agent, "agent")
        asyncio.run(serve(name, threads=given.threads, has_spare=not given.no_spare))
    except TapelineError as error:
        logger.error("agent_failed", code=error.code, why=error.message, hint=error.hint)
        return 1
    return 0
