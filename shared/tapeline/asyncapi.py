"""The AsyncAPI document of the bus: every command and query with its contract, made from what services register.

`docs/schemas/asyncapi.json` holds it for all services (`python -m tapeline.host --asyncapi`); a test compares.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tapeline import subjects
from tapeline.bus import Verb
from tapeline.clock import SystemClock
from tapeline.connection import BusClient
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.contracts.agents import CONTRACTS
from tapeline.contracts.message import Command, Rejected
from tapeline.database import make_engine, sqlite_url
from tapeline.decider import Deciders
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.log.metrics import MetricsStream
from tapeline.service import Build, Platform
from tapeline.store import LocalStore

REPLIES = "replies"
_USER = {"description": "Your name, as your key says it: the broker lets you publish nowhere else."}


def verbs_of(builds: Mapping[str, Build]) -> Iterator[Verb]:
    """Every verb of the services, which are composed without a broker: nothing is served, nothing is stored."""
    codec, clock, client = Codec(EVENTS, UPCASTERS, TOMBSTONES), SystemClock(), BusClient()
    log = InMemoryLog(codec)

    async def connect(_client: object, /, **_more: object) -> None:
        raise RuntimeError("nothing is read while the document is written")

    with TemporaryDirectory() as folder:
        home = Path(folder)
        platform = Platform(
            log=log,
            log_id="",
            codec=codec,
            metrics=MetricsStream(client, connect=connect, role="document"),
            deciders=Deciders(log, codec, clock),
            engine=make_engine(sqlite_url(home / "none.db")),
            store=LocalStore(home / "store"),
            clock=clock,
            publish=client.publish,
            home=home,
        )
        for build in builds.values():
            yield from build(platform).verbs


def document(verbs: Iterable[Verb]) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of some verbs.

    A channel for each verb, and one for all replies, whose address each request carries; an operation for
    each verb, as the service sees it: it receives the request and sends one of two replies.
    """
    ordered = sorted(verbs, key=_key)
    models = {model for verb in ordered for model in (verb.request, verb.reply)} | {Rejected}
    schemas, definitions = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    names = {model: schema["$ref"].rpartition("/")[2] for (model, _), schema in schemas.items()}
    messages = {names[model]: _message(names[model], model) for model in models}
    replies = sorted({names[verb.reply] for verb in ordered} | {names[Rejected]})
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tapeline",
            "version": CONTRACTS,
            "description": "Every command and query of Tapeline as a request on NATS; see docs/guide/bus.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            **{_key(verb): _channel(verb, names[verb.request]) for verb in ordered},
            REPLIES: {
                "address": None,
                "description": "The reply subject of the request, below the inbox prefix of the caller.",
                "messages": {name: _reference("components/messages", name) for name in replies},
            },
        },
        "operations": {_key(verb): _operation(verb, names) for verb in ordered},
        "components": {
            "messages": dict(sorted(messages.items())),
            "schemas": dict(sorted(definitions["$defs"].items())),
        },
    }


def document_text(verbs: Iterable[Verb]) -> str:
    """The document as the text of the published file."""
    return json.dumps(document(verbs), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _key(verb: Verb) -> str:
    return f"{verb.service}.{verb.name}" if verb.audience == "user" else f"agents.{verb.name}"


def _reference(place: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/{place}/{name}"}


def _channel(verb: Verb, request: str) -> dict[str, Any]:
    is_users = verb.audience == "user"
    return {
        "address": subjects.request("{user}", verb.service, verb.name)
        if is_users
        else subjects.agent_request(verb.name),
        "description": (inspect.getdoc(verb.request) or "").partition("\n\n")[0],
        "parameters": {"user": _USER} if is_users else {},
        "messages": {request: _reference("components/messages", request)},
    }


def _operation(verb: Verb, names: Mapping[Any, str]) -> dict[str, Any]:
    channel = _reference("channels", _key(verb))
    return {
        "action": "receive",
        "title": "command" if issubclass(verb.request, Command) else "query",
        "summary": (inspect.getdoc(verb.request) or "").partition("\n")[0],
        "channel": channel,
        "messages": [{"$ref": f"{channel['$ref']}/messages/{names[verb.request]}"}],
        "reply": {
            "channel": _reference("channels", REPLIES),
            "messages": [{"$ref": f"#/channels/{REPLIES}/messages/{names[model]}"} for model in (verb.reply, Rejected)],
        },
    }


def _message(name: str, model: type[BaseModel]) -> dict[str, Any]:
    return {
        "name": name,
        "summary": (inspect.getdoc(model) or "").partition("\n")[0],
        "contentType": "application/json",
        "payload": _reference("components/schemas", name),
    }
