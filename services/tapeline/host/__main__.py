"""Start every service in this process: `python -m tapeline.host`.

`--asyncapi` writes the AsyncAPI document of all services to the standard output instead.
"""

import gc
import sys

from tapeline.loading import swiftly


def main() -> None:
    """Import the services and serve."""
    with swiftly():
        from tapeline.assets import app as assets
        from tapeline.hosting import run
        from tapeline.runs import app as runs
        from tapeline.vault import app as vault

        gc.freeze()
    builds = {"runs": runs.build, "assets": assets.build, "vault": vault.build}
    if "--asyncapi" in sys.argv[1:]:
        from tapeline.asyncapi import document_text, verbs_of

        sys.stdout.write(document_text(verbs_of(builds)))
    else:
        run(builds)


if __name__ == "__main__":
    main()
