"""Contract classes, a real server and small values for tests; shipped, so that other back ends can use them.

`server.py` starts a real nats-server, `commits.py` has a small registry of events, `log.py` the behaviours
that every log shows, `proxy.py` a connection that can be made to fail.
"""
