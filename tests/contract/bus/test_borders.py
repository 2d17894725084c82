"""What crosses the border of an account, and what does not."""

import asyncio
import json

import nats
import pytest
from nats.errors import NoRespondersError

from tapeline.connection import connect
from tapeline.errors import TapelineError
from tapeline.security.keys import Credentials, create_key


async def heard(client, subject, **options):
    """A subscription that keeps what it hears."""
    found = []

    async def keep(message):
        found.append(message)

    await client.subscribe(subject, cb=keep, **options)
    await client.settle()
    return found


async def test_a_service_hears_who_asks_from_the_broker(bus):
    ann, runs = await bus.connect("ann"), await bus.connect("svc-runs")
    found = await heard(runs, "gw.*.*.runs.create")
    await ann.publish("tl.ann.runs.create", b'{"team":"main","user":"me"}')
    await ann.flush()
    await runs.flush()
    assert [message.subject for message in found] == ["gw.contoso.ann.runs.create"]
    assert json.loads(found[0].headers["Nats-Request-Info"])["acc"] == "T_contoso"
    await ann.close()
    await runs.close()


async def test_a_reply_comes_back_across_the_border(bus):
    me, runs = await bus.connect("me"), await bus.connect("svc-runs")

    async def answer(message):
        await message.respond(message.subject.encode())

    await runs.subscribe("gw.*.*.runs.list", queue="runs", cb=answer)
    await runs.settle()
    assert (await me.request("tl.me.runs.list", b"", timeout=5)).data == b"gw.main.me.runs.list"
    await me.close()
    await runs.close()


async def test_an_agent_is_named_by_the_broker_and_hears_only_its_own_orders(bus):
    local, far, runs = [await bus.connect(name) for name in ("agent-local", "agent-far", "svc-runs")]
    asked = await heard(runs, "ag.>")
    to_local, to_far = await heard(local, "ctl.>"), await heard(far, "ctl.>")
    await local.publish("ag.claim", b"")
    await local.publish("ag.far.claim", b"")
    await runs.publish("actl.local.run.start", b"1")
    for client in (local, runs, far, local):
        await client.flush()
    await runs.flush()
    assert [message.subject for message in asked] == ["ag.local.claim", "ag.local.far.claim"]
    assert [message.subject for message in to_local] == ["ctl.run.start"]
    assert to_far == []
    for client in (local, far, runs):
        await client.close()


async def test_a_team_hears_its_own_feed_alone(bus):
    me, ann, runs = [await bus.connect(name) for name in ("me", "ann", "svc-runs")]
    to_me, to_ann = await heard(me, "feed.>"), await heard(ann, "feed.>")
    await runs.publish("feed.main.run.1", b"1")
    await runs.publish("feed.contoso.run.2", b"2")
    for client in (runs, me, ann):
        await client.flush()
    assert [message.subject for message in to_me] == ["feed.run.1"]
    assert [message.subject for message in to_ann] == ["feed.run.2"]
    for client in (me, ann, runs):
        await client.close()


@pytest.mark.parametrize(
    "reply",
    [
        "tl.me.runs.create", "gw.main.me.runs.create", "gw.contoso.ann.runs.create",
        "evt.main.run.x", "feed.main.run.x", "_INS.runs.abc", "_IN.me.abc", "$JS.API.STREAM.DELETE.EVENTS",
    ],
)  # fmt: skip
async def test_a_forged_reply_subject_reaches_nobody_outside_the_account(bus, reply):
    """The answer of a service to a foreign reply goes back into the account that the request came from."""
    ann, runs, me, admin = [await bus.connect(name) for name in ("ann", "svc-runs", "me", "admin")]

    async def answer(message):
        await message.respond(b"chosen by the attacker")

    await runs.subscribe("gw.*.*.runs.echo", cb=answer)
    await runs.settle()
    seen = await heard(admin, ">")
    to_me = await heard(me, "_IN.me.>")
    feed = await heard(me, "feed.>")
    await ann.publish("tl.ann.runs.echo", b"", reply=reply)
    for client in (ann, runs, ann, admin, me):
        await client.flush()
    platform = {message.subject for message in seen}
    assert {subject for subject in platform if not subject.startswith("_R_.")} == {"gw.contoso.ann.runs.echo"}
    assert to_me == []
    assert feed == []
    for client in (ann, runs, me, admin):
        await client.close()


async def test_a_request_as_somebody_else_is_refused_at_once(bus):
    ann = await bus.connect("ann")
    before = asyncio.get_running_loop().time()
    with pytest.raises(TapelineError) as refused:
        await ann.request("tl.bob.runs.create", b"", timeout=30)
    assert refused.value.code == "forbidden"
    assert "tl.bob.runs.create" in refused.value.message
    assert asyncio.get_running_loop().time() - before < 15
    await ann.close()


async def test_a_request_that_nobody_serves_says_so_at_once(bus):
    me = await bus.connect("me")
    with pytest.raises(NoRespondersError):
        await me.request("tl.me.runs.nobody", b"", timeout=30)
    await me.close()


async def test_a_refused_subscription_is_raised_when_the_connection_settles(bus):
    me = await bus.connect("me")
    await me.subscribe("evt.>")
    with pytest.raises(TapelineError, match=r"subscribe to evt\.>"):
        await me.settle()
    await me.settle()
    await me.close()


async def test_an_unknown_key_and_no_key_are_refused(bus):
    stranger = Credentials(create_key(), "user", team="main", user="me")
    with pytest.raises(TapelineError) as refused:
        await connect(stranger, bus.url, name="stranger")
    assert refused.value.code == "unauthenticated"
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        await nats.connect(bus.url, allow_reconnect=False, max_reconnect_attempts=1)


async def test_nobody_listening_is_said_in_the_time_given(bus):
    with pytest.raises(TapelineError) as refused:
        await connect(bus.home.credential("me"), "nats://127.0.0.1:1", name="me", timeout_s=0.3)
    assert refused.value.code == "unavailable"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("nats://10.0.0.5:4222", "forbidden"),
        ("nats://127.0.0.1:4222,nats://bus.example.com:4222", "forbidden"),
        ("http://127.0.0.1", "invalid"),
        ("127.0.0.1:4222", "invalid"),
        ("nats://user:word@127.0.0.1:4222", "invalid"),
        ("", "invalid"),
    ],
)
async def test_a_url_that_is_unsafe_or_malformed_is_refused_before_connecting(bus, url, code):
    with pytest.raises(TapelineError) as refused:
        await connect(bus.home.credential("me"), url, name="me")
    assert refused.value.code == code
