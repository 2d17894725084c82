"""Start the runs service: `python -m tapeline.runs`."""

from tapeline.hosting import run
from tapeline.runs.app import build

if __name__ == "__main__":
    run({"runs": build})
