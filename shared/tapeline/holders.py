"""Who bears a name: looked up on the log itself, so that an answer is never older than the last commit."""

from __future__ import annotations

from tapeline import names
from tapeline.contracts.names import NameReleased
from tapeline.decider import Deciders
from tapeline.log import EventLog
from tapeline.log.codec import Codec
from tapeline.names import name_ref
from tapeline.subjects import Kind


class Holders:
    """Finds the aggregates of one kind by their names."""

    def __init__(self, log: EventLog, codec: Codec, deciders: Deciders, kind: Kind) -> None:
        self._log = log
        self._codec = codec
        self._deciders = deciders
        self._kind: Kind = kind

    async def of(self, team: str, name: str) -> str | None:
        """The id of what has the name now, or None."""
        return (await self._deciders.state(names, name_ref(team, self._kind, name))).holder

    async def before(self, team: str, name: str, command_id: str | None) -> str | None:
        """The id of what lost the name by this very command: a repeat must find what it found the first time."""
        if command_id is None:
            return None
        for commit in reversed(await self._log.load(name_ref(team, self._kind, name))):
            for event in self._codec.decode(commit):
                if event.command_id == command_id and isinstance(event.data, NameReleased):
                    return event.data.holder
        return None

    async def of_or_before(self, team: str, name: str, command_id: str | None) -> str | None:
        """The id of what has the name, or lost it by this very command."""
        return await self.before(team, name, command_id) or await self.of(team, name)
