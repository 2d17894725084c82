"""Start the assets service: `python -m tapeline.assets`.

`--worker` starts a process that answers nobody and only computes shards of builds.
"""

import sys

from tapeline.assets.app import build, build_worker
from tapeline.hosting import run

if __name__ == "__main__":
    run({"assets": build_worker if "--worker" in sys.argv[1:] else build})
