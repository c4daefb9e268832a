"""The Python environment of raykd: how to repair it, and the command that installs another torch in it."""

import os
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

from raykd.on_disk import is_file

_ROOT = Path(__file__).parents[1]  # of the clone from which raykd is imported, if it has a Makefile
_LIBRARY = re.compile(r"\.so\b|undefined symbol|GLIBC")  # in the error of a shared library that does not fit
_PACKAGES = ("torch", "torchvision", "timm", "ray")


def install_command(torch: str, another_build: bool = False) -> str:
    """Return the command that installs `torch`, such as 'torch<2.11', with a torchvision that fits.

    The environment may be that of `make env`, one of Conda, or one of pip or uv without a clone. another_build: the
    installed torch has a version that `torch` allows, and is removed first.
    """
    pip, environment = ["uv", "pip"], ["-p", sys.prefix]
    if find_spec("pip"):
        pip, environment = [sys.executable, "-m", "pip"], []
    remove = [*pip, "uninstall", *environment, *([] if environment else ["-y"]), "torch", "torchvision"]
    install = [*pip, "install", *environment, torch, "torchvision"]
    if is_file(_ROOT / "Makefile"):
        again = ["-B"] if another_build else []  # the environment was made with the same TORCH
        install = ["make", *again, "-C", str(_ROOT), "env", f"VENV={sys.prefix}", f"TORCH={torch}"]
    return f"{shlex.join(remove)} && {shlex.join(install)}" if another_build else shlex.join(install)


def import_remedy(error: ImportError) -> str:
    """Return how to repair an environment whose packages cannot be imported; '' if `error` is a mistake in code."""
    if isinstance(error, ModuleNotFoundError):
        is_missing = (error.name or "").partition(".")[0] in _PACKAGES
        return f"{sys.executable} lacks it: activate the environment of raykd" if is_missing else ""
    if not _LIBRARY.search(str(error)):
        return ""
    if os.environ.get("LD_LIBRARY_PATH"):
        return (
            "LD_LIBRARY_PATH may name libraries of other versions: do not load modules such as CUDA (RAYKD_MODULES in "
            "slurm/site.sh), because torch has its own libraries"
        )
    return "make the environment again on a machine with the operating system of the compute nodes"
