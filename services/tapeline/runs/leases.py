"""Live leases and their deadlines, on the monotonic clock of this process.

Renewals are not events: after a start of the service every lease on the log gets one full ttl. The log
decides who holds a run; this register only knows when to ask it to expire a lease.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tapeline.clock import Clock
from tapeline.contracts.metrics import ATTACHED

REMEMBERED_ENDS = 10_000


@dataclass(slots=True)
class Held:
    """One live lease, and the moment at which it is over unless it is renewed."""

    team: str
    run: str
    epoch: int
    agent: str
    device: str
    ttl_s: float
    deadline: float


class Leases:
    """The register of live leases."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[tuple[str, str], Held] = {}
        self._ended: OrderedDict[tuple[str, str], int] = OrderedDict()

    def hold(self, team: str, run: str, *, epoch: int, agent: str, device: str, ttl_s: float) -> None:
        """A lease is granted, or was found on the log; one that is known keeps its deadline."""
        known = self._held.get((team, run))
        if (known is not None and known.epoch >= epoch) or self._ended.get((team, run), 0) >= epoch:
            return
        deadline = self._clock.monotonic() + ttl_s
        self._held[team, run] = Held(team, run, epoch, agent, device, ttl_s, deadline)

    def renew(self, team: str, run: str, epoch: int) -> None:
        """The holder was heard."""
        held = self._held.get((team, run))
        if held is not None and held.epoch == epoch:
            held.deadline = self._clock.monotonic() + held.ttl_s

    def renew_all(self) -> None:
        """Give each lease one full ttl: nobody counted until now."""
        now = self._clock.monotonic()
        for held in self._held.values():
            held.deadline = now + held.ttl_s

    def end(self, team: str, run: str, epoch: int) -> None:
        """The lease of an epoch is over; tables that lag behind cannot bring it back."""
        held = self._held.get((team, run))
        if held is not None and held.epoch <= epoch:
            del self._held[team, run]
        self._ended[team, run] = max(epoch, self._ended.get((team, run), 0))
        self._ended.move_to_end((team, run))
        while len(self._ended) > REMEMBERED_ENDS:
            self._ended.popitem(last=False)

    def expired(self) -> list[Held]:
        """Leases whose deadline has passed."""
        now = self._clock.monotonic()
        return [held for held in self._held.values() if held.deadline <= now]

    def of_agent(self, agent: str) -> list[Held]:
        """What an agent holds."""
        return [held for held in self._held.values() if held.agent == agent]

    def on(self, agent: str, device: str) -> Held | None:
        """The lease that keeps a device busy."""
        for held in self._held.values():
            if (held.agent, held.device) == (agent, device):
                return held
        return None

    def is_ahead(self, team: str, run: str, epoch: int) -> bool:
        """Whether a later epoch than this is known: what shows this one is out of date."""
        held = self._held.get((team, run))
        return max(held.epoch if held is not None else 0, self._ended.get((team, run), 0)) > epoch

    def busy(self) -> Counter[str]:
        """How many devices each team has busy."""
        return Counter(held.team for held in self._held.values() if not held.device.startswith(ATTACHED))

    def keep_only(self, live: Iterable[tuple[str, str, int]], seen: Callable[[tuple[str, str]], int]) -> None:
        """Drop what the tables show to be over.

        Parameters
        ----------
        live : iterable of (team, run, epoch)
            Leases that the tables show.
        seen : callable
            The epoch of an unfinished run that the tables show, 0 when they show none.
        """
        alive = set(live)
        for key, held in list(self._held.items()):
            if (*key, held.epoch) not in alive and seen(key) >= held.epoch:
                self.end(*key, held.epoch)
