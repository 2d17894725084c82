"""The monitoring port of the nats-server, on loopback: is it healthy, when was its configuration loaded."""

from __future__ import annotations

import http.client
import json
from typing import Any


def page(port: int, path: str, timeout_s: float = 2.0) -> tuple[int, bytes]:
    """Status and body of one page; `OSError` when the server does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"the monitoring port {port} broke off: {error!r}") from error
    finally:
        connection.close()


def varz(port: int, timeout_s: float = 2.0) -> dict[str, Any]:
    """The server's account of itself; `OSError` when it does not answer."""
    status, body = page(port, "/varz", timeout_s)
    found = json.loads(body) if status == 200 else None
    if not isinstance(found, dict):
        raise ConnectionError(f"the monitoring port {port} answered with status {status}")
    return found


def illness(port: int, timeout_s: float = 2.0) -> str | None:
    """What the server and its JetStream say is wrong with them; none when they are well."""
    try:
        status, body = page(port, "/healthz", timeout_s)
    except OSError as error:
        return f"its monitoring port does not answer: {error}"
    if status == 200:
        return None
    try:
        said = json.loads(body).get("error")
    except (ValueError, AttributeError):
        said = None
    return str(said or f"/healthz answers with status {status}")


def is_healthy(port: int, timeout_s: float = 2.0) -> bool:
    """Whether the server and its JetStream say that they are well."""
    return illness(port, timeout_s) is None


def syncs_always(port: int, timeout_s: float = 2.0) -> bool:
    """Whether the running server puts each message on disk before it acknowledges it."""
    config = (varz(port, timeout_s).get("jetstream") or {}).get("config") or {}
    return bool(config.get("sync_always"))
