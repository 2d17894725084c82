"""Which waiting run goes to which free device: pure matching, no clock, no tables."""

from __future__ import annotations

import difflib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tapeline.errors import TapelineError
from tapeline.runs.quantities import Wanted

SELECTORS = ("any", "cpu", "gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of an agent that is not gone."""

    agent: str
    name: str
    kind: str
    type: str = ""
    cores: int | None = None
    memory: int | None = None
    teams: frozenset[str] = frozenset()
    backends: frozenset[str] = frozenset()
    blueprints: frozenset[tuple[str, str]] = frozenset()
    is_online: bool = True
    is_free: bool = True

    @property
    def key(self) -> tuple[str, str]:
        return self.agent, self.name

    @property
    def full_name(self) -> str:
        return f"{self.agent}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A submitted run without a device."""

    team: str
    run: str
    attempt: int
    submitted_us: int
    selector: str
    wanted: Wanted
    blueprint: tuple[str, str]
    backend: str = "auto"
    priority: int = 0
    resting: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    """Devices that are not to be offered this run for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A run and the device that it is offered to."""

    run: Waiting
    device: Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """A run that no free device takes: `no_device` when none ever could, else `busy`."""

    run: Waiting
    reason: str
    nearest: str


def select(selector: str, devices: Iterable[Device]) -> list[Device]:
    """The devices that a selector names: `any`, `cpu`, `gpu`, a short name, or `<agent>/<device>`."""
    if selector == "any":
        return list(devices)
    if selector in SELECTORS:
        return [device for device in devices if device.kind == selector]
    return [device for device in devices if selector in (device.name, device.full_name)]


def check_selector(selector: str, devices: Sequence[Device]) -> None:
    """Refuse the name of a device that no agent of the team has, or that several have.

    Raises
    ------
    TapelineError
        `unknown_device` with the live ones, `ambiguous_device` with the candidates.
    """
    if selector in SELECTORS:
        return
    found = select(selector, devices)
    if len(found) == 1:
        return
    if found:
        names = ", ".join(sorted(device.full_name for device in found))
        raise TapelineError(
            f"device {selector!r} is on several agents", code="ambiguous_device", hint=f"name one of: {names}"
        )
    live = sorted(device.full_name for device in devices if device.is_online)
    near = difflib.get_close_matches(selector, [*(one.name for one in devices), *live], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    hint += f"live devices are: {', '.join(live)}" if live else "no device is live; start an agent"
    raise TapelineError(f"no device is named {selector!r}", code="unknown_device", hint=hint, data={"devices": live})


def match(
    waiting: Iterable[Waiting], devices: Sequence[Device], busy: Counter[str]
) -> tuple[list[Match], list[Unmatched]]:
    """Devices for runs: highest priority first, then the team with the fewest busy devices, then the oldest.

    Parameters
    ----------
    busy : Counter of str
        How many devices each team has busy now.
    """
    taken: set[tuple[str, str]] = set()
    counts = Counter(busy)
    matches: list[Match] = []
    unmatched: list[Unmatched] = []
    for run in _in_turn(waiting, counts):
        fitting = [device for device in devices if not _misfits(run, device)]
        free = [
            device
            for device in fitting
            if device.is_free and device.is_online and device.key not in taken and device.key not in run.resting
        ]
        if free:
            # A run that takes anything gets the accelerator, if there is one.
            chosen = min(free, key=lambda device: (device.kind != "gpu", device.full_name))
            matches.append(Match(run=run, device=chosen))
            taken.add(chosen.key)
            counts[run.team] += 1
        elif fitting:
            names = ", ".join(sorted(device.full_name for device in fitting)[:5])
            unmatched.append(Unmatched(run=run, reason="busy", nearest=f"waits for {names}"))
        else:
            unmatched.append(Unmatched(run=run, reason="no_device", nearest=_nearest(run, devices)))
    return matches, unmatched


def _in_turn(waiting: Iterable[Waiting], counts: Counter[str]) -> Iterator[Waiting]:
    """The runs in the order in which they choose; `counts` may change while they do."""
    queues: dict[int, dict[str, deque[Waiting]]] = {}
    for run in sorted(waiting, key=lambda one: (-one.priority, one.submitted_us, one.run)):
        queues.setdefault(run.priority, {}).setdefault(run.team, deque()).append(run)
    for teams in queues.values():
        while teams:
            team = min(teams, key=lambda name: (counts[name], teams[name][0].submitted_us, teams[name][0].run))
            yield teams[team].popleft()
            if not teams[team]:
                del teams[team]


def _misfits(run: Waiting, device: Device) -> list[str]:
    """Why a device could never take a run, in words; empty when it could."""
    wanted, faults = run.wanted, []
    if run.team not in device.teams:
        return ["is not for this team"]
    if not select(run.selector, [device]):
        faults.append(f"is not {run.selector!r}")
    if wanted.gpu_count:
        if device.kind != "gpu":
            faults.append("has no gpu")
        elif wanted.gpu_type.casefold() not in device.type.casefold():
            faults.append(f"has gpu type {device.type!r}")
        elif wanted.gpu_count > 1:
            faults.append("has 1")
    if device.cores is not None and wanted.cpu > device.cores:
        faults.append(f"has {device.cores} cores")
    if device.kind == "cpu" and device.memory is not None and wanted.memory > device.memory:
        faults.append(f"has {device.memory // 2**20}Mi of memory")
    if run.backend != "auto" and run.backend not in device.backends:
        faults.append(f"has no backend {run.backend!r}")
    if run.blueprint not in device.blueprints:
        faults.append(f"has no blueprint {run.blueprint[0]} {run.blueprint[1]}")
    return faults


def _nearest(run: Waiting, devices: Sequence[Device]) -> str:
    wanted = run.wanted
    need = f"{run.selector!r}"
    if wanted.gpu_count:
        need = f'gpu type "{wanted.gpu_type}" x {wanted.gpu_count}'
    seen = [device for device in devices if run.team in device.teams]
    if not seen:
        return "no agent has announced a device for this team"
    closest = min(seen, key=lambda device: (len(_misfits(run, device)), device.full_name))
    return f"no device has {need}; {closest.name} of {closest.agent} {' and '.join(_misfits(run, closest))}"
