"""Offers of runs to agents: hints that live in this process only. The claim is what decides."""

from __future__ import annotations

from dataclasses import dataclass

from tapeline.clock import Clock
from tapeline.contracts.agents import OFFER_TTL_S, Offer
from tapeline.errors import TapelineError
from tapeline.ids import new_id


@dataclass(frozen=True, slots=True)
class Open:
    """An offer that nobody has answered yet."""

    offer: Offer
    agent: str
    made: float


class Offers:
    """The offers of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, Open] = {}

    def make(self, *, team: str, run: str, attempt: int, agent: str, device: str) -> Offer:
        """A new offer to an agent."""
        offer = Offer(offer=new_id(), team=team, run=run, attempt=attempt, device=device)
        self._open[offer.offer] = Open(offer, agent, self._clock.monotonic())
        return offer

    def runs(self) -> frozenset[tuple[str, str]]:
        """The runs of which an offer is open."""
        return frozenset((one.offer.team, one.offer.run) for one in self._open.values())

    def is_reserved(self, agent: str, device: str) -> bool:
        """Whether something is offered to a device."""
        return any((one.agent, one.offer.device) == (agent, device) for one in self._open.values())

    def accepted(self, offer_id: str, *, agent: str, team: str, run: str, device: str) -> Open:
        """The offer that a claim takes up.

        Raises
        ------
        TapelineError
            `conflict` when it has lapsed, or was made to another agent or for another run or device.
        """
        found = self._open.get(offer_id)
        if found is None or (found.agent, found.offer.team, found.offer.run, found.offer.device) != (
            agent, team, run, device,
        ):  # fmt: skip
            raise TapelineError("this offer has lapsed", code="conflict", hint="wait for the next offer")
        return found

    def close(self, offer_id: str) -> None:
        """An offer is answered."""
        self._open.pop(offer_id, None)

    def lapse(self) -> list[Open]:
        """The offers that were left unanswered for too long; they are closed."""
        now = self._clock.monotonic()
        over = [one for one in self._open.values() if now - one.made >= OFFER_TTL_S]
        for one in over:
            self.close(one.offer.offer)
        return over
