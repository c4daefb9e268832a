"""Write as JSON what a driver has in its job: the cluster's resources, and whether the token leaks."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import psutil
import ray


def command_lines() -> bytes:
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return os.fsencode("\n".join(commands))


def stranger() -> int:
    """Return the exit code of a process that requests this cluster's nodes without a token."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    question = [sys.executable, "-m", "raykd.cluster.nodes", os.environ["RAY_ADDRESS"], "1"]
    return subprocess.run(question, env=environ, capture_output=True, timeout=20, check=False).returncode


ray.init(log_to_driver=False, logging_level=logging.ERROR)
token_path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
token = token_path.read_text()
queue = subprocess.run(["squeue", "-o", "%all"], capture_output=True, text=True, timeout=10, check=True).stdout
found = {
    "arguments": sys.argv[1:],
    "visible_gpus": os.environ["CUDA_VISIBLE_DEVICES"],
    "resources": ray.cluster_resources(),
    "worker_imports_raykd": ray.get(ray.remote(lambda: __import__("raykd").__name__).remote()) == "raykd",
    "folder_mode": oct(token_path.parent.stat().st_mode & 0o777),
    "token_mode": oct(token_path.stat().st_mode & 0o777),
    "token": token,
    "stranger_exit_code": stranger(),
    "token_in_queue": token in queue,
    "token_in_command_lines": token.encode() in command_lines(),
}
Path(sys.argv[1]).write_text(json.dumps(found))
