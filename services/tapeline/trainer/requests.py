"""Requests of an agent to the runs service: asked again, with the same command id, until answered."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any, Protocol, TypeVar

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from tapeline import subjects
from tapeline.contracts.message import Command, View
from tapeline.errors import TapelineError
from tapeline.logs import get_logger

logger = get_logger()

V = TypeVar("V", bound=View)

RETRIED = frozenset({"unavailable", "timeout", "unknown_outcome", "rate_limited", "behind", "insufficient_storage"})
"""Refusals that say nothing about the request itself."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
STARTING_S = 3.0
INTERNAL_TRIES = 10
"""How often a request is repeated that the service answers with `internal`."""


class Message(Protocol):
    """A reply, as the client library gives it."""

    data: bytes


class Connection(Protocol):
    """The part of the bus client that an agent asks through."""

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 0.5) -> Message:
        """Send and wait for one reply."""
        ...


class Requests:
    """The agent's way to ask."""

    def __init__(self, connection: Connection, *, timeout_s: float = 5.0) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    async def once(self, verb: str, command: Command, view: type[V], *, timeout_s: float | None = None) -> V:
        """The answer to one try.

        Raises
        ------
        TapelineError
            `unavailable` when nobody answers, `timeout` when no answer came in time, else the code of the
            refusal.
        """
        payload = command.model_dump_json(exclude_defaults=True).encode()
        try:
            reply = await self._connection.request(
                subjects.agent_request(verb), payload, timeout=timeout_s or self._timeout_s
            )
        except NoRespondersError as error:
            raise TapelineError(
                f"no runs service answers {verb}", code="unavailable", hint="start the runs service"
            ) from error
        except TimeoutError as error:
            raise TapelineError(f"no answer to {verb} came in time", code="timeout") from error
        except (NatsError, OSError) as error:
            raise TapelineError(f"the bus does not carry {verb}: {error!r}", code="unavailable") from error
        return view.model_validate(_view_of(verb, reply.data))

    async def until_answered(self, verb: str, command: Command, view: type[V], *, timeout_s: float | None = None) -> V:
        """The answer, however often it takes to get one; every try carries the same command id.

        Raises
        ------
        TapelineError
            The refusal, when the service refuses for a reason that trying again does not change.
        """
        pause_s = FIRST_PAUSE_S
        internal = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            try:
                return await self.once(verb, command, view, timeout_s=timeout_s)
            except TapelineError as error:
                internal += error.code == "internal"
                if not (error.code in RETRIED or (error.code == "internal" and internal < INTERNAL_TRIES)):
                    raise
                logger.debug("request_repeated", verb=verb, code=error.code, command_id=command.command_id)
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))
            # A system that starts is there in a moment: it should not wait for us then.
            if loop.time() - began > STARTING_S:
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)


def _view_of(verb: str, data: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(data)
    except ValueError as error:
        raise TapelineError(f"the answer to {verb} is no JSON", code="internal") from error
    if isinstance(reply, dict) and isinstance(reply.get("view"), dict):
        return dict(reply["view"])
    fault = reply.get("error") if isinstance(reply, dict) else None
    if not isinstance(fault, dict):
        raise TapelineError(f"the answer to {verb} is neither a view nor a refusal", code="internal")
    raise TapelineError(
        str(fault.get("message", "refused")),
        code=str(fault.get("code", "internal")),
        hint=fault.get("hint"),
        data=fault.get("data"),
    )
