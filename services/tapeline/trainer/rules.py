"""Rules of training between epochs and steps: schedules, early stopping, smartfit. Pure; state is JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

SMARTFIT = {"patience": 3, "min_delta": 1e-4, "factor": 0.5, "floor": 1e-3, "stop_after": 10}
"""The numbers of `smartfit: true`."""


def scheduled(schedule: Mapping[str, Any] | str, base: float, step: int, total: int) -> float:
    """The learning rate of a step.

    Parameters
    ----------
    schedule : mapping or str
        `constant`, `cosine`, `exponential` or `warmup_cosine`, or a mapping with that `name`; `final` is
        the share of the base rate at the end (default 0 for cosine, 0.01 for exponential), `warmup` the
        share of the steps that rise (default 0.05).
    base : float
        The rate of the optimizer's config.
    step, total : int
        Steps done before this one, and of the whole run.

    Examples
    --------
    >>> scheduled("cosine", 1.0, 50, 100)
    0.5
    """
    rule: Mapping[str, Any] = {"name": schedule} if isinstance(schedule, str) else schedule
    done = min(1.0, step / max(1, total))
    match rule.get("name", "constant"):
        case "cosine":
            return _cosine(base, float(rule.get("final", 0.0)), done)
        case "exponential":
            return base * math.pow(float(rule.get("final", 0.01)), done)
        case "warmup_cosine":
            warmup = float(rule.get("warmup", 0.05))
            if done < warmup:
                return base * (step + 1) / max(1.0, warmup * total)
            return _cosine(base, float(rule.get("final", 0.0)), (done - warmup) / max(1e-12, 1 - warmup))
        case _:
            return base


def _cosine(base: float, final: float, done: float) -> float:
    return base * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(slots=True)
class Patience:
    """Counts epochs without an improvement; decides on lowering the rate and on the end.

    The rate is multiplied by `lower_by` after each `lower_after` such epochs, down to the share `floor`; with
    `lower_after` 0 it stays. `is_relative` measures an improvement against the best value.
    """

    stop_after: int
    min_delta: float
    lower_after: int = 0
    lower_by: float = 0.5
    floor: float = 0.0
    is_relative: bool = False
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    since_lowered: int = 0
    factor: float = 1.0

    @classmethod
    def early_stopping(cls, config: Mapping[str, Any]) -> Self:
        """Of the config key `early_stopping`: `{monitor, patience, min_delta}`."""
        return cls(stop_after=int(config.get("patience", 5)), min_delta=float(config.get("min_delta", 0.0)))

    @classmethod
    def smartfit(cls, config: Mapping[str, Any] | bool) -> Self:
        """Of the config key `smartfit`: true, or an object with its numbers."""
        numbers = SMARTFIT | (dict(config) if isinstance(config, Mapping) else {})
        return cls(
            stop_after=int(numbers["stop_after"]),
            min_delta=float(numbers["min_delta"]),
            lower_after=int(numbers["patience"]),
            lower_by=float(numbers["factor"]),
            floor=float(numbers["floor"]),
            is_relative=True,
        )

    def epoch(self, value: float, number: int) -> bool:
        """Take the value of an epoch (smaller is better); whether it is the best so far."""
        margin = 0.0 if self.best is None else self.min_delta * (abs(self.best) if self.is_relative else 1.0)
        if math.isfinite(value) and (self.best is None or value < self.best - margin):
            self.best, self.best_epoch, self.waited, self.since_lowered = value, number, 0, 0
            return True
        self.waited += 1
        self.since_lowered += 1
        if self.lower_after and self.since_lowered >= self.lower_after:
            self.factor = max(self.floor, self.factor * self.lower_by)
            self.since_lowered = 0
        return False

    @property
    def is_over(self) -> bool:
        """Whether training ends here."""
        return self.waited >= max(1, self.stop_after)

    def get_state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return asdict(self)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` gave."""
        for name, value in state.items():
            setattr(self, name, value)
