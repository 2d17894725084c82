"""What a service answers to good and to bad requests, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tapeline.bus import Verbs, answer, answered, unknown
from tapeline.clock import FakeClock
from tapeline.contracts.message import Answer
from tapeline.contracts.runs import GetRun, RunView, StopRun
from tapeline.errors import TapelineError
from tapeline.subjects import Principal

SUBJECT = "gw.contoso.ann.runs.get"


@pytest.fixture
def verbs() -> Verbs:
    verbs = Verbs("runs")

    @verbs.user("get")
    async def get(caller: Principal, query: GetRun) -> Answer[RunView]:
        if query.run == "missing":
            raise TapelineError("no run is named missing", code="not_found", hint="tapeline run ls")
        if query.run == "bug":
            raise ZeroDivisionError
        return answered(RunView(id=query.run, name=f"of {caller.team}"), 7, "log")

    @verbs.user("stop")
    async def stop(caller: Principal, command: StopRun) -> Answer[RunView]:
        return answered(RunView(id=command.command_id, created_at=command.at), 0, "log")

    return verbs


async def ask(verbs: Verbs, body: Any, subject: str = SUBJECT, headers: dict[str, str] | None = None) -> dict[str, Any]:
    verb = next(verb for verb in verbs if verb.name == subject.rsplit(".", 1)[-1])
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply: dict[str, Any] = json.loads(await answer(verb, subject, raw, headers or {}, FakeClock()))
    return reply


async def test_the_team_comes_from_the_subject(verbs: Verbs) -> None:
    reply = await ask(verbs, {"run": "7"})
    assert (reply["view"]["name"], reply["position"], reply["log_id"]) == ("of contoso", 7, "log")


async def test_a_refusal_is_a_reply_with_code_sentence_and_hint(verbs: Verbs) -> None:
    error = (await ask(verbs, {"run": "missing"}))["error"]
    assert (error["code"], error["status"], error["hint"]) == ("not_found", 404, "tapeline run ls")


def test_a_verb_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    error = json.loads(unknown("runs", "gw.contoso.ann.runs.gett", ["get", "stop"]))["error"]
    assert (error["code"], error["message"], error["hint"]) == (
        "unsupported",
        "runs has no verb 'gett'",
        "did you mean get?",
    )
    assert json.loads(unknown("runs", "gw.contoso.ann.runs.x", ["get", "stop"]))["error"]["hint"] == (
        "its verbs are get, stop"
    )


async def test_a_defect_is_answered_with_a_reference_and_no_traceback(verbs: Verbs) -> None:
    error = (await ask(verbs, {"run": "bug"}))["error"]
    assert error["code"] == "internal"
    assert "reference" in error["message"]
    assert "Traceback" not in json.dumps(error)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"not json", "body"),
        ({}, "run"),
        ({"run": 7}, "run"),
        ({"run": "7", "extra": 1}, "extra"),
        (b"[" * 200_000, ""),
    ],
)
async def test_a_body_that_is_no_such_request_is_answered_invalid(verbs: Verbs, body: Any, place: str) -> None:
    error = (await ask(verbs, body))["error"]
    assert error["code"] == "invalid"
    assert place in error["message"]
    assert error["data"]["errors"]


async def test_a_huge_body_is_refused_before_it_is_read(verbs: Verbs) -> None:
    assert (await ask(verbs, b" " * 800_000))["error"]["code"] == "too_large"


async def test_the_time_of_a_command_is_the_services_own(verbs: Verbs) -> None:
    reply = await ask(verbs, {"run": "7", "at": "1999-01-01T00:00:00Z"}, "gw.contoso.ann.runs.stop")
    assert reply["view"]["created_at"].startswith("2026-01-01")
    assert reply["view"]["id"]


async def test_a_request_of_a_foreign_account_is_refused(verbs: Verbs) -> None:
    foreign = {"Nats-Request-Info": json.dumps({"acc": "T_fabrikam"})}
    own = {"Nats-Request-Info": json.dumps({"acc": "T_contoso"})}
    assert (await ask(verbs, {"run": "7"}, headers=foreign))["error"]["code"] == "forbidden"
    assert "view" in await ask(verbs, {"run": "7"}, headers=own)


def test_a_verb_without_a_contract_does_not_register() -> None:
    verbs = Verbs("runs")

    async def bare(caller, query):  # type: ignore[no-untyped-def]
        return query

    with pytest.raises(TypeError, match="no contract"):
        verbs.user("get")(bare)
