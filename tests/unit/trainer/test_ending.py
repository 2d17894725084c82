"""How an attempt ended, from what was said, how the process ended, and who wanted it to."""

from __future__ import annotations

from typing import Any

import pytest

from tapeline.trainer.ending import Facts, decide

STOPPED = {"global_step": 9, "training_epochs": 0, "stopped": True, "stopped_early": False, "best": None}
DONE = {"global_step": 9, "training_epochs": 1, "stopped": False, "stopped_early": False, "best": None}
FAILED = {"type": "ValueError", "message": "no", "reason": "exit_code", "traceback": "..."}


@pytest.mark.parametrize(
    ("facts", "exit_code", "kind", "data"),
    [
        ({"done": DONE}, 0, "completed", {"global_step": 9, "exit_code": 0}),
        ({"done": DONE, "stop_reason": "user"}, 0, "completed", {"global_step": 9}),
        ({"done": STOPPED, "stop_reason": "pause"}, 0, "terminated", {"forced": False, "reason": "pause"}),
        ({"done": STOPPED, "stop_reason": "agent_shutdown"}, 0, "failed", {"reason": "agent_shutdown"}),
        ({"killed": "grace", "stop_reason": "user"}, -9, "terminated", {"forced": True, "exit_code": 137, "signal": 9}),
        ({"killed": "grace", "stop_reason": "user"}, -15, "terminated", {"forced": True, "exit_code": 137}),
        ({"killed": "grace", "stop_reason": "agent_shutdown"}, -9, "failed", {"reason": "agent_shutdown"}),
        ({"killed": "stalled"}, -9, "failed", {"reason": "stalled"}),
        ({"killed": "start_timeout"}, -9, "failed", {"reason": "start_timeout"}),
        ({}, -11, "failed", {"reason": "signal", "signal": 11}),
        ({}, 3, "failed", {"reason": "exit_code", "exit_code": 3}),
        ({}, 0, "failed", {"reason": "exit_code"}),
        ({"failed": FAILED}, 1, "failed", {"reason": "exit_code", "message": "ValueError: no"}),
        ({"failed": FAILED | {"reason": "nan_loss"}}, 1, "failed", {"reason": "nan_loss"}),
        ({"protocol": "protocol: nonsense"}, -9, "failed", {"reason": "exit_code", "message": "protocol: nonsense"}),
        ({"done": STOPPED, "stop_reason": "user", "last_step": 9}, 0, "terminated", {"last_step": 9}),
    ],
)  # fmt: skip
def test_an_attempt_ends_with_its_typed_reason(
    facts: dict[str, Any], exit_code: int, kind: str, data: dict[str, Any]
) -> None:
    end = decide(Facts(**facts), exit_code, "last words")
    assert end.kind == kind
    assert {name: end.data[name] for name in data} == data
