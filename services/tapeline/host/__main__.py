"""Start every service in this process: `python -m tapeline.host`."""

from tapeline.assets import app as assets
from tapeline.hosting import run
from tapeline.runs import app as runs
from tapeline.vault import app as vault

if __name__ == "__main__":
    run({"runs": runs.build, "assets": assets.build, "vault": vault.build})
