"""The command line: `tapeline <noun> <verb>`. Every verb is a thin shell over a function of the SDK.

Reading order: `app.py` (the nouns, errors and exit codes), `output.py` (tables and JSON), then one module per
noun.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave with its exit code."""
    import sys

    from tapeline.loading import swiftly

    with swiftly():
        from tapeline.cli.app import run

    sys.exit(run(sys.argv[1:]))
