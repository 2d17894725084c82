"""The bus as services see it: a register of verbs, each with its contract, and the router made of it.

A handler is a coroutine `(caller, request) -> reply`. Its annotations name the request's contract; who the
caller is comes from the subject that the broker rewrote. Whatever a handler raises becomes a `Rejected`
reply: a handler that raised over a real server would leave its caller waiting for the whole time-out.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec
import pydantic
from faststream.nats import NatsMessage, NatsRouter
from pydantic import BaseModel

from tapeline import subjects
from tapeline.clock import Clock
from tapeline.contracts.message import Accepted, Answer, Command, Fault, Rejected
from tapeline.decider import Outcome, request_content
from tapeline.errors import TapelineError, fault
from tapeline.failpoints import passed
from tapeline.ids import new_id
from tapeline.logs import get_logger

log = get_logger()

MAX_WORKERS = 256
"""Requests that a service works on at once, by audience; further ones wait in order."""
MAX_BODY_BYTES = 768 * 1024
REQUEST_INFO = "Nats-Request-Info"
V = TypeVar("V", bound=BaseModel)


class _Witness(msgspec.Struct):
    """What the broker says of who asked across an account border; the rest of it is not looked at."""

    acc: str = ""


_witnesses = msgspec.json.Decoder(_Witness)
Handler = Callable[[Any, Any], Awaitable[BaseModel]]
Audience = Literal["user", "agent"]


@dataclass(frozen=True)
class Verb:
    """One command or query of a service: its name, who may send it, its contract, its reply and its handler."""

    service: str
    name: str
    audience: Audience
    handler: Handler

    @cached_property
    def request(self) -> type[BaseModel]:
        """The contract of what is asked; read with the first request, for reading all of them costs a start."""
        return self._contract(list(inspect.signature(self.handler).parameters)[1])

    @cached_property
    def reply(self) -> type[BaseModel]:
        """The contract of what is answered."""
        return self._contract("return")

    def _contract(self, name: str) -> type[BaseModel]:
        found = get_type_hints(self.handler)[name]
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            raise TypeError(f"{self.service}.{self.name} has no contract: {name} is {found!r}")
        return found

    @property
    def subject(self) -> str:
        if self.audience == "agent":
            return subjects.agent_gateway(self.name)
        return subjects.gateway(self.service, self.name)


class Verbs:
    """The verbs of one service. A verb without a contract does not register, so it does not start."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._verbs: dict[tuple[Audience, str], Verb] = {}

    def user(self, name: str, *, service: str | None = None) -> Callable[[Handler], Handler]:
        """Register a handler `(caller: Principal, request: <contract>)` for users."""
        return self._register(name, "user", service or self.service)

    def agent(self, name: str) -> Callable[[Handler], Handler]:
        """Register a handler `(caller: Agent, request: <contract>)` for trainer agents."""
        return self._register(name, "agent", self.service)

    def __iter__(self) -> Iterator[Verb]:
        return iter(self._verbs.values())

    def _register(self, name: str, audience: Audience, service: str) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            parameters = list(inspect.signature(handler).parameters.values())
            if len(parameters) != 2 or parameters[1].annotation is inspect.Parameter.empty:
                raise TypeError(f"{service}.{name} has no contract: annotate its second argument")
            if "return" not in handler.__annotations__:
                raise TypeError(f"{service}.{name} does not say what it replies: annotate its result")
            if (audience, name) in self._verbs:
                raise TypeError(f"{service}.{name} is registered twice")
            self._verbs[audience, name] = Verb(service, name, audience, handler)
            return handler

        return register


@dataclass(frozen=True, slots=True)
class Served:
    """All verbs of a service for one audience: what one subscription hears.

    What is no verb is refused at once, where nobody would have heard it, and a service starts with a few
    subscriptions, each of which costs the framework milliseconds.
    """

    service: str
    audience: Audience
    verbs: dict[str, Verb]

    @property
    def subject(self) -> str:
        return subjects.agent_gateway("*") if self.audience == "agent" else subjects.gateway(self.service, "*")

    async def reply(self, subject: str, body: bytes, headers: dict[str, Any], clock: Clock) -> bytes:
        """The reply to one request; never raises but for cancellation."""
        verb = self.verbs.get(subject.rpartition(".")[2])
        if verb is None:
            return unknown(self.service, subject, self.verbs)
        return await answer(verb, subject, body, headers, clock)


def served(verbs: Verbs) -> list[Served]:
    """The verbs by service and audience."""
    found: dict[tuple[str, Audience], Served] = {}
    for verb in verbs:
        place = verb.service, verb.audience
        found.setdefault(place, Served(*place, {})).verbs[verb.name] = verb
    return list(found.values())


def router(verbs: Verbs, clock: Clock) -> NatsRouter:
    """The FastStream router that serves the verbs, in the queue group of their service."""
    made = NatsRouter()
    for each in served(verbs):
        # Without max_workers a core subscriber handles one message at a time.
        subscriber = made.subscriber(
            each.subject,
            queue=each.service,
            max_workers=MAX_WORKERS,
            decoder=_as_received,
            title=f"{each.service} for {each.audience}s",
        )
        subscriber(_endpoint(each, clock))
    return made


async def _as_received(message: NatsMessage) -> NatsMessage:
    # The framework's own decoder answers nothing at all to a body that is not what it expects.
    return message


def _endpoint(each: Served, clock: Clock) -> Callable[[Any], Awaitable[bytes]]:
    async def endpoint(message: Any) -> bytes:
        return await each.reply(message.raw_message.subject, message.body, message.headers or {}, clock)

    endpoint.__name__ = f"{each.service}_{each.audience}"
    return endpoint


def unknown(service: str, subject: str, known: Iterable[str]) -> bytes:
    """The reply to a request for a verb that a service does not have."""
    name = subject.rpartition(".")[2]
    near = difflib.get_close_matches(name, known, n=1)
    return _rejected(
        TapelineError(
            f"{service} has no verb {name[:64]!r}",
            code="unsupported",
            hint=f"did you mean {near[0]}?" if near else f"its verbs are {', '.join(sorted(known))}",
        )
    )


async def answer(
    verb: Verb, subject: str, body: bytes, headers: dict[str, Any], clock: Clock, *, noted: bool = True
) -> bytes:
    """The reply to one request, as bytes; never raises but for cancellation. `noted` has a line of the log."""
    started = time.perf_counter()
    code: str | int | None = "ok"
    who: subjects.Principal | subjects.Agent | None = None
    try:
        who = subjects.caller(subject) if verb.audience == "user" else subjects.agent(subject)
        _check_witness(who, headers)
        reply = await verb.handler(who, _parse(verb, body, clock))
        encoded = reply.model_dump_json().encode()
        if len(encoded) > 1_000_000:
            raise TapelineError(
                f"the reply to {verb.service}.{verb.name} is {len(encoded) // 1024} KiB; a message holds 1 MiB",
                code="too_large",
                hint="ask for a smaller page, or select fewer fields",
            )
        passed("handler.before_reply")
        return encoded
    except TapelineError as error:
        code = error.code
        return _rejected(error)
    except Exception as error:
        reference = new_id()
        code = "internal"
        log.exception("handler_failed", verb=f"{verb.service}.{verb.name}", reference=reference)
        return _rejected(
            TapelineError(
                f"{verb.service}.{verb.name} failed on its own account ({type(error).__name__}); reference {reference}",
                code="internal",
                hint="the service's log has the reference",
            )
        )
    finally:
        if noted:
            log.debug(
                "request",
                verb=f"{verb.service}.{verb.name}",
                caller=who.actor if who else subject,
                code=code,
                ms=round((time.perf_counter() - started) * 1000, 2),
            )


def _parse(verb: Verb, body: bytes, clock: Clock) -> BaseModel:
    if len(body) > MAX_BODY_BYTES:
        raise TapelineError(
            f"a request of {len(body) // 1024} KiB; the limit is {MAX_BODY_BYTES // 1024} KiB", code="too_large"
        )
    try:
        request = verb.request.model_validate_json(body or b"{}")
    except pydantic.ValidationError as error:
        faults = [
            {"path": list(each["loc"]), "message": each["msg"], "value": _short(each.get("input")), "hint": None}
            for each in error.errors(include_url=False, include_context=False)
        ]
        first = faults[0]
        place = ".".join(str(part) for part in first["path"]) or "the body"
        raise TapelineError(
            f"{verb.service}.{verb.name}: {place}: {first['message']}",
            code="invalid",
            hint=f"its fields are {', '.join(sorted(verb.request.model_fields))}",
            data={"errors": faults},
        ) from error
    if isinstance(request, Command):
        asked = request.model_dump_json(exclude={"command_id", "at", "min_position"})
        request_content.set(hashlib.sha256(f"{verb.service}.{verb.name} {asked}".encode()).hexdigest()[:16])
        # A retry carries the id; a caller without one is not asking to be idempotent.
        request = request.model_copy(update={"at": clock.now(), "command_id": request.command_id or new_id()})
    return request


def _short(value: Any) -> Any:
    text = repr(value)
    return value if isinstance(value, int | float | bool | None) else text[:200]


def _check_witness(who: subjects.Principal | subjects.Agent, headers: dict[str, Any]) -> None:
    # The broker adds this header where an account border is crossed; a client's own spelling differs.
    witness = headers.get(REQUEST_INFO)
    if witness is None:
        return
    account = _witnesses.decode(witness).acc
    expected = subjects.account_of(who)
    if account != expected:
        log.error("foreign_request", caller=who.actor, account=account, expected=expected)
        raise TapelineError("this request did not come from its own account", code="forbidden")


def _rejected(error: TapelineError) -> bytes:
    return Rejected(error=Fault(**fault(error))).model_dump_json().encode()


def accepted(outcome: Outcome[Any], view: V, log_id: str) -> Accepted[V]:
    """The reply to a command that is done."""
    return Accepted(
        view=view,
        sequence=outcome.sequence,
        position=outcome.position,
        log_id=log_id,
        replayed=outcome.replayed,
    )


def answered(view: V, position: int, log_id: str) -> Answer[V]:
    """The reply to a query, read from tables that stand at `position`."""
    return Answer(view=view, position=max(position, 0), log_id=log_id)
