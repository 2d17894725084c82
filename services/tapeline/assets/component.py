"""What a component of features or labels is: an id, parameters, columns, and the function that computes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tapeline.assets.stack import Stack
from tapeline.assets.view import UNIT_NS, History, Market, Unit, View
from tapeline.errors import TapelineError

Values = NDArray[Any]


class Params(BaseModel):
    """Parameters that every component has: the bars that it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: Unit = "min"
    size: int = Field(default=1, ge=1, le=86_400)

    @property
    def width_ns(self) -> int:
        """How long a bar is.

        Raises
        ------
        TapelineError
            `invalid` for ticks, which last as long as they last.
        """
        if self.unit == "tick":
            raise TapelineError(
                f"a bar of {self.size} tick has no length in time", code="invalid", hint="give a number of bars"
            )
        return UNIT_NS[self.unit] * self.size


class FeatureParams(Params):
    """Parameters that every feature has; `shift` looks that many bars further back."""

    shift: int = Field(default=0, ge=0, le=100_000)


class LabelParams(Params):
    """Parameters that every label has.

    `entry_delay` bars pass before the first price that counts: the close that made the signal cannot be
    traded. `horizon` is a number of bars, or a time such as `300s` or `5 min` that is a whole number of bars.
    A window that leaves its session is no sample, unless `cross_session`.
    """

    entry_delay: int = Field(default=1, ge=0, le=100_000)
    horizon: int | str = 5
    cross_session: bool = False

    @property
    def horizon_bars(self) -> int:
        """The horizon in bars.

        Raises
        ------
        TapelineError
            `invalid` for a text that is no time, or no whole number of bars.
        """
        if isinstance(self.horizon, int):
            bars = self.horizon
        else:
            width = duration_ns(self.horizon)
            if width % self.width_ns:
                raise TapelineError(
                    f"horizon {self.horizon!r} is no whole number of bars of {self.size} {self.unit}",
                    code="invalid",
                    hint="use bars of a size that divides it",
                )
            bars = width // self.width_ns
        if not 1 <= bars <= 100_000:
            raise TapelineError(
                f"horizon {self.horizon!r} is {bars} bars", code="invalid", hint="use 1 to 100,000 bars"
            )
        return bars

    @property
    def horizon_ns(self) -> int:
        """The horizon as a time, delay not counted; `invalid` for ticks."""
        return self.horizon_bars * self.width_ns


class FeatureSpec(BaseModel):
    """A feature or label spelled out: a component with parameters, under a name of free text.

    The name is never parsed; what it means is in the spec.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    component: str = Field(max_length=64)
    component_version: int | None = None
    params: dict[str, Any] = Field(default_factory=dict)


_DURATION = re.compile(r"([0-9]{1,9})\s*(s|sec|min|m|h|hour|day)")
_DURATION_NS = {"s": "sec", "m": "min", "h": "hour"}


def duration_ns(text: str) -> int:
    """The nanoseconds of `300s`, `5 min`, `2 hour` or `1 day`.

    Raises
    ------
    TapelineError
        `invalid` for anything else.

    Examples
    --------
    >>> duration_ns("300s") == duration_ns("5 min")
    True
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise TapelineError(
            f"{text[:80]!r} is no length of time", code="invalid", hint="write 300s, 5 min, 2 hour, 1 day"
        )
    unit = _DURATION_NS.get(found[2], found[2])
    return int(found[1]) * UNIT_NS[unit]


@dataclass(frozen=True, slots=True)
class Columns:
    """The shape of one sample, and the names and types of what lies on its last axis."""

    shape: tuple[int, ...]
    names: tuple[str, ...]
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of bars as positions in a grid: what an indexed data set stores instead of the bars.

    `past` is int64, shape (n,): the grid row one past the newest bar of each window.
    """

    unit: Unit
    size: int
    past: NDArray[Any]
    count: int
    norm: str


def _nothing(params: Any) -> None:
    """No such need."""


@dataclass(frozen=True, slots=True)
class Component:
    """A formula with a name and a version.

    Attributes
    ----------
    warmup_bars : bars before a sample's time that the formula needs, `shift` not counted
    columns : names, types and the shape of one sample
    compute : features give float64 or float32, shape (n, *shape), NaN where there is no value; labels give
        float64, shape (n, columns), int64 ns, shape (n,), the end of the last bar read (-1: no sample), and
        as a third value, if they like, the weight of each sample
    windows : for components whose samples are windows of bars, where the windows lie
    doc : the formula in one line
    sessions : for formulas that read whole sessions, how many before that of the newest bar; else None
    fit : for formulas with numbers of the train sessions: gives those of a market that ends with them, or None
        when the parameters need none; `compute` finds them in `view.given["fitted"]`
    inputs : features that the formula reads; `compute` finds their values in `view.given` by the same keys
    stacks : whether a stack of views gives each sample what its own view gives, to the bit: true of formulas that take
        the rows of `view.past` and `view.reaches` as they are; others are given one view after another
    """

    id: str
    kind: Literal["feature", "label"]
    version: int
    params: type[Params]
    warmup_bars: Callable[[Any], int]
    columns: Callable[[Any], Columns]
    compute: Callable[[View, Any], Any]
    doc: str
    windows: Callable[[View, Any], Windows] | None = None
    sessions: Callable[[Any], int | None] = _nothing
    fit: Callable[[Market, Any], NDArray[Any] | None] | None = None
    inputs: Callable[[Any], Mapping[str, FeatureSpec] | None] = _nothing
    stacks: bool = False


@dataclass(frozen=True)
class Instance:
    """A component with its parameters under the name that a user gave it.

    Attributes
    ----------
    fitted : by symbol, what `fit` found
    inputs : the features that it reads, by the component's keys
    """

    name: str
    component: Component
    params: Params
    fitted: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    inputs: Mapping[str, Instance] = field(default_factory=dict)

    @cached_property
    def warmup_bars(self) -> int:
        """Bars that must lie before a sample's time."""
        own = self.component.warmup_bars(self.params) + int(getattr(self.params, "shift", 0))
        return max([own, *(each.warmup_bars for each in self.inputs.values() if self._shares_bars(each))])

    def _shares_bars(self, other: Instance) -> bool:
        return (self.params.unit, self.params.size) == (other.params.unit, other.params.size)

    @cached_property
    def history(self) -> History:
        """How much of the past the formula needs for one sample."""
        shift = int(getattr(self.params, "shift", 0))
        return History(self.warmup_bars, self.component.sessions(self.params), shift)

    @cached_property
    def columns(self) -> Columns:
        """Names, types and the shape of one sample."""
        return self.component.columns(self.params)

    def fit(self, markets: Mapping[str, Market]) -> Instance:
        """The instance with the numbers of the train sessions, of markets by symbol that end with them."""
        if self.component.fit is None:
            return self
        found = {symbol: self.component.fit(market, self.params) for symbol, market in markets.items()}
        return replace(self, fitted={symbol: values for symbol, values in found.items() if values is not None})

    def compute(self, view: View) -> Any:
        """What the component gives for the view's samples; of a stack, for those of each view by itself."""
        if isinstance(view, Stack) and not (self.component.stacks and self._has_history(view)):
            return view.joined([self.compute(each) for each in view.alone()])
        given: dict[str, Any] = {
            key: each.compute(view.seen(view.history or each.history)) for key, each in self.inputs.items()
        }
        if self.fitted:
            given["fitted"] = self.fitted[view.market.symbol]
        ahead = view.ahead or self.component.kind == "label"
        return self.component.compute(view.seen(view.history, ahead=ahead, given=given), self.params)

    def _has_history(self, view: View) -> bool:
        """Whether no sample lacks bars: only then no formula reads beyond the rows of the sample's own market."""
        depth = view.depth(self.params.unit, self.params.size)
        return len(depth) == 0 or int(depth.min()) >= self.warmup_bars

    def to_spec(self) -> dict[str, Any]:
        """The full spec: nothing in it has a default left to look up."""
        return {
            "name": self.name,
            "component": self.component.id,
            "component_version": self.component.version,
            "params": self.params.model_dump(mode="json"),
        }
