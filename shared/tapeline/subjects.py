"""Every subject of the bus is built and parsed here, and nowhere else.

| subject | published by |
|---|---|
| `tl.<user>.<service>.<verb>`, seen by services as `gw.<team>.<user>.<service>.<verb>` | user |
| `ag.<verb>`, seen by services as `ag.<agent>.<verb>` | agent |
| `actl.<agent>.run.<verb>`, seen by the agent as `ctl.run.<verb>` | runs |
| `evt.<team>.<kind>.<id>`, `met.<team>.<run>`, `feed.<team>.<kind>.<id>` | the owning service |
| `build.<team>.<asset>.<part>` | assets |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from tapeline.errors import TapelineError

Kind = Literal["run", "blueprint", "model", "tape", "canvas", "asset", "vault", "device"]
KINDS: frozenset[str] = frozenset(get_args(Kind))
SERVICES: tuple[str, ...] = ("runs", "assets", "vault")
RESERVED_SLUGS = frozenset({"sys", "platform", "admin", "replay", "tapeline"})
PLATFORM_TEAM = "platform"

_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_VERB = re.compile(r"[a-z][a-z_]{0,31}")

ALL_EVENTS = "evt.*.*.*"
ALL_METRICS = "met.*.*"
ALL_BUILDS = "build.*.*.*"
AGENT_START = "ctl.run.start"
AGENT_STOP = "ctl.run.stop"
AGENT_CONTROL = "ctl.>"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from, as the broker says: a user of a team."""

    team: str
    user: str

    @property
    def actor(self) -> str:
        return f"user:{self.user}"


@dataclass(frozen=True, slots=True)
class Agent:
    """The trainer agent that a request comes from, as the broker says."""

    name: str

    @property
    def actor(self) -> str:
        return f"agent:{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Names one aggregate: its team, kind and id."""

    team: str
    kind: Kind
    id: str

    @property
    def subject(self) -> str:
        return f"evt.{self.team}.{self.kind}.{self.id}"

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"


def is_slug(text: str) -> bool:
    """Whether a text may be a team, user, agent or other token of a subject."""
    return _SLUG.fullmatch(text) is not None


def check_slug(text: str, what: str) -> str:
    """The text itself; `invalid` when it may not be a token of a subject, or is reserved."""
    if not is_slug(text) or text in RESERVED_SLUGS:
        raise TapelineError(
            f"{what} {text!r} is not a name that a subject can hold",
            code="invalid",
            hint="use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit; "
            f"not {', '.join(sorted(RESERVED_SLUGS))}",
        )
    return text


@lru_cache(maxsize=65_536)
def ref_of(subject: str) -> Ref:
    """The aggregate whose stream a subject of the log is."""
    parts = subject.split(".")
    if len(parts) != 4 or parts[0] != "evt" or parts[2] not in KINDS or not all(map(is_slug, parts[1:])):
        raise TapelineError(f"{subject!r} is not a subject of the log", code="invalid")
    return Ref(parts[1], parts[2], parts[3])  # type: ignore[arg-type]


def parse_ref(text: str, team: str | None = None) -> Ref:
    """The aggregate written as `run/<id>`, or `<team>/run/<id>` by an operator."""
    parts = text.split("/")
    if len(parts) == 2 and team is not None:
        parts = [team, *parts]
    if len(parts) != 3 or parts[1] not in KINDS or not (is_slug(parts[0]) and is_slug(parts[2])):
        raise TapelineError(
            f"{text!r} does not name an aggregate",
            code="invalid",
            hint=f"write <kind>/<id>, with a kind of {', '.join(sorted(KINDS))}",
        )
    return Ref(parts[0], parts[1], parts[2])  # type: ignore[arg-type]


TABLES = "tapeline://"


def table_of(url: str) -> tuple[str, ...]:
    """The parts of the URL of a table: its team, then `tables` and its id, or `assets`, asset and file.

    Raises
    ------
    TapelineError
        `invalid` for any other text: nothing is ever fetched from a URL that a user gives.
    """
    from urllib.parse import unquote

    parts = [unquote(part) for part in url.removeprefix(TABLES).split("/")]
    kinds = {"tables": 3, "assets": 4}
    if (
        not url.startswith(TABLES)
        or not url.isprintable()
        or kinds.get(parts[1] if len(parts) > 1 else "") != len(parts)
        or not is_slug(parts[0])
        or any(part in ("", ".", "..") or not part.isprintable() for part in parts)
    ):
        raise TapelineError(
            f"{url[:120]!r} is not the URL of a table",
            code="invalid",
            hint="tapeline://<team>/tables/<id>, or tapeline://<team>/assets/<name>/<file>",
        )
    return tuple(parts)


def request(user: str, service: str, verb: str) -> str:
    """Where a user sends a command or query."""
    return f"tl.{user}.{service}.{verb}"


def asked(subject: str) -> tuple[str, str, str]:
    """The user, service and verb of a request as the user sends it."""
    parts = subject.split(".")
    if len(parts) != 4 or parts[0] != "tl":
        raise TapelineError(f"{subject!r} is not a request of a user", code="invalid")
    return parts[1], parts[2], parts[3]


def forwarded(caller: Principal, service: str, verb: str) -> str:
    """A user's request as the broker rewrites it at the border of the team's account."""
    return f"gw.{caller.team}.{caller.user}.{service}.{verb}"


def gateway(service: str, verb: str) -> str:
    """Where a service hears a verb from every user of every team."""
    return f"gw.*.*.{service}.{verb}"


@lru_cache(maxsize=4096)
def caller(subject: str) -> Principal:
    """Who sent a request, from the subject that the broker rewrote."""
    parts = subject.split(".")
    if (
        len(parts) != 5
        or parts[0] != "gw"
        or not all(map(is_slug, parts[1:3]))
        or not all(map(_VERB.fullmatch, parts[3:]))
    ):
        raise TapelineError(f"{subject!r} is not a request of a user", code="invalid")
    return Principal(parts[1], parts[2])


def agent_request(verb: str) -> str:
    """Where an agent sends a request."""
    return f"ag.{verb}"


def agent_gateway(verb: str) -> str:
    """Where the runs service hears a verb from every agent."""
    return f"ag.*.{verb}"


@lru_cache(maxsize=4096)
def agent(subject: str) -> Agent:
    """Which agent sent a request, from the subject that the broker rewrote."""
    parts = subject.split(".")
    if len(parts) != 3 or parts[0] != "ag" or not is_slug(parts[1]) or not _VERB.fullmatch(parts[2]):
        raise TapelineError(f"{subject!r} is not a request of an agent", code="invalid")
    return Agent(parts[1])


def control(agent_name: str, verb: Literal["start", "stop"]) -> str:
    """Where the runs service wakes one agent."""
    return f"actl.{agent_name}.run.{verb}"


def metrics(team: str, run_id: str) -> str:
    """Where the measurements of one run lie."""
    return f"met.{team}.{run_id}"


def metrics_owner(subject: str) -> tuple[str, str]:
    """The team and run of a metrics subject."""
    parts = subject.split(".")
    if len(parts) != 3 or parts[0] != "met":
        raise TapelineError(f"{subject!r} is not a subject of metrics", code="invalid")
    return parts[1], parts[2]


def events_of(team: str | None = None) -> str:
    """Where all events of a team lie, or those of all teams."""
    return ALL_EVENTS if team is None else f"evt.{check_slug(team, 'team') if team != PLATFORM_TEAM else team}.*.*"


def events_of_place(place: str) -> str:
    """Where the events of `<kind>/<id>` lie, whatever its team."""
    ref = parse_ref(place, PLATFORM_TEAM)
    return f"evt.*.{ref.kind}.{ref.id}"


def feed(ref: Ref) -> str:
    """Where a team is told that an aggregate has a new event."""
    return f"feed.{ref.team}.{ref.kind}.{ref.id}"


def team_feed(kind: str = "*", id: str = "*") -> str:
    """What a user of a team subscribes to, as the broker rewrites the feed for its account."""
    return f"feed.{kind}.{id}"


def build(team: str, asset_id: str, part: int) -> str:
    """Where one part of an asset build waits for a worker."""
    return f"build.{team}.{asset_id}.{part}"


def inbox(role: Literal["user", "agent", "service", "replay", "admin"], name: str = "") -> str:
    """The inbox prefix of an identity: one without its own would share everybody's."""
    match role:
        case "user":
            return f"_IN.{name}"
        case "agent":
            return "_IN"
        case "service":
            return f"_INS.{name}"
        case "replay":
            return "_INR"
        case "admin":
            return "_INA"


def service_permissions(service: str) -> tuple[list[str], list[str]]:
    """What a service may publish and subscribe to, beyond what all services share."""
    match service:
        case "runs":
            publish = [
                "evt.*.run.>", "evt.*.blueprint.>", "evt.*.model.>", "evt.*.device.>", "evt.*.vault.>",
                "met.>", "actl.>",
            ]  # fmt: skip
            return publish, ["gw.*.*.runs.>", "gw.*.*.log.>", "ag.>", "_INS.runs.>"]
        case "assets":
            publish = [
                "evt.*.tape.>",
                "evt.*.canvas.>",
                "evt.*.asset.>",
                "build.>",
                "met.>",
                "$JS.ACK.BUILDS.>",
            ]
            return publish, [
                "gw.*.*.assets.>", "_INS.assets.>", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.BUILDS.>",
            ]  # fmt: skip
        case "vault":
            return ["evt.*.vault.>"], ["gw.*.*.vault.>", "_INS.vault.>"]
    raise TapelineError(f"no service is named {service!r}", code="invalid")


def common_permissions(service: str) -> list[str]:
    """What every service may publish besides its own subjects: replies, feed, leases, reading the log."""
    return [
        "feed.>", "$KV.LEASES.>", "_R_.>", f"_INS.{service}.>", "$JS.API.INFO", "$JS.API.STREAM.INFO.*",
        "$JS.API.STREAM.MSG.GET.*", "$JS.API.DIRECT.GET.>", "$JS.API.CONSUMER.CREATE.>",
        "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.DELETE.>", "$JS.API.CONSUMER.MSG.NEXT.>",
    ]  # fmt: skip


def replay_permissions() -> tuple[list[str], list[str]]:
    """What the replay tool may do: read the two streams, and nothing that writes."""
    publish = []
    for stream in ("EVENTS", "METRICS"):
        publish += [
            f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.>",
            f"$JS.API.CONSUMER.INFO.{stream}.*", f"$JS.API.CONSUMER.DELETE.{stream}.*",
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", f"$JS.API.DIRECT.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}.>", f"$JS.API.STREAM.MSG.GET.{stream}",
        ]  # fmt: skip
    return publish, ["_INR.>"]


def user_permissions(user: str) -> tuple[list[str], list[str]]:
    """What a user may publish and hear within the team's account."""
    return [f"tl.{user}.>"], [f"_IN.{user}.>", "feed.>"]


def agent_permissions() -> tuple[list[str], list[str]]:
    """What an agent may publish and hear within its account."""
    return ["ag.>"], ["_IN.>", "ctl.>"]


def account_of(who: Principal | Agent) -> str:
    """The broker's account of a principal: one a team, one an agent."""
    return f"T_{who.team}" if isinstance(who, Principal) else f"AG_{who.name}"


def lease(name: str) -> str:
    """The key of a lease in the bucket LEASES."""
    return f"$KV.LEASES.{name}"


def team_borders(team: str) -> dict[str, str]:
    """The service and stream exports that join a team's account to the platform."""
    return {
        "service": f"gw.{team}.>",
        "stream": f"feed.{team}.>",
        "service_to": "tl.>",
        "stream_to": "feed.>",
    }


def agent_borders(agent_name: str) -> dict[str, str]:
    """The service and stream exports that join an agent's account to the platform."""
    return {
        "service": f"ag.{agent_name}.>",
        "stream": f"actl.{agent_name}.>",
        "service_to": "ag.>",
        "stream_to": "ctl.>",
    }
