"""Start the assets service: `python -m tapeline.assets`."""

from tapeline.assets.app import build
from tapeline.hosting import run

if __name__ == "__main__":
    run({"assets": build})
