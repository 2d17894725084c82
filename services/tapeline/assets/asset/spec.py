"""The build spec `tapeline.asset-spec/1`: what a user may write, and its resolved form.

Resolving looks up every name once. What comes out has full specs, tapes by id and digest, and no default
left open; a build reads nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from tapeline.assets.asset.instances import Known, looked_up, near, refusal, sentence
from tapeline.assets.component import FeatureSpec, Instance, LabelParams, duration_ns
from tapeline.assets.components import BUILT_IN, Registry
from tapeline.assets.view import Unit
from tapeline.canvas.digest import canonical_json
from tapeline.errors import TapelineError
from tapeline.subjects import is_slug

SCHEMA = "tapeline.asset-spec/1"
MAX_BYTES = 256 * 1024
MAX_FEATURES = 256
MAX_LABELS = 32


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TapeOf(_Part):
    """A tape by name or id, and which of its symbols; none named means all."""

    tape: str = Field(min_length=1, max_length=255)
    symbols: list[str] | None = Field(default=None, min_length=1, max_length=1000)


class Range(_Part):
    """Trade dates, both included; an open end reaches to the tape's."""

    from_: date | None = Field(default=None, alias="from")
    to: date | None = None


class Every(_Part):
    """One sample at the end of every bar of this unit and size."""

    kind: Literal["every"] = "every"
    unit: Unit = "min"
    size: int = Field(default=1, ge=1, le=86_400)


class Cusum(_Part):
    """A sample where the log returns of bars, added up in one direction, pass a threshold."""

    kind: Literal["cusum"]
    unit: Unit = "min"
    size: int = Field(default=1, ge=1, le=86_400)
    threshold: float = Field(gt=0.0, lt=10.0)


class AtTimes(_Part):
    """A sample at times of day of the exchange, `HH:MM` or `HH:MM:SS`."""

    kind: Literal["at_times"]
    times: list[Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$")]] = Field(
        min_length=1, max_length=1440
    )


def _kind_given(sampling: Any) -> Any:
    return {"kind": "every"} | sampling if isinstance(sampling, dict) else sampling


Sampling = Annotated[
    Annotated[Every | Cusum | AtTimes, Field(discriminator="kind")], pydantic.BeforeValidator(_kind_given)
]


class Split(_Part):
    """Shares of the sessions for test and validation, in order of time, and the gap between parts."""

    test_fraction: float = Field(default=0.2, ge=0.0, le=0.5)
    validation_fraction: float = Field(default=0.1, ge=0.0, le=0.5)
    test_from: date | None = None
    embargo: str = "auto"


class AssetSpec(_Part):
    """What a user asks for."""

    schema_: Literal["tapeline.asset-spec/1"] = Field(default="tapeline.asset-spec/1", alias="schema")
    name: str | None = None
    tapes: list[TapeOf | str] = Field(min_length=1, max_length=64)
    calendar: str | None = Field(default=None, max_length=64)
    view: Literal["regular", "extended"] = "regular"
    range: Range = Range()
    sampling: Sampling = Every()
    features: list[FeatureSpec | str] = Field(min_length=1, max_length=MAX_FEATURES)
    labels: list[FeatureSpec | str] = Field(min_length=1, max_length=MAX_LABELS)
    split: Split = Split()
    layout: Literal["auto", "materialised", "indexed"] = "auto"
    dtype: Literal["float32", "float16"] = "float32"
    missing: Literal["drop", "zero", "carry"] = "drop"
    uniqueness: bool = False
    allow_lookahead: bool = False
    rebuild: bool = False


_PARTS: Mapping[str, Sequence[type[BaseModel]]] = {
    "split": [Split],
    "range": [Range],
    "sampling": [Every, Cusum, AtTimes],
    "tapes": [TapeOf],
    "features": [FeatureSpec],
    "labels": [FeatureSpec],
}
"""The parts whose fields a fault may name, by the field that holds them."""


@dataclass(frozen=True, slots=True)
class KnownTape:
    """What resolving needs to know of a tape."""

    id: str
    name: str
    content_sha256: str
    symbols: tuple[str, ...]
    days: tuple[str, ...]
    calendar: str
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Resolved:
    """A spec with nothing left to look up, as the event keeps it."""

    spec: dict[str, Any]
    digest: str
    tapes: list[str]


def parse(content: Mapping[str, Any]) -> AssetSpec:
    """The spec that a user wrote, its form checked.

    Raises
    ------
    TapelineError
        `spec_too_large`, or `invalid` with every fault.
    """
    text = json.dumps(content, default=str)
    if len(text) > MAX_BYTES:
        raise TapelineError(
            f"the spec has {len(text)} bytes, the limit is {MAX_BYTES}",
            code="spec_too_large",
            hint="name fewer features",
        )
    try:
        return AssetSpec.model_validate(content)
    except pydantic.ValidationError as error:
        faults = [_fault(each, content) for each in error.errors(include_url=False)]
        first = faults[0]
        raise TapelineError(
            f"{first['pointer'] or 'spec'}: {first['message']}",
            code="invalid",
            hint=first["hint"],
            data={"errors": faults},
        ) from error


def _fault(error: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    # pydantic puts the tried member of a union into the place; only steps that exist in the user's JSON count.
    path: list[str | int] = []
    here: Any = content
    for n, step in enumerate(error["loc"], 1):
        is_missing = error["type"] == "missing" and n == len(error["loc"])
        if isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
        elif isinstance(here, Mapping) and (step in here or is_missing):
            here = here.get(step)
        else:
            continue
        path.append(step)
    holder = next((step for step in path[-2::-1] if isinstance(step, str)), "") if len(path) > 1 else ""
    parts = _PARTS.get(holder, [AssetSpec])
    known = {field.alias or name for part in parts for name, field in part.model_fields.items()}
    message, hint = sentence(error, "field", known)
    if error["type"] == "union_tag_invalid":
        path.append("kind")
    return {
        "path": path,
        "pointer": "".join(f"/{step}" for step in path),
        "message": message,
        "value": repr(error.get("input"))[:200],
        "hint": hint,
    }


def resolve(
    asked: AssetSpec,
    tapes: Sequence[KnownTape],
    components: Registry,
    saved: Mapping[str, Mapping[str, Any]] | None = None,
) -> Resolved:
    """The spec with every name looked up.

    Parameters
    ----------
    tapes : the team's tapes that the spec names, and others for near matches
    saved : the team's features and labels by name

    Raises
    ------
    TapelineError
        `unknown_tape`, `unknown_feature`, `unknown_label`, `unknown_component`, `duplicate_name`,
        `empty_range`, `too_few_sessions`, `unsupported`, `invalid`; each names its field as a JSON pointer.
    """
    if asked.dtype != "float32":
        raise refusal("unsupported", "/dtype", "features are stored as float32", "leave dtype out", asked.dtype)
    if asked.layout == "indexed" and asked.missing != "drop":
        message = f"windows of bars with missing: {asked.missing} are no longer the bars of a grid"
        raise refusal("unsupported", "/layout", message, "use auto, or missing: drop", asked.layout)
    chosen = _tapes(asked, tapes)
    calendar = _calendar(asked, chosen)
    days = _days(asked, chosen)
    known: Known = {**BUILT_IN, **(saved or {})}
    features = looked_up(asked.features, "feature", components, known)
    # A label may read a feature of the asset by its name.
    known = {**known, **{feature.name: feature.to_spec() for feature in features}}
    labels = looked_up(asked.labels, "label", components, known)
    _check_names([*features, *labels], len(features))
    _check_split(asked.split, days)
    spec = {
        "schema": SCHEMA,
        "tapes": [
            {"tape": tape.id, "content_sha256": tape.content_sha256, "symbols": list(symbols)}
            for tape, symbols in chosen
        ],
        "calendar": calendar,
        "view": asked.view,
        "range": {"from": days[0], "to": days[-1]},
        "sampling": asked.sampling.model_dump(mode="json"),
        "features": [instance.to_spec() for instance in features],
        "labels": [instance.to_spec() for instance in labels],
        "split": {
            "test_fraction": asked.split.test_fraction,
            "validation_fraction": asked.split.validation_fraction,
            "test_from": asked.split.test_from.isoformat() if asked.split.test_from else None,
            "embargo_ns": embargo_ns(asked.split.embargo, labels),
        },
        "layout": _layout(asked, features),
        "dtype": "float32",
        "missing": asked.missing,
        "uniqueness": asked.uniqueness,
    }
    if asked.allow_lookahead:
        # Only where it is so: the digest of a causal asset does not depend on it.
        spec["allow_lookahead"] = True
    return Resolved(spec, hashlib.sha256(canonical_json(spec)).hexdigest(), [tape.id for tape, _ in chosen])


def _layout(asked: AssetSpec, features: Sequence[Instance]) -> str:
    """`indexed` where windows of bars are stored as places in a grid; other features always hold their values."""
    has_windows = any(each.component.windows is not None for each in features)
    return "indexed" if has_windows and asked.layout != "materialised" and asked.missing == "drop" else "materialised"


def asset_name(asked: AssetSpec, now_ms: int) -> str:
    """The name that was asked for, or `schema_<milliseconds>`."""
    name = asked.name or f"schema_{now_ms}"
    if not is_slug(name):
        raise refusal(
            "invalid",
            "/name",
            f"{name[:80]!r} cannot be part of a file name",
            "use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit",
            name,
        )
    return name


def _tapes(asked: AssetSpec, tapes: Sequence[KnownTape]) -> list[tuple[KnownTape, tuple[str, ...]]]:
    chosen: list[tuple[KnownTape, tuple[str, ...]]] = []
    seen: set[str] = set()
    for i, item in enumerate(asked.tapes):
        wanted = TapeOf(tape=item) if isinstance(item, str) else item
        pointer = f"/tapes/{i}" if isinstance(item, str) else f"/tapes/{i}/tape"
        tape = next((tape for tape in tapes if wanted.tape in (tape.name, tape.id)), None)
        if tape is None:
            hint = near(wanted.tape, [tape.name for tape in tapes]) or "tapeline tape ls"
            raise refusal("unknown_tape", pointer, f"there is no tape {wanted.tape!r}", hint, wanted.tape)
        for j, symbol in enumerate(wanted.symbols or []):
            if symbol not in tape.symbols:
                hint = near(symbol, tape.symbols) or f"its symbols are {', '.join(tape.symbols[:8])}"
                message = f"tape {tape.name!r} has no symbol {symbol!r}"
                raise refusal("unknown_tape", f"/tapes/{i}/symbols/{j}", message, hint, symbol)
        symbols = tuple(sorted(wanted.symbols or tape.symbols))
        for symbol in symbols:
            if symbol in seen:
                raise refusal("duplicate_name", f"/tapes/{i}", f"symbol {symbol!r} is named twice", "name it once")
            seen.add(symbol)
        chosen.append((tape, symbols))
    return chosen


def _calendar(asked: AssetSpec, chosen: Sequence[tuple[KnownTape, tuple[str, ...]]]) -> str:
    found = sorted({tape.calendar for tape, _ in chosen})
    if len(found) > 1:
        raise refusal(
            "invalid", "/tapes", f"the tapes have different calendars: {', '.join(found)}", "build an asset of each"
        )
    if asked.calendar is not None and asked.calendar != found[0]:
        raise refusal(
            "invalid", "/calendar", f"the tapes have calendar {found[0]!r}", f"use {found[0]!r}", asked.calendar
        )
    return found[0]


def _days(asked: AssetSpec, chosen: Sequence[tuple[KnownTape, tuple[str, ...]]]) -> list[str]:
    every = sorted({day for tape, _ in chosen for day in tape.days})
    first = asked.range.from_.isoformat() if asked.range.from_ else ""
    last = asked.range.to.isoformat() if asked.range.to else "9999"
    days = [day for day in every if first <= day <= last]
    if not days:
        have = f"the tapes have {every[0]} to {every[-1]}" if every else "the tapes have no days"
        raise refusal("empty_range", "/range", f"no trade date lies in {first or '...'} to {last}", have)
    return days


def _check_split(split: Split, days: Sequence[str]) -> None:
    has_test = split.test_from is not None or split.test_fraction > 0
    if has_test and len(days) < 3:
        raise refusal(
            "too_few_sessions",
            "/split",
            f"{len(days)} sessions cannot be split into train and test",
            "use a longer range, or test_fraction 0",
        )
    if split.test_from is not None and not days[0] < split.test_from.isoformat() <= days[-1]:
        raise refusal(
            "empty_range",
            "/split/test_from",
            f"{split.test_from} leaves no train or no test sessions",
            f"use a date after {days[0]} and up to {days[-1]}",
        )


def _check_names(instances: Sequence[Instance], n_features: int) -> None:
    seen: set[str] = set()
    for i, instance in enumerate(instances):
        pointer = f"/features/{i}" if i < n_features else f"/labels/{i - n_features}"
        if instance.name in seen:
            raise refusal(
                "duplicate_name",
                pointer,
                f"the name {instance.name!r} stands twice",
                "give each its own",
                instance.name,
            )
        seen.add(instance.name)


def embargo_ns(embargo: str, labels: Sequence[Instance]) -> int:
    """The embargo as a time; `auto` is the largest horizon of a label."""
    if embargo != "auto":
        try:
            return duration_ns(embargo)
        except TapelineError as error:
            raise refusal("invalid", "/split/embargo", error.message, "write auto, 300s, 5 min or 1 day") from error
    horizons = [label.params for label in labels if isinstance(label.params, LabelParams)]
    for params in horizons:
        if params.unit == "tick":
            raise refusal(
                "invalid",
                "/split/embargo",
                "a horizon of ticks has no length in time for auto to take",
                "write an embargo such as 300s, 5 min or 1 day",
                embargo,
            )
    return max((params.horizon_ns for params in horizons), default=0)
