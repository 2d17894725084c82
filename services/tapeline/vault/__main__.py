"""Start the vault service: `python -m tapeline.vault`."""

from tapeline.hosting import run
from tapeline.vault.app import build

if __name__ == "__main__":
    run({"vault": build})
