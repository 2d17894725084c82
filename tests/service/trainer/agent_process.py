"""An agent as its own process, on a server without accounts: `agent_process.py <url> <folder> <store>`."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import nats

from tapeline.clock import SystemClock
from tapeline.contracts.agents import DeviceInfo
from tapeline.store.local import LocalStore
from tapeline.trainer.agent import Agent, Equipment
from tapeline.trainer.hold import Patience


async def main(url: str, folder: Path, store: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = await nats.connect(url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    equipment = Equipment(
        version="test", devices=[DeviceInfo(name="cpu0", kind="cpu", cores=2)], backends={}, blueprints=[]
    )
    agent = Agent(
        connection=connection,
        folder=folder,
        store=LocalStore(store),
        clock=SystemClock(),
        equipment=equipment,
        renew_every_s=0.3,
        patience=Patience(shutdown_grace_s=5.0),
    )
    await agent.run(stop, lambda: print("ready", flush=True))
    heavy = [name for name in ("tensorflow", "keras", "h5py", "sqlalchemy") if name in sys.modules]
    print(f"heavy: {heavy}", flush=True)


asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
