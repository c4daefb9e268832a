"""What a machine lacks for raykd, a line each with its remedy: on a login node, and on a compute node inside a job."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from raykd.cluster.job_folder import job_folder
from raykd.cluster.partition import NoCluster, default_partition, kinds_of_nodes
from raykd.cluster.ports import find_ports
from raykd.errors import ConfigError, RaykdError
from raykd.store.run_folder import lock_at

PROGRAM_TIMEOUT_S = 30
CUDA_13_DRIVER = 580  # the first NVIDIA driver that runs CUDA 13, for which torch from 2.11 on is built
MIN_FREE_GB = 5.0  # checkpoints and best weights of the experiment's 14 runs, and decoded images
MAX_CLOCK_SKEW_S = 5.0
LARGEST_JOB = 2**26 - 1  # Slurm's highest job id: the longest name that a job's folder can have

Verdict = Literal["ok", "bad", "-"]  # '-': not there, and not needed everywhere


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do where that is bad."""

    verdict: Verdict
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n        -> {self.remedy}" if self.remedy else ""
        return f"{self.verdict:<4} {self.subject:<11} {self.text}{remedy}"


@dataclass(frozen=True)
class Places:
    """Where commands read and write. `find_data` names what lies in `data`; it raises a RaykdError for nothing."""

    results: Path
    data: Path
    weights: Path
    find_data: Callable[[], Sequence[str]]


def examine(places: Places) -> Iterator[Finding]:
    """All findings, one at a time: importing torch takes seconds."""
    yield _python()
    drivers = gpu_drivers()
    yield _gpus(drivers)
    yield from _packages(drivers)
    yield _slurm()
    yield _checked("ports", "four free ports next to each other", lambda: find_ports(0))
    yield _temporary()
    yield _shared_memory()
    yield from _results(places.results)
    yield _data(places)
    yield _weights(places.weights)


def _python() -> Finding:
    return Finding("ok", "python", f"{platform.python_version()} in {sys.prefix}")  # with an older one nobody is here


def gpu_drivers() -> list[str]:
    """'NVIDIA H100, 535.104, 81559 MiB' for each GPU of this machine; [] where there is none, or no nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return [line.strip() for line in _said(query).splitlines() if line.count(",") == 2]


def _gpus(drivers: list[str]) -> Finding:
    if not drivers:
        login_node = " (a login node often has none; run this inside a job too)" if _has_slurm() else ""
        return Finding("-", "gpu", f"none here{login_node}")
    return Finding("ok", "gpu", "; ".join(drivers))


def _packages(drivers: list[str]) -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("bad", "torch", f"cannot be imported: {error}", "make env, and activate it")
        return
    sees_gpu = torch.cuda.is_available()
    foreign = foreign_gpu(torch.cuda.get_device_capability(), torch.cuda.get_arch_list()) if sees_gpu else None
    yield torch_finding(torch.__version__, torch.version.cuda, sees_gpu, drivers, foreign)
    for name in ("torchvision", "timm", "ray", "optuna", "pyarrow"):
        try:
            found = __import__(name)
            yield Finding("ok", name, found.__version__)
        except Exception as error:  # noqa: BLE001 - a package of another torch's raises whatever its loader does
            yield Finding("bad", name, f"cannot be imported: {error}", "make env, with one TORCH for all")


def foreign_gpu(capability: tuple[int, int], built_for: Sequence[str]) -> str | None:
    """'sm_60' where torch, `built_for` ['sm_75', 'sm_80', ...], has no code for a GPU of this capability.

    Code runs on later GPUs of its own generation, 8.0 on 8.6, and PTX ('compute_90') on all later ones.
    """
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in built_for]
    runs = any(
        (int(name[2]) == capability[0] or name[1] == "compute") and (int(name[2]), int(name[3])) <= capability
        for name in found
        if name
    )
    return None if runs else f"sm_{capability[0]}{capability[1]}"


def torch_finding(
    version: str, cuda: str | None, sees_gpu: bool, drivers: list[str], foreign: str | None = None
) -> Finding:
    """Whether torch can use the GPUs that `gpu_drivers` found; `cuda` is the CUDA that torch was built for.

    foreign: see `foreign_gpu`.
    """
    built = f"{version}, built for {'CUDA ' + cuda if cuda else 'CPUs'}"
    if not drivers:
        return Finding("ok", "torch", f"{built}; no GPU to try it on")
    if foreign:
        torch = "torch<2.11" if foreign >= "sm_70" else "torch<2.8"  # the last wheels of PyPI for Volta and for Pascal
        return Finding("bad", "torch", f"{built}; has no code for this GPU, {foreign}", _make_env(torch))
    if sees_gpu:
        return Finding("ok", "torch", f"{built}; uses the GPU")
    driver = drivers[0].split(",")[1].strip()
    if cuda is None:
        remedy = f"this torch is for CPUs; install one from PyPI: {_make_env('torch')}"
    elif int(cuda.split(".")[0]) >= 13 and int(driver.split(".")[0]) < CUDA_13_DRIVER:
        remedy = f"driver {driver} is of CUDA 12: {_make_env('torch<2.11')}"
    else:
        remedy = "is CUDA_VISIBLE_DEVICES empty? In a job, ask for a GPU: --gres=gpu:1"
    return Finding("bad", "torch", f"{built}; cannot use the GPU", remedy)


def _make_env(torch: str) -> str:
    """The line that puts this torch into the environment that is used now."""
    return shlex.join(["make", "env", f"VENV={sys.prefix}", f"TORCH={torch}"])


def _slurm() -> Finding:
    if not _has_slurm():
        return Finding("-", "slurm", "no sbatch here: experiments run on this machine alone")
    version, partition = _said(["sbatch", "--version"]).strip() or "slurm", default_partition()
    try:
        kinds = kinds_of_nodes(partition)
    except NoCluster:
        return Finding("-", "slurm", f"{version} is installed, but this machine is in no cluster; runs stay here")
    except ConfigError as error:
        return Finding("bad", "slurm", f"{version}; {error}", "run this on a login node of the cluster")
    if not partition or not kinds:
        remedy = "'sinfo -s' lists yours; write one into slurm/site.sh and the #SBATCH line"
        return Finding("bad", "slurm", f"{version}; no partition '{partition}'", remedy)
    return Finding("ok", "slurm", f"{version}; partition {partition}: {'; '.join(kinds)}")


def _has_slurm() -> bool:
    return shutil.which("sbatch") is not None


def _temporary() -> Finding:
    def make() -> None:
        with job_folder(LARGEST_JOB, os.environ):
            pass

    return _checked("tmp", f"{os.environ.get('RAYKD_TMP') or '/tmp'} is short, and private folders can be made", make)


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage("/dev/shm").free / 1e9
    except OSError as error:
        return Finding("bad", "shm", str(error), "Ray keeps objects in /dev/shm; ask for it to be mounted")
    if free < 0.1:
        return Finding("bad", "shm", f"{free:.2f} GB free in /dev/shm", "remove what earlier programs left there")
    return Finding("ok", "shm", f"{free:.1f} GB free in /dev/shm")


def _results(results: Path) -> Iterator[Finding]:
    folder = next(path for path in (results.absolute(), *results.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".raykd-doctor-") as file, lock_at(Path(file.name)):
            skew = abs(Path(file.name).stat().st_mtime - time.time())
    except (OSError, NotImplementedError) as error:
        remedy = "name another folder with --results; it must be writable and have file locks (Lustre: -o flock)"
        yield Finding("bad", "results", f"{folder}: {error}", remedy)
        return
    free = shutil.disk_usage(folder).free / 1e9
    if free < MIN_FREE_GB:
        yield Finding("bad", "results", f"{folder}: {free:.1f} GB free", f"needs {MIN_FREE_GB:g} GB; free some")
    else:
        yield Finding("ok", "results", f"{folder}: writable, locks, {free:,.0f} GB free")
    if skew > MAX_CLOCK_SKEW_S:
        remedy = "TensorBoard and make compare times; ask the administrators"
        yield Finding("bad", "clock", f"{skew:.0f} s from the file server's", remedy)
    else:
        yield Finding("ok", "clock", "agrees with the file server's")


def _data(places: Places) -> Finding:
    found: list[str] = []
    checked = _checked("data", "", lambda: found.extend(places.find_data()))
    return replace(checked, text=f"{', '.join(found)} in {places.data}") if checked.verdict == "ok" else checked


def _weights(folder: Path) -> Finding:
    found = sorted(path.stem for path in folder.glob("*.safetensors")) if folder.is_dir() else []
    if not found:
        return Finding("-", "weights", f"none in {folder}: the ViT teacher wants them (python -m raykd prefetch)")
    return Finding("ok", "weights", ", ".join(found))


def _checked(subject: str, text: str, check: Callable[[], object]) -> Finding:
    """'ok' with `text`, or 'bad' with the error's own words: what went wrong; what to do."""
    try:
        check()
    except RaykdError as error:
        what, _, remedy = str(error).partition("; ")
        return Finding("bad", subject, what, remedy)
    return Finding("ok", subject, text)


def _said(command: list[str]) -> str:
    """Standard output; '' where the program is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
