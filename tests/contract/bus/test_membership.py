"""Teams, users and agents come and go while the server runs."""

import asyncio

import psutil
import pytest
from nats.errors import Error as NatsError

from tapeline import teams
from tapeline.connection import connect
from tapeline.errors import TapelineError
from tapeline.home import hold, read_json, write_json
from tapeline.security.accounts import load_accounts
from tapeline.security.keys import read_credentials
from tapeline.server_monitor import is_healthy, syncs_always, varz


@pytest.fixture
def running(bus):
    """The bus as the supervisor would keep it: held, with its ports and the server's pid on record."""
    ports = read_json(bus.home.run / f"nats-server_{bus.process.pid}.ports")
    created = psutil.Process(bus.process.pid).create_time()
    monitor = int(ports["monitoring"][0].rsplit(":", 1)[1])
    write_json(bus.home.server_file, {"pid": bus.process.pid, "created": created, "monitor_port": monitor})
    held = hold(bus.home)
    yield bus
    held.release()


async def change(function, *arguments, **more):
    """A change as the command line makes it: from outside the event loop."""
    return await asyncio.to_thread(function, *arguments, **more)


async def test_a_new_user_of_a_new_team_signs_in_at_once(running, tmp_path):
    await change(teams.add_team, running.home, "fabrikam")
    made = await change(teams.add_user, running.home, "fabrikam", "joe", tmp_path / "joe.nk", server=running.url)
    read = read_credentials(tmp_path / "joe.nk")
    assert (read.team, read.user, read.server) == ("fabrikam", "joe", running.url)
    client, runs = await connect(made, running.url, name="joe"), await running.connect("svc-runs")

    async def answer(message):
        await message.respond(message.subject.encode())

    await runs.subscribe("gw.*.*.runs.hello", cb=answer)
    await runs.settle()
    assert (await client.request("tl.joe.runs.hello", b"", timeout=5)).data == b"gw.fabrikam.joe.runs.hello"
    await client.close()
    await runs.close()


async def test_a_revoked_user_is_cut_and_nobody_else(running, tmp_path):
    made = await change(teams.add_user, running.home, "main", "tim", tmp_path / "tim.nk")
    cut = asyncio.Event()

    async def closed():
        cut.set()

    tim = await connect(made, running.url, name="tim", on_close=closed, on_disconnect=closed)
    lost = asyncio.Event()

    async def disconnected():
        lost.set()

    me = await running.connect("me", on_disconnect=disconnected)
    runs = await running.connect("svc-runs", on_disconnect=disconnected)
    await change(teams.revoke_user, running.home, "main", "tim")
    await asyncio.wait_for(cut.wait(), 2)
    await me.flush()
    await runs.flush()
    assert not lost.is_set()
    with pytest.raises(TapelineError) as refused:
        await connect(made, running.url, name="tim")
    assert refused.value.code == "unauthenticated"
    for client in (tim, me, runs):
        await client.close()


async def test_an_agent_is_added_and_revoked_while_the_server_runs(running, tmp_path):
    made = await change(teams.add_agent, running.home, "gpu", ["main"], tmp_path / "gpu.nk")
    assert load_accounts(running.home.teams_file).may_act_for("gpu", "main")
    agent = await connect(made, running.url, name="gpu")
    await agent.publish("ag.claim", b"")
    await agent.settle()
    await agent.close()
    await change(teams.revoke_agent, running.home, "gpu")
    with pytest.raises(TapelineError):
        await connect(made, running.url, name="gpu")


async def test_a_refused_change_leaves_no_file_and_no_trace(running, tmp_path):
    before = running.home.teams_file.read_text()
    for function, arguments in (
        (teams.add_user, ("nobody", "tim", tmp_path / "a.nk")),
        (teams.add_user, ("main", "me", tmp_path / "b.nk")),
        (teams.add_agent, ("x.y", ["main"], tmp_path / "c.nk")),
    ):
        with pytest.raises(TapelineError):
            await change(function, running.home, *arguments)
    assert running.home.teams_file.read_text() == before
    assert list(tmp_path.glob("*.nk")) == []


async def test_a_server_that_does_not_reload_gets_its_old_accounts_back(running, tmp_path, monkeypatch):
    before = (running.home.teams_file.read_text(), running.home.server_conf.read_text())
    monkeypatch.setattr(teams, "RELOAD_SECONDS", 0.2)
    monkeypatch.setattr(teams.os, "kill", lambda pid, number: None)  # the signal is lost
    with pytest.raises(TapelineError) as refused:
        await change(teams.add_user, running.home, "main", "zoe", tmp_path / "zoe.nk")
    assert refused.value.code == "unavailable"
    assert (running.home.teams_file.read_text(), running.home.server_conf.read_text()) == before
    assert not (tmp_path / "zoe.nk").exists()


async def test_changes_at_the_same_time_all_take_effect(running, tmp_path):
    names = [f"u{i}" for i in range(4)]
    await asyncio.gather(
        *(change(teams.add_user, running.home, "contoso", name, tmp_path / f"{name}.nk") for name in names)
    )
    assert set(names) <= set(load_accounts(running.home.teams_file).team("contoso"))
    for name in names:
        client = await connect(tmp_path / f"{name}.nk", running.url, name=name)
        await client.close()


def test_the_running_server_says_that_it_is_well_and_syncs_always(running):
    port = read_json(running.home.server_file)["monitor_port"]
    assert is_healthy(port)
    assert syncs_always(port)
    assert varz(port)["max_payload"] == 1024 * 1024
    assert not is_healthy(1)


async def test_a_team_cannot_publish_more_than_its_payload_limit(running):
    me = await running.connect("me")
    with pytest.raises(NatsError):
        await me.publish("tl.me.runs.create", b"x" * (1024 * 1024 + 1))
    await me.close()
