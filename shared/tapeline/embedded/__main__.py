"""The supervisor as a process: `python -m tapeline.embedded --home DIR`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict

from tapeline.embedded.supervisor import Children, Topology, apply_topology, default_children, run_foreground
from tapeline.errors import TapelineError, exit_of, fault
from tapeline.home import find_home
from tapeline.logs import logging_setup_later


def main(children: Children = default_children, make_topology: Topology = apply_topology) -> int:
    """Run an embedded instance; the exit code, which is that of the error that kept it from starting."""
    parser = argparse.ArgumentParser(prog="python -m tapeline.embedded", description=__doc__)
    parser.add_argument("--home", help="folder of the instance; default TAPELINE_HOME")
    parser.add_argument("--port", type=int, default=-1, help="port of the server; default a free one")
    parser.add_argument("--detach", action="store_true", help="leave the session of the caller")
    parser.add_argument("--report-fd", type=int, help="descriptor that gets one line when ready or refused")
    options = parser.parse_args()
    if options.detach:
        # Before anything starts a thread or a loop. The caller waits for the outer process alone, and the
        # inner one belongs to nobody who might forget it.
        os.setsid()
        if os.fork() > 0:
            os._exit(0)

    logging_setup_later("supervisor")

    def report(line: Mapping[str, object]) -> None:
        if options.report_fd is not None:
            # The caller may have lost its patience; the instance goes on without it.
            with contextlib.suppress(BrokenPipeError):
                os.write(options.report_fd, json.dumps(line).encode() + b"\n")
            os.close(options.report_fd)
            options.report_fd = None

    try:
        run_foreground(
            find_home(options.home),
            port=options.port,
            children=children,
            make_topology=make_topology,
            on_ready=lambda instance: report({"ready": asdict(instance)}),
        )
    except TapelineError as error:
        report({"error": fault(error)})
        print(json.dumps({"error": fault(error)}), file=sys.stderr)
        return exit_of(error.code)
    report({"error": fault(TapelineError("it was stopped before it was ready", code="unavailable"))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
