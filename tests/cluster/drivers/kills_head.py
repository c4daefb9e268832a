"""Kill this cluster's GCS, then wait like a driver that does not notice it."""

import os
import signal
import time
from pathlib import Path

time.sleep(2)  # `ray start` itself may still be waiting for the node, and reports a loss only afterward
folder = str(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent).encode()
for path in Path("/proc").glob("[0-9]*/cmdline"):
    program, *rest = path.read_bytes().split(b"\0")
    if program.endswith(b"gcs_server") and any(folder in word for word in rest):
        os.kill(int(path.parent.name), signal.SIGKILL)
time.sleep(60)
