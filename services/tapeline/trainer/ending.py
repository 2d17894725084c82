"""How an attempt ended, decided from what the child said, how its process ended, and who wanted it to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tapeline.contracts.agents import ReportKind
from tapeline.errors import TapelineError

Killed = Literal["lease_lost", "start_timeout", "stalled", "grace"]


@dataclass(slots=True)
class Facts:
    """What is known of one attempt so far."""

    has_started: bool = False
    last_step: int | None = None
    done: dict[str, Any] | None = None
    failed: dict[str, Any] | None = None
    protocol: str | None = None
    killed: Killed | None = None
    stop_reason: str | None = None
    kept_checkpoint: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The report that ends an attempt."""

    kind: ReportKind
    data: dict[str, Any]

    def brief(self) -> dict[str, Any]:
        """The fields worth a log line."""
        return {name: self.data[name] for name in ("reason", "forced", "exit_code", "signal") if name in self.data}


def of_error(error: TapelineError) -> End:
    """The end of an attempt that could not even start."""
    reason = {
        "insufficient_storage": "disk_full", "not_found": "asset_refused", "corrupt": "asset_refused",
    }.get(str(error.code), "exit_code")  # fmt: skip
    return End("failed", {"reason": reason, "message": error.message})


def of_lost() -> End:
    """The end of an attempt whose lease was lost before it started."""
    return End("lease_lost", {})


def decide(facts: Facts, exit_code: int, output: str) -> End:
    """The end of an attempt whose process has ended.

    Parameters
    ----------
    exit_code : int
        Negative for the number of a signal.
    output : str
        The tail of what the child printed; told when it left without a word.
    """
    step = {"last_step": facts.last_step}
    if facts.killed == "grace" and exit_code != 0:
        if facts.stop_reason == "agent_shutdown":
            return _failed("agent_shutdown", "the agent left before the child did", step | {"signal": 9})
        return End(
            "terminated",
            {"forced": True, "reason": facts.stop_reason, "exit_code": 128 + 9, "signal": 9, **step},
        )
    if facts.killed in ("start_timeout", "stalled"):
        why = "the child did not start in time" if facts.killed == "start_timeout" else "the child made no step"
        return _failed(facts.killed, why, step | {"signal": 9})
    if facts.protocol is not None:
        return _failed("exit_code", facts.protocol, step | {"exit_code": 1})
    if facts.failed is not None:
        return _failed(
            str(facts.failed.get("reason") or "exit_code"),
            f"{facts.failed.get('type')}: {facts.failed.get('message')}",
            step | {"exit_code": exit_code, "traceback": facts.failed.get("traceback")},
        )
    if exit_code < 0:
        return _failed("signal", f"the child was ended by signal {-exit_code}", step | {"signal": -exit_code})
    if facts.done is None or exit_code != 0:
        message = f"the child left with exit code {exit_code} and did not say why: {output[-500:]}"
        return _failed("exit_code", message, step | {"exit_code": exit_code})
    if facts.done["stopped"]:
        if facts.stop_reason == "agent_shutdown":
            return _failed("agent_shutdown", "the agent left; the run goes on elsewhere", step | {"exit_code": 0})
        return End(
            "terminated",
            {"forced": False, "reason": facts.stop_reason or "user", "exit_code": 0, **step},
        )
    return End(
        "completed",
        {
            "global_step": facts.done["global_step"],
            "training_epochs": facts.done["training_epochs"],
            "exit_code": 0,
            "stopped_early": facts.done["stopped_early"],
            "best": facts.done["best"],
        },
    )


def _failed(reason: str, message: str, more: dict[str, Any]) -> End:
    return End("failed", {"reason": reason, "message": message} | more)
