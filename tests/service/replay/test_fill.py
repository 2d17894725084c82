"""How full the streams are, before and after they say so by themselves."""

from __future__ import annotations

from tapeline import replay, topology
from tapeline.contracts import EVENTS
from tapeline.log import wire
from tapeline.log.codec import Codec
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.metrics import MetricsStream
from tapeline.testing.server import NatsServer, connector


async def test_the_fill_of_a_stream_is_what_it_holds_of_its_room(server: NatsServer) -> None:
    client = await server.connect()
    await topology.apply(client, topology.topology())
    connect = connector(server.url)
    log = JetStreamLog(client, Codec(EVENTS), connect=connect, role="test")
    metrics = MetricsStream(client, connect=connect, role="test")
    await metrics.append("contoso", "r1", 1, 1, bytes(100_000))
    events, measured = await replay.fill(log, metrics)
    assert (events.stream, events.size_bytes, events.ratio) == ("EVENTS", 0, 0.0)
    state = await wire.stream_state(client, "METRICS")
    assert (measured.size_bytes, measured.max_bytes) == (state.size_bytes, state.config["max_bytes"])
    assert measured.size_bytes > 100_000
    assert measured.to_json()["ratio"] == round(measured.ratio, 4)
    await client.close()


def test_a_fill_says_what_it_means_for_the_log() -> None:
    mib = 1024 * 1024
    assert str(replay.Fill("EVENTS", 5 * mib, 100 * mib)) == "EVENTS: 5.0 of 100 MiB, 5%"
    assert "nearly full; raise max_bytes" in str(replay.Fill("EVENTS", 85 * mib, 100 * mib))
    assert "takes no new runs" in str(replay.Fill("EVENTS", 95 * mib, 100 * mib))
    assert str(replay.Fill("METRICS", 95 * mib, 100 * mib)).endswith("95%")
    assert replay.Fill("EVENTS", 5, 0).ratio == 0.0
