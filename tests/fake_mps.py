"""Fake `nvidia-cuda-mps-control` and `nvidia-smi` on PATH, which record their calls."""

import os
from pathlib import Path

# Like NVIDIA's, the daemon stays in the foreground, starts a server in a session of its own, and listens on `control`.
# Without -f, the program sends a command from its standard input to the daemon; the only one is `quit`.
CONTROL = """#!/bin/bash
if [[ $1 != -f ]]; then
    echo "$(cat) pipes=$CUDA_MPS_PIPE_DIRECTORY" >>{folder}/commands
    kill $(cat "$CUDA_MPS_PIPE_DIRECTORY/pids")
    exit
fi
echo "$$ $* pipes=$CUDA_MPS_PIPE_DIRECTORY logs=$CUDA_MPS_LOG_DIRECTORY visible=$CUDA_VISIBLE_DEVICES" >>{folder}/calls
{failure}
setsid sleep 300 &
echo $! >>{folder}/servers
echo $! $$ >"$CUDA_MPS_PIPE_DIRECTORY/pids"
touch "$CUDA_MPS_PIPE_DIRECTORY/control"
wait
"""
SMI = """#!/bin/bash
printf '0, GPU-aaa\\n1, GPU-bbb\\n'
"""


def programs(folder: Path, failure: str = "") -> dict[str, str]:
    """Return the PATH with both programs. failure: shell commands that the daemon runs before it listens."""
    places = folder / "programs"
    places.mkdir()
    contents = {"nvidia-cuda-mps-control": CONTROL.format(folder=folder, failure=failure), "nvidia-smi": SMI}
    for name, content in contents.items():
        (places / name).write_text(content)
        (places / name).chmod(0o755)
    return {"PATH": f"{places}:{os.environ['PATH']}"}


def calls(folder: Path) -> list[str]:
    """Return a line for each start of the daemon: pid, arguments and variables."""
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


def commands(folder: Path) -> list[str]:
    """Return a line for each command to a daemon: its words, and the folder that named the daemon."""
    file = folder / "commands"
    return file.read_text().splitlines() if file.exists() else []


def pids(folder: Path) -> list[int]:
    """Return the processes of all daemons and their servers."""
    servers = (folder / "servers").read_text().split() if (folder / "servers").exists() else []
    return [int(call.split()[0]) for call in calls(folder)] + [int(pid) for pid in servers]
