"""The blueprints that come with this version: `canvas` and `selftest`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from tapeline.contracts.runs import BlueprintView
from tapeline.ids import derived_id

CREATED_US = 1_767_225_600_000_000
"""When the bundled blueprints came to be, in microseconds: they are older than any run."""


@lru_cache(maxsize=1024)
def blueprint_id(team: str | None, name: str, version: str) -> str:
    """The id of a blueprint, which its name and version tell; None for one that every team has."""
    return derived_id("blueprint", *([team] if team else []), name, version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A kind of training; one without a team comes with this version."""

    name: str
    version: str
    config_schema: dict[str, Any]
    team: str | None = None
    entrypoint: str | None = None
    created_at: datetime | None = None

    @property
    def id(self) -> str:
        return blueprint_id(self.team, self.name, self.version)

    def view(self) -> BlueprintView:
        return BlueprintView(
            id=self.id,
            name=self.name,
            version=self.version,
            config_schema=self.config_schema,
            entrypoint=self.entrypoint,
            created_at=self.created_at,
        )


_COUNT_OR_NULL: dict[str, Any] = {"type": ["integer", "null"], "minimum": 1}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties} | more


_LIMITS: dict[str, Any] = {
    "max_restarts": {"type": "integer", "minimum": 0, "maximum": 20, "default": 2},
    "max_seconds": {"type": ["number", "null"], "exclusiveMinimum": 0, "default": None},
    "queue_timeout_s": {"type": ["number", "null"], "exclusiveMinimum": 0, "default": None},
    "stall_timeout_s": {"type": "number", "exclusiveMinimum": 0, "default": 600},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 0},
}

CANVAS = Blueprint(
    name="canvas",
    version="1.0.0",
    config_schema=_object(
        {
            "canvas": {
                "type": ["string", "object"],
                "description": "The name of a stored canvas, or a tapeline.canvas/1 document.",
            },
            "asset": {"type": "string", "minLength": 1, "maxLength": 255},
            "epochs": {"type": "integer", "minimum": 1, "maximum": 100_000, "default": 10},
            "batch_size": {"type": "integer", "minimum": 1, "maximum": 1_048_576, "default": 1024},
            "optimizer": _object(
                {
                    "name": {"enum": ["adam", "sgd", "rmsprop", "adamw", "nadam", "lion"], "default": "adam"},
                    "learning_rate": {"type": "number", "exclusiveMinimum": 0, "default": 0.001},
                    "clipnorm": {"type": ["number", "null"], "exclusiveMinimum": 0, "default": None},
                    "weight_decay": {"type": ["number", "null"], "minimum": 0, "default": None},
                },
                default={},
            ),
            "schedule": {"enum": ["constant", "cosine", "exponential", "warmup_cosine"], "default": "constant"},
            "backend": {"enum": ["auto", "tensorflow", "jax", "torch"], "default": "auto"},
            "dtype": {"enum": ["float32", "mixed_bfloat16", "mixed_float16"], "default": "float32"},
            "jit": {"enum": ["auto", True, False], "default": "auto"},
            "devices": {"type": "integer", "minimum": 1, "maximum": 64, "default": 1},
            "metrics_every": {"type": "integer", "minimum": 1, "default": 64},
            "checkpoint": _object(
                {
                    "every_seconds": {"type": ["number", "null"], "exclusiveMinimum": 0, "default": 60},
                    "every_steps": {**_COUNT_OR_NULL, "default": None},
                    "every_epochs": {**_COUNT_OR_NULL, "default": 1},
                },
                default={},
            ),
            "retention": _object(
                {
                    "last": {"type": "integer", "minimum": 1, "default": 2},
                    "best": {"type": "integer", "minimum": 0, "default": 1},
                    "monitor": {"type": "string", "default": "auto"},
                    "mode": {"enum": ["auto", "min", "max"], "default": "auto"},
                    "every_steps": {**_COUNT_OR_NULL, "default": None},
                    "epochs": {"type": "integer", "minimum": 0, "default": 10},
                },
                default={},
            ),
            "smartfit": {
                "anyOf": [
                    {"type": "boolean"},
                    _object(
                        {
                            "patience": {"type": "integer", "minimum": 1, "default": 3},
                            "min_delta": {"type": "number", "minimum": 0, "default": 1e-4},
                            "factor": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.5},
                            "floor": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.001},
                            "stop_after": {"type": "integer", "minimum": 1, "default": 10},
                        }
                    ),
                ],
                "default": False,
            },
            "early_stopping": {
                "anyOf": [
                    {"type": "null"},
                    _object(
                        {
                            "monitor": {"type": "string", "default": "val/loss"},
                            "patience": {"type": "integer", "minimum": 0, "default": 5},
                            "min_delta": {"type": "number", "minimum": 0, "default": 0},
                        }
                    ),
                ],
                "default": None,
            },
            "init_from": {"type": ["string", "object", "null"], "default": None},
            "steps_per_execution": {
                "anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 1024}],
                "default": "auto",
            },
            "deterministic": {"type": "boolean", "default": True},
            "require_exact": {"type": "boolean", "default": False},
            "acknowledge_lookahead": {"type": "boolean", "default": False},
            "allow_stale": {"type": "boolean", "default": True},
            "validation": {"type": "boolean", "default": True},
            "stop_on_nan": {"type": "boolean", "default": True},
            **_LIMITS,
        },
        required=["canvas", "asset"],
    ),
)

SELFTEST = Blueprint(
    name="selftest",
    version="1.0.0",
    config_schema=_object(
        {
            "steps": {"type": "integer", "minimum": 0, "maximum": 10_000_000, "default": 10},
            "step_s": {"type": "number", "minimum": 0, "maximum": 3600, "default": 0.0},
            "fail_at": {"type": ["integer", "null"], "minimum": 0, "default": None},
            "checkpoint_every": {**_COUNT_OR_NULL, "default": None},
            "metrics": {"type": "boolean", "default": True},
            "ignore_stop": {"type": "boolean", "default": False},
            "allocate_mb": {"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 0},
            **_LIMITS,
        }
    ),
)

ATTACHED = Blueprint(name="attached", version="1.0.0", config_schema={"type": "object"})
"""What a user's own process trains; its config is whatever the script says of itself."""

BUNDLED = (CANVAS, SELFTEST, ATTACHED)
RESERVED = frozenset(one.name for one in BUNDLED)
"""Names that no team may take."""
