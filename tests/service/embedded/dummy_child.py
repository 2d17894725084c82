"""A child that says it is ready and waits; `--stubborn` ignores SIGTERM, `--never` is never ready,
`--parent` has a child of its own that dies with it."""

import os
import signal
import subprocess
import sys
import time

if "--die" in sys.argv:
    sys.exit("this child cannot start")
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if "--parent" in sys.argv:
    launch = sys.argv[sys.argv.index("--parent") + 1]
    program = [sys.executable, "-I", "-S", __file__, "--grandchild"]
    subprocess.Popen([sys.executable, "-I", "-S", launch, str(os.getpid()), *program])
if "--grandchild" not in sys.argv and "--never" not in sys.argv:
    descriptor = int(os.environ["TAPELINE_READY_FD"])
    os.write(descriptor, b"ready\n")
    os.close(descriptor)
print("serving", flush=True)
while True:
    time.sleep(60)
