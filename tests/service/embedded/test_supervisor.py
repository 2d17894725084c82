"""The supervisor with a real nats-server and small processes in place of the services and the agent."""

import asyncio
import os
import signal
import stat
import threading

import pytest

from tapeline import teams
from tapeline.connection import connect
from tapeline.embedded import start_detached, status, stop
from tapeline.embedded.child import Child, ChildSpec, Restart
from tapeline.errors import TapelineError
from tapeline.home import find_home, hold, holder, read_instance


def test_an_instance_says_where_it_is_once_everything_serves(home, start):
    supervisor = start().wait_ready()
    instance = read_instance(home)
    found = status(home)
    assert instance.pid == supervisor.pid == found.pid
    assert instance.url.startswith("nats://127.0.0.1:")
    assert instance.team == "main"
    assert instance.creds == str(home.credential("me"))
    assert [(row.name, row.state, row.alive) for row in found.processes] == [
        (name, "ready", True) for name in ("supervisor", "server", "host", "agent-local")
    ]
    assert found.rss_bytes > 20_000_000
    assert found.positions == {"EVENTS": 0, "METRICS": 0}


def test_everything_in_the_home_is_for_its_owner_alone(home, start):
    start().wait_ready()
    ours = [path for path in home.root.rglob("*") if home.log not in path.parents and path.suffix != ".ports"]
    open_to_others = [path for path in ours if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_to_others == []
    assert {path.stem for path in home.creds.iterdir()} == {
        "admin", "replay", "seal", "svc-runs", "svc-assets", "svc-vault", "me", "agent-local",
    }  # fmt: skip


def test_no_seed_is_in_any_argument_environment_log_or_configuration(home, start):
    supervisor = start().wait_ready()
    seeds = [line for path in home.creds.iterdir() for line in path.read_text().split() if line.startswith("SU")]
    assert len(seeds) == 8
    texts = [supervisor.output.read_text()]
    for pid in [supervisor.pid, *supervisor.family()]:
        for name in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{name}", "rb") as file:
                texts.append(file.read().decode("utf-8", "replace"))
    for path in home.root.rglob("*"):
        if path.is_file() and home.creds not in path.parents:
            texts.append(path.read_bytes().decode("utf-8", "replace"))
    assert [seed for seed in seeds for text in texts if seed in text] == []


def test_a_second_start_on_the_same_home_is_refused_and_names_the_holder(home, start, program):
    first = start().wait_ready()
    with pytest.raises(TapelineError) as refused:
        start_detached(home, program=(program, "host"))
    assert refused.value.code == "already_running"
    assert f"process {first.pid}" in refused.value.message
    second = start()
    assert second.process.wait(60) == 4
    assert "already_running" in second.output.read_text()
    assert status(home, positions=False).ready


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_order_with_exit_code_0(home, start, number, until, is_gone):
    supervisor = start("host,agent-local:parent").wait_ready()
    family = supervisor.family()
    assert len(family) == 4
    os.kill(supervisor.pid, number)
    assert supervisor.process.wait(60) == 0
    until(lambda: all(map(is_gone, family)))
    assert holder(home) is None
    assert not home.instance_file.exists()


def test_a_signal_during_the_start_ends_what_has_started(home, start, until, is_gone):
    supervisor = start("host:never,agent-local")
    until(lambda: len(supervisor.family()) == 3)
    family = supervisor.family()
    os.kill(supervisor.pid, signal.SIGTERM)
    assert supervisor.process.wait(60) == 0
    until(lambda: all(map(is_gone, family)))
    assert holder(home) is None


def test_looking_at_a_home_never_keeps_an_instance_from_starting(home):
    home.make()
    over = threading.Event()

    def look():
        while not over.is_set():
            holder(home)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            hold(home).release()
    finally:
        over.set()
        looking.join()


def test_a_child_that_ignores_the_signal_is_killed_after_its_grace(home, start, until, is_gone):
    supervisor = start("host:stubborn,agent-local").wait_ready()
    family = supervisor.family()
    os.kill(supervisor.pid, signal.SIGTERM)
    assert supervisor.process.wait(60) == 0
    until(lambda: all(map(is_gone, family)))


def test_kill_9_of_the_supervisor_leaves_no_orphan(home, start, until, is_gone):
    supervisor = start("host:stubborn,agent-local:parent").wait_ready()
    family = supervisor.family()
    assert len(family) == 4
    supervisor.process.kill()
    supervisor.process.wait()
    until(lambda: all(map(is_gone, family)))
    assert read_instance(home) is None
    assert not status(home).running
    # And the home is free again, with the same identities.
    before = home.credential("me").read_text()
    start().wait_ready()
    assert home.credential("me").read_text() == before


@pytest.mark.parametrize("name", ["server", "host", "agent-local"])
def test_a_killed_child_is_started_again(home, start, name, until):
    supervisor = start().wait_ready()
    url = read_instance(home).url
    before = supervisor.row(name).pid
    os.kill(before, signal.SIGKILL)
    row = until(lambda: (row := supervisor.row(name)).state == "ready" and row.pid != before and row)
    assert row.starts == 2
    assert read_instance(home).url == url


async def test_a_client_comes_back_after_the_server_was_killed(home, start):
    supervisor = start().wait_ready()
    came_back = asyncio.Event()

    async def reconnected():
        came_back.set()

    client = await connect(home.credential("me"), read_instance(home).url, name="me", on_reconnect=reconnected)
    for number in (signal.SIGKILL, signal.SIGTERM):
        came_back.clear()
        os.kill(supervisor.row("server").pid, number)
        await asyncio.wait_for(came_back.wait(), 60)
        await client.flush()
    await client.close()


async def test_a_user_added_while_it_runs_is_known_before_and_after_a_restart_of_the_server(
    home, start, tmp_path, until
):
    supervisor = start().wait_ready()
    made = await asyncio.to_thread(teams.add_user, home, "main", "tim", tmp_path / "tim.nk")
    url = read_instance(home).url
    await (await connect(made, url, name="tim")).close()
    os.kill(supervisor.row("server").pid, signal.SIGKILL)
    await (await connect(made, url, name="tim")).close()
    await asyncio.to_thread(until, lambda: supervisor.row("server").state == "ready")
    await asyncio.to_thread(teams.revoke_user, home, "main", "tim")
    with pytest.raises(TapelineError, match="does not know this key"):
        await connect(made, url, name="tim")


def test_a_child_that_never_starts_ends_the_start_with_its_own_words(home, program, until):
    with pytest.raises(TapelineError) as refused:
        start_detached(home, program=(program, "host:die,agent-local"))
    assert refused.value.code == "unavailable"
    assert "the process host did not start" in refused.value.message
    assert "this child cannot start" in refused.value.message
    assert str(home.logs / "host.log") in refused.value.hint
    until(lambda: holder(home) is None)


def test_a_start_that_takes_too_long_is_given_up_and_leaves_nothing(home, program):
    with pytest.raises(TapelineError, match="not ready after 2 s"):
        start_detached(home, 2.0, program=(program, "host:never,agent-local"))
    assert holder(home) is None
    assert "Traceback" not in (home.logs / "supervisor.log").read_text()


def test_a_detached_instance_outlives_its_caller_until_it_is_stopped(home, program, is_gone):
    instance = start_detached(home, program=(program, "host,agent-local"))
    assert os.getsid(instance.pid) != os.getsid(0)
    assert read_instance(home) == instance
    assert stop(home)
    assert is_gone(instance.pid)
    assert not stop(home)


def test_two_homes_run_beside_each_other(tmp_path, home, start, program):
    start().wait_ready()
    other = find_home(tmp_path / "other")
    instance = start_detached(other, program=(program, "host"))
    assert instance.url != read_instance(home).url
    assert stop(other)
    assert status(home, positions=False).ready


def test_a_home_that_others_may_enter_is_refused(tmp_path, program):
    root = tmp_path / "open"
    root.mkdir()
    (root / "something").touch()
    root.chmod(0o755)
    with pytest.raises(TapelineError, match="has mode 0755") as refused:
        start_detached(find_home(root), program=(program, "host"))
    assert (refused.value.code, refused.value.hint) == ("forbidden", f"chmod 700 {root}")


async def test_a_child_that_never_becomes_ready_stays_down_after_so_many_starts(tmp_path):
    spec = ChildSpec(
        name="server",
        argv=("/bin/sh", "-c", "echo no room; exit 7"),
        env={},
        restart=Restart(first_wait_s=0.01, give_up_after=5),
    )
    child = Child(spec, tmp_path, lambda: None)
    child.start()
    with pytest.raises(TapelineError, match="no room"):
        await child.wait_ready(10.0, tries=99)
    assert child.state == "failed"
    assert child.reason == "5 starts without becoming ready; the last: it ended with exit code 7 before it was ready"
    await child.stop()


async def test_a_child_that_lives_but_does_not_serve_is_replaced(tmp_path):
    async def serves(_pid):
        return True

    async def until_unwell(_pid):
        return "it does not answer"

    spec = ChildSpec(
        name="server", argv=("/bin/sleep", "60"), env={}, probe=serves, watch=until_unwell,
        restart=Restart(first_wait_s=0.01, longest_wait_s=0.01),
    )  # fmt: skip
    reasons = []
    child = Child(spec, tmp_path, lambda: reasons.append(child.reason))
    child.start()
    await child.wait_ready(10.0, tries=1)
    while child.starts < 3:
        await child._changed.wait()
        child._changed.clear()
    await child.stop()
    assert "it does not answer" in reasons
