"""`raykd doctor`: check a machine for what raykd requires, and print a remedy for each problem.

Run it on a login node, and on a compute node inside a job.
"""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raykd.cluster.job_folder import job_folder
from raykd.cluster.limits import low_limits
from raykd.cluster.ports import find_ports
from raykd.cluster.private_ray import base_folder
from raykd.cluster.ray_variables import pinning
from raykd.cluster.slurm_commands import SlurmError, slurm_output
from raykd.cluster.staging import scratch_folder
from raykd.disk.file_lock import lock_at
from raykd.disk.lookup import is_file, is_folder
from raykd.disk.mounts import LOCAL_LOCKS, mount_of
from raykd.environment import import_remedy, install_command, reinstall_command, shadowing
from raykd.errors import COMMAND, RaykdError, plural
from raykd.spec.bundled import SLURM
from raykd.spec.gpu_support import cuda_error, torch_for, unsupported_gpu
from raykd.store.migration import old_teachers
from raykd.units import capacity

TIMEOUT_S = 30
MIN_SLURM = (20, 11)  # the first version with `srun --overlap` and `squeue --me`
SLOW_IMPORT_S = 30.0
CUDA_13_DRIVER = 580  # the first NVIDIA driver that runs CUDA 13, for which torch is built from 2.11
MIN_FREE_BYTES = 5e9  # checkpoints and best weights of the 14 runs of cnn_and_vit.py, and decoded images
MIN_SHARED_MEMORY_BYTES = 1e8
MAX_CLOCK_SKEW_S = 5.0
LARGEST_JOB_ID = 2**26 - 1  # Slurm's highest id, which gives the longest folder name
NO_CLUSTER = "configuration source"  # in the errors of Slurm's commands without slurm.conf and a server

Verdict = Literal["ok", "bad", "-"]  # '-': missing, but not required everywhere


@dataclass(frozen=True)
class Finding:
    """The result of one check, with a remedy if it is bad."""

    verdict: Verdict
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n        -> {self.remedy}" if self.remedy else ""
        return f"{self.verdict:<4} {self.subject:<11} {self.text}{remedy}"


def examine(
    results: Path, data: Path, weights: Path, list_datasets: Callable[[Path], Sequence[str]]
) -> Iterator[Finding]:
    """Yield the findings one by one: some checks take seconds. list_datasets: raises a RaykdError if there are none."""
    # An older Python cannot import this module.
    yield Finding("ok", "python", f"{platform.python_version()} in {sys.prefix}")
    drivers = gpu_drivers()
    yield _gpus(drivers)
    started = time.monotonic()
    yield from _packages(drivers)
    yield _import_time(time.monotonic() - started)
    if problem := shadowing(os.environ):
        yield Finding("bad", "PYTHONPATH", *problem.rsplit("; ", 1))
    yield _slurm()
    yield _checked("ports", _find_ports)
    yield _checked("tmp", _make_private_folder)
    yield _shared_memory()
    yield _limits()
    if ignored := pinning(os.environ):
        yield Finding("-", "variables", ignored)
    if "SLURM_JOB_ID" in os.environ and (reason := scratch_folder(os.environ)[1]):
        yield Finding("-", "scratch", *reason.split("; ", 1))
    yield from _results(results)
    yield _checked("data", lambda: f"{', '.join(list_datasets(data))} in {data}")
    yield _weights(weights)


def gpu_drivers() -> list[str]:
    """Return 'NVIDIA H100, 535.104, 81559 MiB' for each GPU of this machine; [] without GPUs or nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return [line.strip() for line in _output(query).splitlines() if line.count(",") == 2]


def _gpus(drivers: list[str]) -> Finding:
    if not drivers:
        login_node = " (login nodes often have none; run this inside a job too)" if _has_slurm() else ""
        return Finding("-", "gpu", f"none on this machine{login_node}")
    modes = set(_output(["nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader"]).split()) - {"Default"}
    only_mps = f"; in mode {modes.pop()}, runs can share a GPU only with RAYKD_MPS=1" if modes else ""
    return Finding("ok", "gpu", "; ".join(drivers) + only_mps)


def _packages(drivers: list[str]) -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        if container := _container_command():
            text = "torch and Ray are in the container of slurm/site.sh; to check them, type:"
            yield Finding("-", "packages", text, shlex.join([*container, "-m", "raykd", "doctor"]))
            return
        remedy = import_remedy(error) or reinstall_command("torch", "torchvision")
        yield Finding("bad", "torch", f"cannot be imported: {error}", remedy)
        return
    has_gpu = torch.cuda.is_available()
    unsupported = unsupported_gpu(torch.cuda.get_device_capability(), torch.cuda.get_arch_list()) if has_gpu else None
    error = cuda_error() if drivers and not has_gpu else ""
    yield torch_finding(torch.__version__, torch.version.cuda, has_gpu, drivers, unsupported, error)
    for name in ("torchvision", "timm", "ray", "optuna", "pyarrow"):
        try:
            yield Finding("ok", name, __import__(name).__version__)
        except Exception as error:  # noqa: BLE001 - a package that was built for another torch may raise anything
            yield Finding("bad", name, f"cannot be imported: {error}", reinstall_command(name))


def _import_time(seconds: float) -> Finding:
    """Report how long the packages take to import, which each process of Ray does."""
    if seconds < SLOW_IMPORT_S:
        return Finding("ok", "imports", f"took {seconds:.0f} s")
    remedy = f"export RAYKD_START_TIMEOUT_S={max(300, round(10 * seconds, -2)):.0f} in slurm/site.sh"
    return Finding("-", "imports", f"took {seconds:.0f} s; a slow filesystem delays each process of Ray", remedy)


def torch_finding(
    version: str,
    cuda: str | None,
    has_gpu: bool,
    drivers: list[str],
    unsupported: str | None = None,
    error: str = "",
) -> Finding:
    """Check whether torch, built for the version `cuda`, can use the GPUs. unsupported, error: see gpu_support.py."""
    built = f"{version}, built for {'CUDA ' + cuda if cuda else 'CPUs'}"
    if not drivers:
        return Finding("ok", "torch", f"{built}; there is no GPU to test")
    if unsupported:
        problem = f"{built}; it does not support this GPU ({unsupported})"
        return Finding("bad", "torch", problem, install_command(torch_for(unsupported)))
    if has_gpu:
        return Finding("ok", "torch", f"{built}; it can use the GPU")
    driver = drivers[0].split(",")[1].strip()
    if cuda is None:
        remedy = f"this torch supports CPUs only; install one from PyPI: {reinstall_command('torch', 'torchvision')}"
    elif int(cuda.split(".")[0]) >= 13 and int(driver.split(".")[0]) < CUDA_13_DRIVER:
        remedy = f"driver {driver} supports CUDA 12 only: {install_command('torch<2.11')}"
    else:
        remedy = "unset CUDA_VISIBLE_DEVICES if it is empty; in a job, request a GPU: --gres=gpu:1"
    return Finding("bad", "torch", f"{built}; it cannot use the GPU{f' ({error})' if error else ''}", remedy)


def _slurm() -> Finding:
    if not _has_slurm():
        return Finding("-", "slurm", "no sbatch here: experiments run on this machine only")
    version, partition = _output(["sbatch", "--version"]).strip() or "slurm", default_partition()
    numbers = re.search(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < MIN_SLURM:
        remedy = "ask the administrators for a newer version; run experiments on one machine until then"
        return Finding("bad", "slurm", f"{version}; raykd requires {MIN_SLURM[0]}.{MIN_SLURM[1]} or later", remedy)
    try:
        nodes = describe_nodes(partition)
    except SlurmError as error:
        if NO_CLUSTER in str(error):
            text = f"{version} is installed, but this machine is in no cluster: experiments run on this machine only"
            return Finding("-", "slurm", text)
        remedy = "run this on a login node of the cluster"
        return Finding("bad", "slurm", f"{version}; Slurm does not answer: {error}", remedy)
    if not partition or not nodes:
        remedy = "'sinfo -s' lists your partitions; set one in slurm/site.sh and in the #SBATCH line"
        return Finding("bad", "slurm", f"{version}; partition '{partition}' does not exist", remedy)
    return Finding("ok", "slurm", f"{version}; partition {partition}: {'; '.join(nodes)}")


def default_partition() -> str:
    """Return SBATCH_PARTITION, else the partition that slurm/site.sh exports; '' if neither is set."""
    if partition := os.environ.get("SBATCH_PARTITION"):
        return partition
    return _in_site_shell("echo $SBATCH_PARTITION").strip()


def _in_site_shell(command: str) -> str:
    """Return the output of `command` in bash after slurm/site.sh, that of a project or else the bundled one."""
    in_project = Path("slurm/site.sh")
    site = in_project if is_file(in_project) else SLURM / "site.sh"
    script = ["bash", "-c", f'source "$0" >&2; {command}', str(site)]
    return subprocess.run(script, capture_output=True, text=True, timeout=TIMEOUT_S, check=False).stdout


def _container_command() -> list[str]:
    """Return the words of RAYKD_CONTAINER in slurm/site.sh and RAYKD_CONTAINER_PYTHON; [] without a container."""
    lines = 'printf "%s\\n" "${RAYKD_CONTAINER[@]}" ${RAYKD_CONTAINER:+"${RAYKD_CONTAINER_PYTHON:-python3}"}'
    return list(filter(None, _in_site_shell(lines).splitlines()))


def describe_nodes(partition: str) -> list[str]:
    """Return '2 nodes with gpu:h100:2' for each kind of node; [] without this partition. Raises SlurmError."""
    command = ["sinfo", "--noheader", f"--partition={partition}", "--format=%D|%G"]
    table = re.sub(r"\(.*?\)", "", slurm_output(command, TIMEOUT_S))  # lines such as '2|gpu:h100:2(S:0-1)'
    kinds = [line.strip().partition("|") for line in table.splitlines() if line.strip()]
    return [f"{plural(int(count), 'node')} {f'with {gres}' if gres else 'without GPUs'}" for count, _, gres in kinds]


def _has_slurm() -> bool:
    return shutil.which("sbatch") is not None


def _find_ports() -> str:
    find_ports(0)
    return "four free ports next to each other"


def _make_private_folder() -> str:
    with job_folder(LARGEST_JOB_ID, os.environ):
        return f"private folders can be made in {base_folder(os.environ)}, and its path is short enough"


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError as error:
        return Finding("bad", "shm", str(error), "ask the administrators to mount /dev/shm, which Ray requires")
    found = f"{capacity(free)} free in /dev/shm"
    if free < MIN_SHARED_MEMORY_BYTES:
        return Finding("bad", "shm", found, "remove files that earlier programs left there")
    return Finding("ok", "shm", found)


def _limits() -> Finding:
    if not (low := list(low_limits())):
        return Finding("ok", "limits", "enough threads, files and address space (ulimit)")
    if _has_slurm() and "SLURM_JOB_ID" not in os.environ:
        return Finding("-", "limits", f"{', '.join(low)} here; a job has its node's limits (run this inside a job too)")
    return Finding("bad", "limits", ", ".join(low), "ask the administrators for a higher hard limit on compute nodes")


def _results(results: Path) -> Iterator[Finding]:
    folder = next(path for path in (results.absolute(), *results.absolute().parents) if is_folder(path))
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".raykd-doctor-") as file, lock_at(Path(file.name)):
            skew = abs(Path(file.name).stat().st_mtime - time.time())
    except (OSError, NotImplementedError) as error:
        remedy = "name another folder with --results: it must be writable and support file locks (Lustre: -o flock)"
        yield Finding("bad", "results", f"{folder}: {error}", remedy)
        return
    free, mount = shutil.disk_usage(folder).free, mount_of(folder)
    locks = f"supports locks{f' ({mount.kind})' if mount else ''}"
    if mount and mount.has_local_locks:
        remedy = "name another folder with --results, or ask the administrators to mount it with -o flock"
        yield Finding("bad", "results", f"{folder}: {mount.point} has locks of one node only (localflock)", remedy)
    elif mount and mount.may_have_local_locks:
        yield Finding("-", "results", LOCAL_LOCKS.format(folder=folder, point=mount.point))
    elif teachers := old_teachers(results):
        found = f"{folder}: {plural(len(teachers), 'teacher')} in the folders of families, of an earlier version"
        yield Finding("bad", "results", found, f"run {COMMAND} migrate --results {results}")
    elif free < MIN_FREE_BYTES:
        yield Finding("bad", "results", f"{folder}: {capacity(free)} free", f"free at least {capacity(MIN_FREE_BYTES)}")
    else:
        yield Finding("ok", "results", f"{folder}: writable, {locks}, {capacity(free)} free")
    if skew > MAX_CLOCK_SKEW_S:
        remedy = "ask the administrators to synchronize it; TensorBoard and make compare times"
        yield Finding("bad", "clock", f"differs from the file server's by {skew:.0f} s", remedy)
    else:
        yield Finding("ok", "clock", "agrees with the file server's")


def _weights(folder: Path) -> Finding:
    names = sorted(path.stem for path in folder.glob("*.safetensors")) if is_folder(folder) else []
    if not names:
        return Finding("-", "weights", f"none in {folder}: the ViT teacher requires them ({COMMAND} prefetch)")
    return Finding("ok", "weights", ", ".join(names))


def _checked(subject: str, check: Callable[[], str]) -> Finding:
    """Return 'ok' with the text of `check`, or 'bad' with the message of its RaykdError, 'problem; remedy'."""
    try:
        return Finding("ok", subject, check())
    except RaykdError as error:
        problem, _, remedy = str(error).partition("; ")
        return Finding("bad", subject, problem, remedy)


def _output(command: list[str]) -> str:
    """Return standard output; '' if the program is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
