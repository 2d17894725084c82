"""Which agents are there: when each was last heard, on the monotonic clock of this process."""

from __future__ import annotations

from tapeline.clock import Clock
from tapeline.service import AgentTeams, own_team_only

ONLINE_S = 30.0
"""An agent says something every 5 s while it holds a run and every 10 s while it is idle; unheard for so long it
is offline."""
REST_S = 30.0
SHORT_REST_S = 1.0


class Presence:
    """Liveness is no event: it is known to this process only, and every agent gets a full spell at its start.

    Nor does a team have to wait for an agent to announce itself again: `agent_teams` is asked each time.
    """

    def __init__(self, clock: Clock, agent_teams: AgentTeams = own_team_only) -> None:
        self._clock = clock
        self._agent_teams = agent_teams
        self._started = clock.monotonic()
        self._heard: dict[str, float] = {}
        self._gone: set[str] = set()
        self._resting: dict[str, float] = {}
        self._boots: dict[str, str] = {}

    def hear(self, agent: str) -> None:
        """The agent has just said something."""
        self._heard[agent] = self._clock.monotonic()
        self._gone.discard(agent)

    def heard_since(self, agent: str, moment: float) -> bool:
        """Whether the agent has said anything after a monotonic moment."""
        return self._heard.get(agent, float("-inf")) > moment

    def teams(self, agent: str) -> frozenset[str]:
        """The teams that the agent may act for now."""
        return frozenset(self._agent_teams(agent))

    def leave(self, agent: str) -> None:
        """The agent has said farewell."""
        self._gone.add(agent)

    def boot(self, agent: str, boot: str) -> str | None:
        """Note the boot of an agent, and give the one noted before."""
        before = self._boots.get(agent)
        self._boots[agent] = boot
        return before

    def is_online(self, agent: str) -> bool:
        """Whether the agent may be counted on."""
        heard = self._heard.get(agent, self._started)
        return agent not in self._gone and self._clock.monotonic() - heard < ONLINE_S

    def rest(self, agent: str, seconds: float) -> None:
        """Offer nothing to an agent that left an offer unanswered, for a while."""
        self._resting[agent] = self._clock.monotonic() + seconds

    def is_resting(self, agent: str) -> bool:
        """Whether the agent is not to be offered anything now."""
        return self._resting.get(agent, float("-inf")) > self._clock.monotonic()
