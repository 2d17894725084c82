"""Every identity x every class of subject x publish and subscribe, against the server itself.

The tables below are written by hand from the page on security, not from the code that makes the
configuration: an identity may do what its row names, and nothing else.
"""

import pytest

RUN = "0192f0c1-0000-7000-8000-000000000001"
KINDS = {
    "run": "runs", "blueprint": "runs", "model": "runs", "device": "runs",
    "tape": "assets", "canvas": "assets", "asset": "assets", "vault": "vault",
}  # fmt: skip
SERVICES = ("runs", "assets", "vault")

ALL_SERVICES = {f"svc-{name}" for name in SERVICES}
USERS = {"me", "bob", "ann"}
AGENTS = {"agent-local", "agent-far"}
IDENTITIES = ("replay", *sorted(ALL_SERVICES), *sorted(USERS), *sorted(AGENTS))

# subject -> who may publish to it. The admin may everything and is not in the table.
PUBLISH = {
    **{
        f"evt.main.{kind}.{RUN}": {f"svc-{owner}"} | ({"svc-runs"} if kind == "vault" else set())
        for kind, owner in KINDS.items()
    },
    f"evt.contoso.run.{RUN}": {"svc-runs"},
    f"met.main.{RUN}": {"svc-runs", "svc-assets"},
    f"feed.main.run.{RUN}": ALL_SERVICES,
    f"feed.run.{RUN}": ALL_SERVICES,
    "actl.local.run.start": {"svc-runs"},
    "actl.far.run.stop": {"svc-runs"},
    "ctl.run.start": set(),
    f"build.main.{RUN}.1": {"svc-assets"},
    "tl.me.runs.create": {"me"},
    "tl.bob.runs.create": {"bob"},
    "tl.ann.vault.add": {"ann"},
    "tl.eve.runs.create": set(),
    "gw.main.me.runs.create": set(),
    "gw.contoso.ann.runs.create": set(),
    "ag.claim": AGENTS,
    "ag.local.claim": AGENTS,  # within an agent's own account this is only one more verb of its own
    "$KV.LEASES.projection.runs": ALL_SERVICES,
    "$KV.OTHER.key": set(),
    "_R_.abc": ALL_SERVICES,
    "_INS.runs.abc": {"svc-runs"},
    "_INS.vault.abc": {"svc-vault"},
    "_IN.me.abc": set(),
    "_IN.abc": set(),
    "_INR.abc": set(),
    "_INA.abc": set(),
    "_INBOX.abc": set(),
    "$JS.API.INFO": ALL_SERVICES,
    "$JS.API.STREAM.INFO.EVENTS": {*ALL_SERVICES, "replay"},
    "$JS.API.STREAM.INFO.BUILDS": ALL_SERVICES,
    "$JS.API.STREAM.NAMES": set(),
    "$JS.API.STREAM.LIST": set(),
    "$JS.API.STREAM.CREATE.EVENTS": set(),
    "$JS.API.STREAM.UPDATE.EVENTS": set(),
    "$JS.API.STREAM.DELETE.EVENTS": set(),
    "$JS.API.STREAM.PURGE.EVENTS": set(),
    "$JS.API.STREAM.PURGE.METRICS": set(),
    "$JS.API.STREAM.MSG.DELETE.EVENTS": set(),
    "$JS.API.STREAM.SNAPSHOT.EVENTS": set(),
    "$JS.API.STREAM.RESTORE.EVENTS": set(),
    "$JS.API.STREAM.MSG.GET.EVENTS": {*ALL_SERVICES, "replay"},
    "$JS.API.DIRECT.GET.EVENTS": {*ALL_SERVICES, "replay"},
    f"$JS.API.DIRECT.GET.EVENTS.evt.main.run.{RUN}": {*ALL_SERVICES, "replay"},
    "$JS.API.CONSUMER.CREATE.EVENTS.reader": {*ALL_SERVICES, "replay"},
    "$JS.API.CONSUMER.CREATE.METRICS.reader": {*ALL_SERVICES, "replay"},
    "$JS.API.CONSUMER.CREATE.BUILDS.reader": ALL_SERVICES,
    "$JS.API.CONSUMER.INFO.EVENTS.reader": {*ALL_SERVICES, "replay"},
    "$JS.API.CONSUMER.DELETE.METRICS.reader": {*ALL_SERVICES, "replay"},
    "$JS.API.CONSUMER.MSG.NEXT.EVENTS.reader": {*ALL_SERVICES, "replay"},
    "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.reader": set(),
    "$JS.API.ACCOUNT.PURGE.PLATFORM": set(),
    "$JS.ACK.BUILDS.assets.1.1.1.1.0": {"svc-assets"},
    "$JS.ACK.EVENTS.reader.1.1.1.1.0": set(),
    "$SYS.REQ.SERVER.PING": set(),
    "$SYS.REQ.USER.INFO": set(),
}

# subject -> who may subscribe to it.
SUBSCRIBE = {
    "gw.*.*.runs.create": {"svc-runs"},
    "gw.*.*.log.read": {"svc-runs"},
    "gw.*.*.assets.build": {"svc-assets"},
    "gw.*.*.vault.add": {"svc-vault"},
    "gw.>": set(),
    "gw.main.me.>": set(),
    "ag.*.claim": {"svc-runs"},
    "ag.claim": {"svc-runs"},
    "ctl.>": AGENTS,
    "ctl.run.start": AGENTS,
    "actl.>": set(),
    "feed.>": USERS,
    "feed.run.*": USERS,
    "feed.main.>": USERS,  # hears what its own team's feed says of a kind called "main": nothing
    "evt.>": set(),
    f"evt.main.run.{RUN}": set(),
    "met.>": set(),
    "build.>": set(),
    "_IN.me.abc": {"me", *AGENTS},
    "_IN.bob.>": {"bob", *AGENTS},
    "_IN.ann.>": {"ann", *AGENTS},
    "_IN.>": AGENTS,
    "_INS.runs.>": {"svc-runs"},
    "_INS.assets.>": {"svc-assets"},
    "_INS.vault.>": {"svc-vault"},
    "_INS.>": set(),
    "_INR.>": {"replay"},
    "_INA.>": set(),
    "_INBOX.>": set(),
    "_R_.>": set(),
    "$JS.API.>": set(),
    "$JS.ACK.>": set(),
    "$JS.EVENT.ADVISORY.>": set(),
    "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.BUILDS.assets": {"svc-assets"},
    "$KV.LEASES.>": set(),
    "$SYS.>": set(),
    ">": set(),
    "*": set(),
    "*.>": set(),
    "tl.>": set(),
}


async def refused_of(bus, identity, verb, subjects):
    """Which of the subjects the server refuses to an identity."""
    told = []
    client = await bus.connect(identity, on_error=told.append)
    try:
        for subject in subjects:
            if verb == "publish":
                await client.publish(subject, b"{}")
            else:
                await client.subscribe(subject)
        await client.flush()
    finally:
        await client.close()
    assert {error.code for error in told} <= {"forbidden"}
    return {error.data["subject"] for error in told}


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize(("verb", "table"), [("publish", PUBLISH), ("subscribe", SUBSCRIBE)])
async def test_an_identity_may_do_what_its_row_says_and_nothing_else(bus, identity, verb, table):
    refused = await refused_of(bus, identity, verb, table)
    expected = {subject.lower() for subject, allowed in table.items() if identity not in allowed}
    assert refused == expected


def test_the_matrix_covers_every_identity_of_the_home(bus):
    found = {path.stem for path in bus.home.creds.glob("*.nk")}
    assert found == {*IDENTITIES, "admin", "seal"}
    assert len(IDENTITIES) * (len(PUBLISH) + len(SUBSCRIBE)) >= 300


async def test_the_seal_key_cannot_sign_in(bus):
    from tapeline.security.keys import Credentials, read_credentials

    seal = read_credentials(bus.home.credential("seal"))
    posing = Credentials(seal.key, "admin")
    from tapeline.connection import connect
    from tapeline.errors import TapelineError

    with pytest.raises(TapelineError) as refused:
        await connect(posing, bus.url, name="seal")
    assert refused.value.code == "unauthenticated"
