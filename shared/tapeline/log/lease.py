"""The right to be the only one who does something, kept in the bucket LEASES by compare-and-set.

A lease saves work and is no fence: what is done under it must bear a second holder, since a process may
sleep through the end of its lease. Projections move their position by compare-and-set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from nats.aio.client import Client
from nats.errors import NoRespondersError

from tapeline import subjects
from tapeline.errors import TapelineError
from tapeline.log import wire
from tapeline.logs import get_logger

log = get_logger()

STREAM = "KV_LEASES"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
TTL_S = 15.0
"""`max_age` of the bucket: so long after its last renewal a lease is gone."""
RENEW_S = 5.0
AGAIN_S = 1.0
CANCEL_AGAIN_S = 0.1


class KvLease:
    """One holder's lease of one name.

    Parameters
    ----------
    client
        A connection that may write to the bucket.
    name
        What is leased, such as `projection.runs`.
    holder
        Who asks: no two may ask by the same text.
    """

    def __init__(
        self, client: Client, name: str, holder: str, *, ttl_s: float = TTL_S, renew_s: float = RENEW_S
    ) -> None:
        self._client = client
        self._subject = subjects.lease(name)
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._revision = 0
        self._until = 0.0
        self.name = name
        self.holder = holder

    async def take(self) -> bool:
        """Take the lease if nobody has it; False while somebody else does.

        Raises
        ------
        TapelineError
            `unavailable` when the broker does not answer.
        """
        found = await wire.message(self._client, STREAM, {"last_by_subj": self._subject})
        if found is not None and found.body not in (b"", self.holder.encode()):
            return False
        return await self._put(self.holder, found.position if found else 0)

    async def keep(self) -> None:
        """Renew the lease; returns once it is lost, at the latest when it has run out."""
        pause_s = self._renew_s
        while True:
            await asyncio.sleep(max(0.0, min(pause_s, self._until - time.monotonic())))
            pause_s = self._renew_s
            try:
                if not await self._put(self.holder, self._revision) and not await self._is_still_ours():
                    return
            except TapelineError as error:
                log.warning("lease_not_renewed", name=self.name, why=error.message)
                pause_s = min(AGAIN_S, self._renew_s)
            if time.monotonic() >= self._until:
                return

    async def give_back(self) -> None:
        """Let the next one have it at once; a lease that cannot be given back runs out."""
        if not self._revision:
            return
        revision, self._revision = self._revision, 0
        try:
            await self._put("", revision)
        except TapelineError as error:
            log.info("lease_runs_out", name=self.name, why=error.message)
        self._revision = 0

    async def _is_still_ours(self) -> bool:
        # The answer to a renewal may have been lost, and with it our revision.
        found = await wire.message(self._client, STREAM, {"last_by_subj": self._subject})
        if found is None:
            return await self._put(self.holder, 0)
        if found.body != self.holder.encode():
            return False
        return await self._put(self.holder, found.position)

    async def _put(self, body: str, expected: int) -> bool:
        sent = time.monotonic()
        try:
            msg = await wire.answer(
                self._client, self._subject, body.encode(), timeout=2.0, headers={EXPECTED: str(expected)}
            )
        except (NoRespondersError, TimeoutError, *wire.NOT_SENT) as error:
            raise wire.unreachable() from error
        ack = wire.ack_of(msg)
        if ack.error is None:
            self._revision, self._until = ack.seq, sent + self._ttl_s
            return True
        if ack.error.err_code in wire.CONFLICTS:
            return False
        raise TapelineError(f"the broker refused the lease {self.name}: {ack.error.description}", code="unavailable")


async def while_held(lease: KvLease, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do something only while a lease is ours: wait for it, begin, end when it is lost, and wait again.

    Returns or raises when the work itself does.
    """
    while True:
        try:
            is_ours = await lease.take()
        except TapelineError as error:
            log.warning("lease_not_taken", name=lease.name, why=error.message)
            is_ours = False
        if not is_ours:
            await asyncio.sleep(AGAIN_S)
            continue
        log.info("lease_taken", name=lease.name, holder=lease.holder)
        working, keeping = asyncio.ensure_future(work()), asyncio.ensure_future(lease.keep())
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            log.warning("lease_lost", name=lease.name, holder=lease.holder)
        finally:
            left: set[asyncio.Future[None]] = {working, keeping}
            while left := {task for task in left if not task.done()}:
                # The client library may swallow a cancellation that meets its request.
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
            await lease.give_back()
