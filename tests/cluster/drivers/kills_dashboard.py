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


def kill_named() -> bool:
    """Kill every process of this Ray that is called so; return whether there was one."""
    found = False
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
            is_own = folder in words or folder in (path.parent / "environ").read_bytes()
        except OSError:  # it has just ended
            continue
        named = any(part.strip().endswith(word) for part in words.split(b"\0"))
        if is_own and named and b"kills_dashboard" not in words:
            os.kill(int(path.parent.name), signal.SIGKILL)
            print("killed", words.rstrip(b"\0")[:80], flush=True)
            found = True
    return found


if not marker.exists():  # where Ray is started again, this is the second driver
    marker.touch()
    while not kill_named():  # an agent gets its name some seconds after it was started
        time.sleep(0.2)
    time.sleep(5)
print("task says", ray.get(ray.remote(lambda: "fine").remote()), flush=True)
