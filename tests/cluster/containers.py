"""A container for tests, with a mount namespace of its own, and the environment outside it, which has only filelock."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ENVIRONMENT = "/mnt/environment"  # exists only inside
IMAGE = "my image"
REPOSITORY = Path(__file__).parents[2]

_CONTAINER = f"""#!/bin/bash
[[ $1 == run && $2 == "{IMAGE}" ]] || {{ echo "usage: container run IMAGE COMMAND" >&2; exit 125; }}
shift 2
exec unshare --mount bash -c '
    mount -t tmpfs tmpfs /mnt
    mkdir {ENVIRONMENT}
    mount --bind {sys.prefix} {ENVIRONMENT}
    for program in srun scontrol sbatch squeue; do mount --bind /dev/null "$(command -v $program)"; done
    exec "$@"' container "$@"
"""


def make_container(path: Path) -> list[str]:
    """Write a program that runs commands in a container, and return its command.

    Inside, Slurm's commands cannot run, and the environment of the tests is in ENVIRONMENT.
    """
    path.write_text(_CONTAINER)
    path.chmod(0o755)
    return [str(path), "run", IMAGE]


def make_launcher(folder: Path) -> Path:
    """Make a virtual environment that has filelock and this repository's raykd, but neither Ray nor torch."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copytree(Path(sysconfig.get_path("purelib")) / "filelock", packages / "filelock")
    (packages / "raykd.pth").write_text(f"{REPOSITORY}\n")
    return folder
