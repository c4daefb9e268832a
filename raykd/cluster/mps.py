"""A private MPS of the job on each of its nodes, so that runs that share a GPU compute at the same time.

    RAYKD_MPS=1      start it on every node with GPUs; 0, the default, starts none

Without it, processes that share a GPU take turns, and the kernels of a small network leave most of a large GPU idle.
NVIDIA's Multi-Process Service (MPS) runs kernels of several processes side by side. It is not the default: an error of
one process on the GPU ends all processes that share it, and a process must not be killed while it computes. See
https://docs.nvidia.com/deploy/mps/ and docs/cluster.md.

    python -m raykd.cluster.mps FOLDER NUM_GPUS ray start ...

starts the control daemon, waits until clients can connect, and becomes `ray start`. The daemon stays a child of
subreaper.py, which ends it with Ray. Its sockets and logs are below FOLDER, the job's private folder. So the job uses
no MPS of the site or of another user, and ends none.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from raykd.cluster.allocation import Node
from raykd.cluster.ray_start import module_command
from raykd.disk.lookup import is_there
from raykd.errors import ConfigError, RaykdError, RayNotStarted, shown

VARIABLE, PROGRAM = "RAYKD_MPS", "nvidia-cuda-mps-control"
PIPES, LOGS, VISIBLE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"
START_S = 20.0  # the daemon listens after tenths of a second
END_S = 3
POLL_S = 0.02
_UUIDS = ("GPU-", "MIG-")
_WITHOUT = f"; submit with {VARIABLE}=0 to run without MPS"


def is_requested(environ: Mapping[str, str]) -> bool:
    """Return whether the job starts its MPS: RAYKD_MPS = 1.

    Raises ConfigError for another value than 0 or 1, without NVIDIA's program, or if the job has an MPS of the site.
    """
    value = environ.get(VARIABLE) or "0"
    if value not in ("0", "1"):
        raise ConfigError(f"{VARIABLE} = {shown(value)}: must be 1 to start MPS on the job's GPUs, or 0")
    if value == "0":
        return False
    if pipes := environ.get(PIPES):
        raise ConfigError(
            f"{VARIABLE} = 1: {PIPES}={pipes} names an MPS that is used already; set {VARIABLE}=0 to use it, or unset "
            f"{PIPES}"
        )
    if shutil.which(PROGRAM, path=environ.get("PATH")) is None:
        raise ConfigError(f"{VARIABLE} = 1: '{PROGRAM}' is not on PATH{_WITHOUT}, or add its folder in slurm/site.sh")
    return True


def after_mps(command: Sequence[str], node: Node, folder: Path, environ: Mapping[str, str]) -> list[str]:
    """Return `command`, which starts Ray on `node`; if the job requests MPS and the node has GPUs, after that of MPS.

    folder: the job's private folder on the node. Raises ConfigError as `is_requested` does.
    """
    if not node.num_gpus or not is_requested(environ):
        return list(command)
    return [*module_command("mps"), str(folder), str(node.num_gpus), *command]


def gpu_uuids(environ: Mapping[str, str], num_gpus: int) -> list[str]:
    """Return the UUIDs of the job's GPUs on this node.

    MPS numbers the GPUs that it serves from 0, so that a number names another GPU for the daemon than for its clients.
    Raises RayNotStarted if CUDA_VISIBLE_DEVICES and nvidia-smi do not determine them.
    """
    visible = [word.strip() for word in environ.get(VISIBLE, "").split(",") if word.strip()]
    if visible and all(word.startswith(_UUIDS) for word in visible):
        return visible
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=START_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise RayNotStarted(f"{VARIABLE} = 1: nvidia-smi does not list the GPUs ({error}){_WITHOUT}") from error
    uuids = dict(line.replace(" ", "").split(",") for line in output.splitlines() if line.count(",") == 1)
    if not visible and len(uuids) == num_gpus:
        return list(uuids.values())
    if not visible or not all(word in uuids for word in visible):
        raise RayNotStarted(
            f"{VARIABLE} = 1: {VISIBLE}='{','.join(visible)}' does not name {num_gpus} of the GPUs "
            f"{', '.join(uuids) or '(none)'} of nvidia-smi{_WITHOUT}"
        )
    return [uuids[word] for word in visible]


def folders_below(folder: Path) -> dict[str, str]:
    """Return the variables with the folders of the sockets and of the logs."""
    return {PIPES: str(folder / "mps"), LOGS: str(folder / "mps-log")}


def start(folder: Path, num_gpus: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Start a control daemon as a child of this process, and return the environment variables of its clients.

    folder: private; the daemon's sockets and logs are below it. The daemon starts the server with the first client.

    Raises RayNotStarted if it ends, or does not listen within START_S.
    """
    pipes, logs = map(Path, folders_below(folder).values())
    for path in (pipes, logs):
        shutil.rmtree(path, ignore_errors=True)  # of an earlier start of Ray in this job
        path.mkdir(mode=0o700)
    clients = folders_below(folder) | {VISIBLE: ",".join(gpu_uuids(environ, num_gpus))}
    output = logs / "output.log"
    with output.open("wb") as log:
        daemon = subprocess.Popen(
            [PROGRAM, "-f"], env={**environ, **clients}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    deadline = time.monotonic() + START_S
    while not is_there(pipes / "control"):
        if (code := daemon.poll()) is not None or time.monotonic() > deadline:
            ended = f"does not listen after {START_S:.0f} s" if code is None else f"ended with exit code {code}"
            lines = output.read_text(errors="replace").strip().splitlines()
            reason = f" ({lines[-1]})" if lines else ""
            raise RayNotStarted(f"{VARIABLE} = 1: {PROGRAM} {ended}{reason}{_WITHOUT}")
        time.sleep(POLL_S)
    return clients


def end(clients: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """End the daemon of `clients`, and its server after at most END_S, even if it still has clients."""
    with suppress(OSError, subprocess.SubprocessError):
        command, timeout_s = f"quit -t {END_S}\n", 2.0 * END_S
        subprocess.run([PROGRAM], input=command, env={**environ, **clients}, text=True, timeout=timeout_s, check=False)


def main(arguments: Sequence[str]) -> NoReturn:
    """Start MPS and replace this process by the command. Exit with the error's code if MPS does not start."""
    folder, num_gpus, *command = arguments
    try:
        os.environ |= start(Path(folder), int(num_gpus), os.environ)
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
