"""An embedded instance with a real server, the real streams and small children in place of the services and the agent.

`--children NAME:OPTION,...` before the arguments of `python -m tapeline.embedded` is the table of children.
"""

import sys
from pathlib import Path

from tapeline.embedded import launch
from tapeline.embedded.__main__ import main
from tapeline.embedded.child import ChildSpec, Restart
from tapeline.embedded.supervisor import environment

HERE = Path(__file__).parent


def table(home):
    """One row for each `NAME:OPTION` of the command line."""
    for row in CHILDREN.split(","):
        name, _, option = row.partition(":")
        options = {"parent": ("--parent", launch.__file__)}.get(option, (f"--{option}",) if option else ())
        yield ChildSpec(
            name=name,
            argv=(sys.executable, "-I", "-S", str(HERE / "dummy_child.py"), *options),
            env=environment(home),
            stop_grace_s=0.5,
            ready_timeout_s=20.0,
            restart=Restart(first_wait_s=0.05),
        )


if __name__ == "__main__":
    CHILDREN = sys.argv.pop(1)
    sys.exit(main(table))
