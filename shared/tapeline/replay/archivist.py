"""The archivist: follows the log and seals it, so that a lost tail is noticed.

It seals every 1000 positions, and 10 minutes after the first commit that no seal covers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from tapeline.bulk import digests, roots
from tapeline.clock import Clock, SystemClock
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.home import Home, find_home
from tapeline.log import EventLog, StoredCommit
from tapeline.logs import get_logger
from tapeline.projections import CANCEL_AGAIN_S
from tapeline.replay.chain import NO_ROOT
from tapeline.replay.reading import opened
from tapeline.replay.seals import Seal, Shelf, check_seals, holding, shelf, signed
from tapeline.security.keys import Credentials, read_credentials
from tapeline.store import ArtifactStore, LocalStore

EVERY = 1000
AFTER_S = 600.0
_log = get_logger()


class Archivist:
    """Seals one log.

    Parameters
    ----------
    shelf
        Where the seals lie.
    credentials
        The seal key.
    every, after_s
        How many positions, and how many seconds after the first unsealed commit, a seal may be late.
    """

    def __init__(
        self,
        *,
        log: EventLog,
        store: ArtifactStore,
        shelf: Shelf,
        credentials: Credentials,
        clock: Clock,
        every: int = EVERY,
        after_s: float = AFTER_S,
    ) -> None:
        self._event_log = log
        self._store = store
        self._shelf = shelf
        self._credentials = credentials
        self._clock = clock
        self._every = every
        self._after_s = after_s
        self._log_id = ""
        self._position = 0
        self._digest = ""
        self._root = NO_ROOT
        self._sealed = 0

    async def run(self) -> None:
        """Seal for ever."""
        await self._begin()
        loop = asyncio.get_running_loop()
        due: float | None = None
        async with aclosing(self._event_log.read(after=self._position, follow=True)) as lists:
            following = asyncio.ensure_future(anext(lists))
            try:
                while True:
                    await asyncio.wait({following}, timeout=None if due is None else max(0.0, due - loop.time()))
                    if following.done():
                        commits = following.result()
                        following = asyncio.ensure_future(anext(lists))
                        before = self._sealed
                        await self._take(commits, self._every)
                        due = due if self._sealed == before else None
                    if due is not None and loop.time() >= due:
                        await self._seal()
                    if self._position == self._sealed:
                        due = None
                    elif due is None:
                        due = loop.time() + self._after_s
            finally:
                while not following.done():
                    # The client library may swallow a cancellation that meets its request.
                    following.cancel()
                    await asyncio.wait({following}, timeout=CANCEL_AGAIN_S)

    async def seal_now(self) -> Seal | None:
        """Seal the log as it stands; none when it is empty, the last seal when that covers it."""
        await self._begin()
        async for commits in self._event_log.read(after=self._position):
            await self._take(commits, None)
        if self._position == 0:
            return None
        if self._position > self._sealed:
            await self._seal()
        return self._shelf.last(self._log_id)

    async def forget_after(self, position: int) -> Seal:
        """Admit that what was sealed after the end of the log is gone; for ever on record.

        Raises
        ------
        TapelineError
            `invalid` when the log does not end there, or no seal reaches further.
        """
        head = await self._event_log.head()
        seals = holding(self._shelf.every(head.log_id))
        if position != head.position:
            raise TapelineError(
                f"the log ends at {head.position}, not at {position}",
                code="invalid",
                hint=f"tapeline log seal --forget-after {head.position} --yes, if what follows is lost for good",
            )
        if not seals or seals[-1].position <= position:
            raise TapelineError(
                f"nothing is lost: no seal reaches beyond position {position}", code="invalid", hint="tapeline up"
            )
        lost_upto = seals[-1].position
        self._log_id = head.log_id
        self._start_from([seal for seal in seals if seal.position <= position])
        async for commits in self._event_log.read(after=self._position):
            await self._take(commits, None)
        return await self._write(lost_upto)

    async def _begin(self) -> None:
        self._log_id = (await self._event_log.head()).log_id
        await check_seals(self._event_log, self._shelf)
        self._start_from(holding(self._shelf.every(self._log_id)))

    def _start_from(self, seals: Sequence[Seal]) -> None:
        last = seals[-1] if seals else None
        self._sealed = self._position = last.position if last else 0
        self._digest = last.digest if last else ""
        self._root = bytes.fromhex(last.root) if last else NO_ROOT

    async def _take(self, commits: Sequence[StoredCommit], every: int | None) -> None:
        raws = digests(commits)
        for commit, raw, root in zip(commits, raws, roots(self._root, raws), strict=True):
            self._digest, self._root, self._position = raw.hex(), root, commit.position
            if every is not None and self._position - self._sealed >= every:
                await self._seal()

    async def _seal(self) -> None:
        last = self._shelf.last(self._log_id)
        if last is not None and last.position >= self._position:
            # An operator has sealed meanwhile.
            self._sealed = self._position
            return
        await self._write(None)

    async def _write(self, lost_upto: int | None) -> Seal:
        seal = signed(
            self._credentials,
            log_id=self._log_id,
            position=self._position,
            sealed_digest=self._digest or "0" * 64,
            root=self._root,
            at=self._clock.now(),
            lost_upto=lost_upto,
        )
        passed("seal.signed")
        try:
            await self._store.create(f"seals/{self._shelf.name(seal)}", msgspec.json.encode(seal))
        except TapelineError as error:
            if error.code != "already_exists":
                raise
            # The store has a seal over this position that the file lost in a crash: the file gets one again.
            _log.warning("seal_exists", position=seal.position)
        passed("seal.stored")
        self._shelf.add(seal)
        self._sealed = seal.position
        _log.info("sealed", position=seal.position, root=seal.root, kind=seal.kind)
        return seal


async def list_seals(home: Home | None = None) -> list[Seal]:
    """Every seal of a home's log, in the order in which they were made."""
    home = home or find_home()
    async with opened(home) as log:
        return shelf(home).every((await log.head()).log_id)


async def seal_now(home: Home | None = None) -> list[Seal]:
    """Seal a home's log as it stands; the seal that covers it, or nothing when the log is empty."""
    home = home or find_home()
    async with opened(home) as log:
        made = await _archivist(home, log).seal_now()
    return [made] if made is not None else []


async def forget_after(position: int, home: Home | None = None) -> Seal:
    """Admit that what was sealed after the end of a home's log is lost; see `Archivist.forget_after`."""
    home = home or find_home()
    async with opened(home) as log:
        return await _archivist(home, log).forget_after(position)


def _archivist(home: Home, log: EventLog) -> Archivist:
    credentials = read_credentials(home.credential("seal"))
    store = LocalStore(home.store)
    return Archivist(log=log, store=store, shelf=shelf(home), credentials=credentials, clock=SystemClock())
