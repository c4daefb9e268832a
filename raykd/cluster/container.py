"""The container with Ray and torch in which a job runs, if slurm/site.sh names one in RAYKD_CONTAINER.

    RAYKD_CONTAINER=(apptainer exec --nv --bind /project /project/me/raykd.sif)
    RAYKD_CONTAINER_PYTHON=/opt/raykd/bin/python

Ray's processes and the experiments run inside it. Everything that calls Slurm runs outside, in an environment that
needs only filelock: boot.py, and the commands of the login node. The runtime must keep the environment variables, the
working folder and the exit code, show the same processes and network inside as outside, and pass signals on. Apptainer,
SingularityCE and Charliecloud do.
"""

import ctypes
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from raykd.errors import ConfigError, RayNotStarted

COMMAND = "RAYKD_CONTAINER_COMMAND"  # a word of RAYKD_CONTAINER per line: bash exports no arrays
PYTHON = "RAYKD_CONTAINER_PYTHON"
TIMEOUT_S = 300.0  # a large image on a slow filesystem
_SETTING = "RAYKD_CONTAINER in slurm/site.sh"

# Runs inside. Arguments: whether there are GPUs, the inode of the working folder, then each folder with its inode.
# Inodes are compared because an image may have a folder of the same name, such as its own /tmp, and paths may have
# links. Prints one line for each thing that is missing.
_CHECK = """
import ctypes, importlib.util, os, sys
has_gpu, working_inode, *folders = sys.argv[1:]
for path, inode in zip(folders[::2], folders[1::2]):
    if not os.path.isdir(path) or str(os.stat(path).st_ino) != inode:
        print(f"folder\t{path}")
if str(os.stat(".").st_ino) != working_inode:
    print(f"working folder\t{os.getcwd()}")
print(*[f"package\t{name}" for name in ("ray", "torch") if importlib.util.find_spec(name) is None], sep="\\n")
if has_gpu:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        print("driver\tlibcuda.so.1")
"""


def command_of(environ: Mapping[str, str]) -> list[str]:
    """Return the words of the command that starts the container; [] if there is none."""
    return environ.get(COMMAND, "").splitlines()


def python() -> str:
    """Return the Python of Ray's processes and the experiments: the container's, else this one."""
    return os.environ[PYTHON] if command_of(os.environ) else sys.executable


def in_container(command: Sequence[str]) -> list[str]:
    """Return `command` as it is called from outside the container, or unchanged if there is none."""
    return [*command_of(os.environ), *command]


def require_container(folders: Iterable[Path], has_gpu: bool, environ: Mapping[str, str]) -> None:
    """Raise ConfigError unless the container starts, sees `folders` and has the packages.

    has_gpu: if this node has NVIDIA's driver, the container must have it too. Does nothing without a container. Raises
    RayNotStarted if the container does not answer within TIMEOUT_S.
    """
    if not (words := command_of(environ)):
        return
    inodes = [word for path in folders for word in (str(path), _inode(path))]
    arguments = ["1" if has_gpu and _has_driver() else "", _inode(Path()), *inodes]
    command = [*words, python(), "-c", _CHECK, *arguments]
    try:
        done = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise RayNotStarted(
            f"{_SETTING}: '{shlex.join(words)}' did not start within {TIMEOUT_S:.0f} s; resubmit the same command, or "
            "move the image to a faster filesystem"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{_SETTING}: cannot run '{words[0]}' ({error.strerror}); name a program on PATH, each word on its own: "
            "RAYKD_CONTAINER=(apptainer exec --nv IMAGE)"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(
            f"{_SETTING}: '{shlex.join([*words, python()])}' failed ({reason}); correct it, or name the Python of the "
            f"image in {PYTHON}"
        )
    _require_nothing_missing([line.split("\t") for line in done.stdout.splitlines() if "\t" in line])


def _require_nothing_missing(missing: Iterable[Sequence[str]]) -> None:
    """Raise ConfigError for what the container lacks: pairs of kind and name."""
    names: dict[str, list[str]] = {}
    for kind, name in missing:
        names.setdefault(kind, []).append(name)
    if folders := names.get("folder"):
        raise ConfigError(
            f"{_SETTING}: the container does not see {', '.join(folders)}; add it, such as by --bind {folders[0]}"
        )
    if other := names.get("working folder"):
        raise ConfigError(
            f'{_SETTING}: the container starts in {other[0]} instead of {Path.cwd()}; add --cd "$PWD" (Charliecloud), '
            "or --pwd (Apptainer)"
        )
    if packages := names.get("package"):
        raise ConfigError(
            f"{_SETTING}: the image's Python ({python()}) lacks {' and '.join(packages)}; install requirements.txt in "
            f"the image, or name the Python that has them in {PYTHON}"
        )
    if "driver" in names:
        raise ConfigError(f"{_SETTING}: the container does not see NVIDIA's driver; add --nv (Apptainer)")


def _inode(folder: Path) -> str:
    return str(folder.stat().st_ino)


def _has_driver() -> bool:
    """Return whether NVIDIA's driver is installed outside the container."""
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        return True
    return False
