"""The Python environment of raykd: how to repair it, and the command that installs another torch in it."""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

from raykd.disk.lookup import is_file, is_folder

_ROOT = Path(__file__).parents[1]  # of the clone from which raykd is imported, if it has a Makefile
_LIBRARY = re.compile(r"\.so\b|undefined symbol|GLIBC")  # in the error of a shared library that does not fit
_NOT_MAPPED = "failed to map segment"  # too little memory for a library, or a file system mounted with noexec
_SHADOWED = ("numpy", "torch", "ray", "pyarrow")  # packages that modules of a site often put on PYTHONPATH
_PACKAGES = (  # of requirements.txt, by the names that are imported
    *("PIL", "filelock", "jinja2", "matplotlib", "numpy", "optuna", "pandas", "pyarrow", "pynvml", "ray", "rich"),
    *("safetensors", "scipy", "simplejpeg", "sklearn", "tensorboard", "timm", "torch", "torchvision"),
)


def install_command(torch: str) -> str:
    """Return the command that installs `torch`, such as 'torch<2.11', with a torchvision that fits.

    The environment may be that of `make env`, one of Conda, or one of pip or uv without a clone.
    """
    if is_file(_ROOT / "Makefile"):
        return shlex.join(["make", "-C", str(_ROOT), "env", f"VENV={sys.prefix}", f"TORCH={torch}"])
    return shlex.join([*_installer()[0], torch, "torchvision"])


def reinstall_command(*packages: str) -> str:
    """Return the command that replaces installed packages: a CPU build of torch, or versions that do not fit."""
    command, flag = _installer()
    return shlex.join([*command, flag, *packages])


def _installer() -> tuple[list[str], str]:
    """Return the command that installs packages, and its flag to replace what is installed. uv installs no pip."""
    # Not find_spec("pip"): setuptools then disables its distutils in this process, which torch.compile requires.
    if any(distributions(name="pip")):
        return [sys.executable, "-m", "pip", "install"], "--force-reinstall"
    return ["uv", "pip", "install", "-p", sys.prefix], "--reinstall"


def shadowing(environ: Mapping[str, str]) -> str:
    """Return a sentence about folders on PYTHONPATH whose packages replace those of this environment, otherwise ''."""
    folders = [Path(entry) for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    found = {folder: [name for name in _SHADOWED if is_folder(folder / name)] for folder in folders}
    parts = [f"{folder} ({', '.join(names)})" for folder, names in found.items() if names]
    return (
        f"PYTHONPATH has packages that replace those of the environment: {', '.join(parts)}; unset it" if parts else ""
    )


def import_remedy(error: ImportError) -> str:
    """Return how to repair an environment whose packages cannot be imported; '' if `error` is a mistake in code."""
    if isinstance(error, ModuleNotFoundError):
        is_missing = (error.name or "").partition(".")[0] in _PACKAGES
        remedy = "activate the environment of raykd, or type the command in the container of slurm/site.sh"
        return f"{sys.executable} lacks it: {remedy}" if is_missing else ""
    if not _LIBRARY.search(str(error)):
        return ""
    if _NOT_MAPPED in str(error):
        return (
            "raise the memory limit (ulimit -v), or use an environment on a file system that is mounted without noexec"
        )
    if os.environ.get("LD_LIBRARY_PATH"):
        return (
            "LD_LIBRARY_PATH may name libraries of other versions: do not load modules such as CUDA (RAYKD_MODULES in "
            "slurm/site.sh), because torch has its own libraries"
        )
    return "make the environment again on a machine with the operating system of the compute nodes"
