"""The client over a real server: retries, outcomes, reading one's own writes, forks and threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tapeline import sdk as tl
from tapeline.errors import CODES, TapelineError
from tapeline.sdk.client import Client
from tapeline.testing.server import NatsServer

RESOURCES = tl.Resources(cpu="1", memory="1Gi")


def _create(**more: Any) -> str:
    return tl.create_run(
        name="first",
        version="1",
        resources=RESOURCES,
        config={},
        task_type="t",
        blueprint_id="b",
        project_id="p",
        **more,
    )


def test_a_command_has_one_effect_whatever_replies_are_lost(service: Any, make_client: Callable[..., Client]) -> None:
    client = make_client(0.1, 20.0)
    client.hello()
    service.drop = 0.3
    for _ in range(40):
        client.command("runs", "stop", run="1")
    assert len(service.effects) == 40
    assert set(service.effects.values()) == {1}
    assert len(service.sent("runs.stop")) > 40


def test_a_command_without_an_answer_says_how_to_repeat_it(service: Any, make_client: Callable[..., Client]) -> None:
    client = make_client(0.2)
    client.hello()
    service.drop = 1.0
    with pytest.raises(tl.OutcomeUnknown) as refused:
        client.command("runs", "stop", run="1")
    command_id = refused.value.command_id
    assert command_id is not None
    assert command_id in str(refused.value)
    service.drop = 0.0
    client.command("runs", "stop", run="1", command_id=command_id)
    assert service.effects == {command_id: 1}


def test_a_query_without_a_service_is_unavailable(service: Any, make_client: Callable[..., Client]) -> None:
    client = make_client(0.1)
    client.hello()
    service.pause()
    with pytest.raises(tl.UnavailableError) as refused:
        client.query("runs", "list")
    assert isinstance(refused.value, ConnectionError)
    assert refused.value.status == 503
    service.start()


def test_a_service_that_comes_back_answers_the_same_call(service: Any, make_client: Callable[..., Client]) -> None:
    client = make_client(2.0)
    client.hello()
    service.pause()
    back = threading.Timer(0.4, service.start)
    back.start()
    client.command("runs", "stop", run="1")
    back.join()
    assert list(service.effects.values()) == [1]


def test_a_query_asks_for_all_that_the_client_has_done(service: Any, client: Client) -> None:
    service.answers["runs.create"] = lambda body: {"id": "r1"}
    service.answers["runs.list"] = lambda body: {"items": []}
    _create()
    tl.get_runs()
    assert service.sent("runs.list")[0]["min_position"] == 2
    assert client.position == 2
    client.wait_for(9)
    tl.get_runs()
    assert service.sent("runs.list")[1]["min_position"] == 9


def test_tables_that_are_behind_are_asked_again(service: Any, client: Client) -> None:
    answers = iter([TapelineError("the view is at 1, asked for 2", code="behind", hint="retry")])

    def answer(body: dict[str, Any]) -> Any:
        if (late := next(answers, None)) is not None:
            raise late
        return {"items": []}

    service.answers["runs.list"] = answer
    assert tl.get_runs() == []
    assert len(service.sent("runs.list")) == 2


@pytest.mark.parametrize("code", sorted(set(CODES) - {"behind", "unavailable"}))
def test_each_code_becomes_its_class(service: Any, client: Client, code: str) -> None:
    def refuse(body: dict[str, Any]) -> Any:
        raise TapelineError("it is so", code=code, hint="do this")

    service.answers["runs.get"] = refuse
    with pytest.raises(CODES[code].kind) as refused:
        tl.Run.from_id("r1")
    assert type(refused.value) is CODES[code].kind
    assert str(refused.value) == f"({CODES[code].status}) {code}: it is so\nHint: do this"
    assert (refused.value.code, refused.value.hint, refused.value.reason) == (code, "do this", code)


def test_a_missing_run_is_a_run_that_does_not_exist(service: Any, client: Client) -> None:
    def refuse(body: dict[str, Any]) -> Any:
        raise TapelineError("no run 9", code="not_found", data={"kind": "run"})

    service.answers["runs.get"] = refuse
    with pytest.raises(tl.RunDoesNotExistError):
        tl.Run.from_id("9")


def test_another_major_version_of_the_contracts_is_refused(service: Any, make_client: Callable[..., Client]) -> None:
    service.contracts = "2.0"
    with pytest.raises(tl.ApiException) as refused:
        make_client().hello()
    assert refused.value.status == 426


def test_many_threads_share_a_client(service: Any, client: Client) -> None:
    service.answers["runs.create"] = lambda body: {"id": body["command_id"]}
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(_create())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(made)) == 16


async def test_a_call_works_within_a_running_loop(service: Any, client: Client) -> None:
    service.answers["runs.list"] = lambda body: {"items": []}
    assert tl.get_runs() == []
    await asyncio.sleep(0)


def test_a_forked_child_makes_its_own_connection(service: Any, client: Client) -> None:
    service.answers["runs.list"] = lambda body: {"items": [{"id": "r1"}]}
    assert [run.id for run in tl.get_runs()] == ["r1"]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, b"same" if [run.id for run in tl.get_runs()] == ["r1"] else b"else")
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 16) == b"same"
    os.waitpid(child, 0)
    os.close(reader)
    assert [run.id for run in tl.get_runs()] == ["r1"]


def test_a_team_without_credentials_is_denied(service: Any, client: Client) -> None:
    with pytest.raises(tl.LitModelError) as refused:
        tl.get_experiments("fabrikam")
    assert isinstance(refused.value.__cause__, tl.PermissionDeniedError)
    assert "tapeline up" in str(refused.value.__cause__) or "team user add" in str(refused.value.__cause__)


def test_a_refused_subject_is_told_at_once(server: NatsServer, tmp_path: Any) -> None:
    from tapeline.home import Home
    from tapeline.sdk.settings import Settings
    from tapeline.security.keys import Credentials, create_key

    key = create_key()
    config = (
        f"authorization {{ users: [ {{ nkey: {key.public}, permissions: "
        '{ publish: ["tl.ann.>"], subscribe: ["_IN.ann.>"] } } ] }\n'
    )
    with NatsServer(config=config) as guarded:
        credentials = Credentials(key, "user", team="contoso", user="bob")
        with Client(Settings(guarded.url, "contoso", "bob", credentials, Home(tmp_path), {}), timeout_s=5.0) as client:
            with pytest.raises(tl.PermissionDeniedError) as refused:
                client.hello()
            assert "tl.bob.runs.hello" in str(refused.value) or "_in.bob" in str(refused.value)
