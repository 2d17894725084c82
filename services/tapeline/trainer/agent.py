"""The agent: owns devices, takes up offers, renews its leases, and keeps one hold per run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError as PydanticError

from tapeline import subjects
from tapeline.clock import Clock
from tapeline.contracts.agents import (
    RENEW_EVERY_S,
    Announce,
    AnnounceView,
    BlueprintOffer,
    Claim,
    DeviceInfo,
    Holding,
    Lease,
    Offer,
    Renew,
    RenewedView,
    RenewItem,
    Stop,
)
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.ids import new_id
from tapeline.logs import get_logger
from tapeline.store.protocol import ArtifactStore
from tapeline.trainer import journal
from tapeline.trainer.hold import Hold, Patience, Tools
from tapeline.trainer.launch import Child
from tapeline.trainer.requests import Requests

logger = get_logger()

ANNOUNCE_EVERY_S = 60.0
ALIVE_EVERY = 2
"""An agent that holds no run says that it is there at every second moment of a renewal."""
CLAIM_TIMEOUT_S = 10.0
SPARE_BLUEPRINT = "canvas"
SPARE_AFTER_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """What an agent says that it has."""

    version: str
    devices: list[DeviceInfo]
    backends: dict[str, str]
    blueprints: list[BlueprintOffer]
    host: str = field(default_factory=socket.gethostname)


class Agent:
    """One agent process. `folder` is its own: journals, cache, and the folders of its children."""

    def __init__(
        self,
        *,
        connection: Client,
        folder: Path,
        store: ArtifactStore,
        clock: Clock,
        equipment: Equipment,
        threads: int = 1,
        has_spare: bool = True,
        patience: Patience | None = None,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        self.boot = new_id()
        self._connection = connection
        self._folder = folder
        self._clock = clock
        self._equipment = equipment
        self._threads = threads
        self._has_spare = has_spare and "tensorflow" in equipment.backends
        self._patience = patience or Patience()
        self._renew_every_s = renew_every_s
        self._requests = Requests(connection, timeout_s=renew_every_s)
        self._tools = Tools(
            requests=self._requests,
            store=store,
            clock=clock,
            journals=folder / "journal",
            cache=folder / "cache",
            take_child=self._take_child,
            patience=self._patience,
        )
        self._holds: dict[str, Hold] = {}
        self._claiming: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._spare: Child | None = None
        self._spare_wanted = asyncio.Event()
        self._announce_now = asyncio.Event()
        self._is_draining = False

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Serve until `stop` is set, then end every child in good order; `on_ready` after the first announce."""
        self._prepare_folder()
        self._recover()
        await self._connection.subscribe(subjects.AGENT_START, cb=self._heard(Offer, self._offered))
        await self._connection.subscribe(subjects.AGENT_STOP, cb=self._heard(Stop, self._stopped))
        chores: list[asyncio.Task[Any]] = [
            asyncio.create_task(work()) for work in (self._renew_for_ever, self._keep_spare)
        ]
        waiting: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        try:
            first = asyncio.create_task(self._announce())
            await asyncio.wait({first, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                first.result()
                on_ready()
                self._spare_wanted.set()
                chores.append(asyncio.create_task(self._announce_for_ever()))
            else:
                first.cancel()
            watched = {waiting, *chores}
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await self._leave()
        finally:
            for task in (*chores, waiting, *self._tasks):
                task.cancel()
            await asyncio.gather(*chores, waiting, *self._tasks, return_exceptions=True)
            if self._spare is not None:
                await self._spare.kill()

    def announce_soon(self) -> None:
        """Announce again at once: the connection came back."""
        self._announce_now.set()

    # --- folders and what an earlier process left ---------------------------------------------------

    def _prepare_folder(self) -> None:
        for name in ("journal", "cache", "work"):
            (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (self._folder / "work").iterdir():
            shutil.rmtree(left, ignore_errors=True)

    def _recover(self) -> None:
        """Go on delivering the ends that an earlier process had in its journal; drop all else."""
        for path in sorted((self._folder / "journal").glob("*.journal")):
            found = journal.Journal.open(path)
            reports = [record for record in found.records if record["t"] == "report"]
            has_end = bool(reports) and reports[-1]["kind"] in ("completed", "failed", "terminated")
            if not has_end or found.records[0]["t"] != "lease":
                found.remove()
                continue
            found.close()
            lease = Lease.model_validate(found.records[0]["lease"] | {"spec": {}})
            hold = Hold(lease, self._tools, sent_at=self._clock.monotonic())
            self._start(hold, hold.deliver_only())
            logger.info("journal_found", run=lease.run, epoch=lease.epoch, reports=len(reports))

    # --- announcing and renewing --------------------------------------------------------------------

    async def _announce(self, *, is_leaving: bool = False) -> None:
        command = Announce(
            command_id=new_id(),
            boot=self.boot,
            version=self._equipment.version,
            host=self._equipment.host,
            devices=self._equipment.devices,
            backends=self._equipment.backends,
            blueprints=self._equipment.blueprints,
            holding=[
                Holding(run=hold.lease.run, team=hold.lease.team, epoch=hold.lease.epoch, state=hold.state)
                for hold in self._holds.values()
            ],
            disk_free_bytes=shutil.disk_usage(self._folder).free,
            leaving=is_leaving,
        )
        view = await self._requests.until_answered("announce", command, AnnounceView)
        for run in view.fenced:
            if run in self._holds:
                self._holds[run].lose("fenced")

    async def _announce_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._announce_now.wait(), ANNOUNCE_EVERY_S)
            self._announce_now.clear()
            try:
                await self._announce()
            except TapelineError as error:
                logger.warning("announce_refused", code=error.code, why=error.message)

    async def _renew_for_ever(self) -> None:
        said_at = self._clock.monotonic()
        while True:
            every_s = min([self._renew_every_s, *(hold.lease.ttl_s / 6 for hold in self._holds.values())])
            began = self._clock.monotonic()
            if self._holds:
                await self._renew(every_s)
                said_at = began
            elif began - said_at >= ALIVE_EVERY * self._renew_every_s:
                # Who holds nothing renews nothing, and is heard all the same.
                await self._ask_renewal([], every_s)
                said_at = began
            await asyncio.sleep(max(0.05, every_s - (self._clock.monotonic() - began)))

    async def _renew(self, timeout_s: float) -> None:
        sent_at = self._clock.monotonic()
        holds = {(hold.lease.run, hold.lease.epoch): hold for hold in self._holds.values() if not hold.is_lost}
        items = [RenewItem(team=hold.lease.team, run=run, epoch=epoch) for (run, epoch), hold in holds.items()]
        if not items:
            return
        view = await self._ask_renewal(items, timeout_s)
        for answer in view.leases if view is not None else ():
            hold = holds.get((answer.run, answer.epoch))
            if hold is not None:
                hold.renewed(sent_at, answer)

    async def _ask_renewal(self, items: list[RenewItem], timeout_s: float) -> RenewedView | None:
        command = Renew(command_id=new_id(), leases=items)
        try:
            return await self._requests.once("renew", command, RenewedView, timeout_s=timeout_s)
        except TapelineError as error:
            logger.warning("renewal_unanswered", code=error.code, why=error.message)
            return None

    # --- offers and stops ---------------------------------------------------------------------------

    def _heard(self, kind: Any, take: Callable[[Any], None]) -> Callable[[Msg], Awaitable[None]]:
        async def hear(message: Msg) -> None:
            try:
                take(kind.model_validate(json.loads(message.data)))
            except (ValueError, PydanticError) as error:
                logger.warning("control_not_understood", subject=message.subject, why=str(error)[:200])

        return hear

    def _offered(self, offer: Offer) -> None:
        is_busy = offer.device in self._claiming.values() or any(
            hold.lease.device == offer.device and hold.state == "running" for hold in self._holds.values()
        )
        is_known = any(device.name == offer.device for device in self._equipment.devices)
        if self._is_draining or is_busy or not is_known or offer.run in self._holds or offer.run in self._claiming:
            return
        self._claiming[offer.run] = offer.device
        self._spawn(self._claim(offer))

    async def _claim(self, offer: Offer) -> None:
        command = Claim(
            command_id=f"claim-{offer.offer}"[:64],
            team=offer.team,
            run=offer.run,
            offer=offer.offer,
            device=offer.device,
        )
        sent_at = self._clock.monotonic()
        passed("agent.before_claim")
        try:
            lease = await asyncio.wait_for(self._requests.until_answered("claim", command, Lease), CLAIM_TIMEOUT_S)
        except TapelineError as error:
            logger.info("claim_refused", run=offer.run, code=error.code, why=error.message)
            return
        except TimeoutError:
            logger.warning("claim_unanswered", run=offer.run)
            return
        finally:
            self._claiming.pop(offer.run, None)
        logger.info("lease_taken", run=lease.run, epoch=lease.epoch, attempt=lease.attempt, device=lease.device)
        passed("agent.claimed")
        hold = Hold(lease, self._tools, sent_at=sent_at)
        self._start(hold, hold.run())

    def _stopped(self, stop: Stop) -> None:
        hold = self._holds.get(stop.run)
        if hold is not None and hold.lease.epoch == stop.epoch:
            hold.stop(stop.grace_s, stop.reason)

    def _start(self, hold: Hold, course: Awaitable[None]) -> None:
        self._holds[hold.lease.run] = hold

        async def go() -> None:
            try:
                await course
            except Exception:
                logger.exception("hold_failed", run=hold.lease.run, epoch=hold.lease.epoch)
            finally:
                if self._holds.get(hold.lease.run) is hold:
                    del self._holds[hold.lease.run]
                self._spare_wanted.set()

        self._spawn(go())

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- children -----------------------------------------------------------------------------------

    async def _take_child(self, device: str, backend: str, blueprint: str) -> Child:
        spare, fits = self._spare, False
        # The spare is busy importing until it is ready: a run that needs no backend does not wait for that.
        if spare is not None and blueprint == SPARE_BLUEPRINT:
            fits = spare.is_alive and spare.device == device and spare.backend == backend
        if spare is not None and fits:
            self._spare = None
            # The next one is made while this run trains, but not while it starts.
            asyncio.get_running_loop().call_later(SPARE_AFTER_S, self._spare_wanted.set)
            return spare
        return await self._launch(device, backend)

    async def _launch(self, device: str, backend: str) -> Child:
        return await Child.launch(self._folder / "work", device=device, backend=backend, threads=self._threads)

    async def _keep_spare(self) -> None:
        """Keep one child that has imported TensorFlow already: a start then takes a moment, not ten seconds."""
        while self._has_spare:
            await self._spare_wanted.wait()
            self._spare_wanted.clear()
            if self._is_draining or (self._spare is not None and self._spare.is_alive):
                continue
            if self._spare is not None:
                await self._spare.kill()
            self._spare = await self._launch(self._equipment.devices[-1].name, "tensorflow")
            self._spare.send("prepare", blueprint=SPARE_BLUEPRINT)
        await asyncio.Event().wait()

    # --- leaving ------------------------------------------------------------------------------------

    async def _leave(self) -> None:
        self._is_draining = True
        grace_s = self._patience.shutdown_grace_s
        with contextlib.suppress(TapelineError, TimeoutError):
            await asyncio.wait_for(self._announce(is_leaving=True), 2)
        for hold in list(self._holds.values()):
            hold.stop(grace_s, "agent_shutdown")
        ended_by = self._clock.monotonic() + grace_s + 3
        while self._holds and self._clock.monotonic() < ended_by:
            if all(hold.state == "ended" for hold in self._holds.values()):
                # Only reports are left; what is not answered soon waits in the journal for the next start.
                ended_by = min(ended_by, self._clock.monotonic() + 3)
            await asyncio.sleep(0.05)
