"""Ending a process that this room has started: asked first, killed if it does not listen."""

import subprocess


def stop(process: subprocess.Popen, timeout_s: float) -> None:
    """SIGTERM, and SIGKILL when it still runs `timeout_s` later. Nothing happens to one that has ended."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
