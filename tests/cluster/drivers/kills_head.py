"""Kill this cluster's GCS, then wait like a driver that does not notice it."""

import os
import time
from pathlib import Path

import psutil

time.sleep(2)  # `ray start` itself may still be waiting for the node, and reports a loss only afterward
folder = str(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent)
for process in psutil.process_iter(["cmdline"]):
    program, *rest = process.info["cmdline"] or [""]
    if program.endswith("gcs_server") and any(folder in word for word in rest):
        process.kill()
time.sleep(60)
