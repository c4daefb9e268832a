"""Kills processes of its own Ray by the end of their name (WORD), then sees whether Ray still works."""

import os
import signal
import sys
import time
from pathlib import Path

import ray

ray.init(log_to_driver=False)
folder = str(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent).encode()
marker, word = Path(sys.argv[2]), sys.argv[1].encode()
if not marker.exists():  # where Ray is started again, this is the second driver
    marker.touch()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes()
        is_own = folder in words or folder in (path.parent / "environ").read_bytes()
        if (
            is_own
            and b"kills_dashboard" not in words
            and any(part.strip().endswith(word) for part in words.split(b"\0"))
        ):
            os.kill(int(path.parent.name), signal.SIGKILL)
            print("killed", words.rstrip(b"\0")[:80], flush=True)
    time.sleep(5)
print("task says", ray.get(ray.remote(lambda: "fine").remote()), flush=True)
