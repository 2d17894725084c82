"""Start an embedded instance that outlives the caller; it imports little, since the caller waits for it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time

from tapeline.embedded.tail import tail
from tapeline.errors import CODES, TapelineError
from tapeline.home import Home, Instance

START_SECONDS = 15.0


def start_detached(
    home: Home,
    timeout_s: float = START_SECONDS,
    *,
    port: int = -1,
    program: tuple[str, ...] = ("-m", "tapeline.embedded"),
) -> Instance:
    """Start an embedded instance that outlives the caller; where it is, once it serves.

    `program` is what the interpreter runs; it takes the arguments of `python -m tapeline.embedded`.

    Raises
    ------
    TapelineError
        What `run_foreground` refuses; `unavailable` when it is not ready in time, and then it is stopped.
    """
    home.make()
    output = home.logs / "supervisor.log"
    reader, writer = os.pipe()
    deadline = time.monotonic() + timeout_s
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(output, flags, 0o600), "ab") as file:
            outer = subprocess.run(
                [
                    sys.executable, "-P", *program, "--home", str(home.root), "--port", str(port),
                    "--detach", "--report-fd", str(writer),
                ],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, pass_fds=(writer,), cwd=home.root,
                timeout=timeout_s, check=False,
            )  # fmt: skip
        os.close(writer)
        writer = -1
        line = _read_line(reader, deadline)
        ended_with = outer.returncode
    except subprocess.TimeoutExpired:
        # So slow a machine has not even come to leaving its caller's session; it is ended by then.
        line, ended_with = None, -1
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if line is None:
        from tapeline.embedded.control import stop

        stop(home)
        raise TapelineError(
            f"the instance on {home.root} was not ready after {timeout_s:.0f} s",
            code="unavailable",
            hint=f"look into {home.logs}",
        )
    if not line:
        raise TapelineError(
            f"the instance on {home.root} ended while it was starting ({ended_with}): {tail(output, 3)}",
            code="unavailable",
            hint=f"look into {output}",
        )
    said = json.loads(line)
    if "ready" in said:
        return Instance(**said["ready"])
    refused = said["error"]
    code = refused["code"] if refused["code"] in CODES else "internal"
    raise TapelineError(refused["message"], code=code, hint=refused["hint"], data=refused["data"])


def _read_line(reader: int, deadline: float) -> bytes | None:
    """The line on the pipe; empty when its writer is gone, none when the time is over."""
    found = b""
    while not found.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return None
        part = os.read(reader, 65536)
        if not part:
            return b""
        found += part
    return found
