"""What a worker of a run took: seconds, GPUs, and the joules that its GPU counted meanwhile.

    with record_usage(folder.usage(rank), device, gpus=1.0, is_started=folder.checkpoint.is_file()):
        fit(...)

<run>/usage/<rank>.json: {"run", "pieces": [{"seconds", "gpus", "gpu", "joules", "no_joules_because"}, ...]}, one piece
each time that the run was taken up; what a kill made it train again is in it, since it was taken. A run that was partly
trained when its usage was first written (a full disk, a damaged file) has "since" beside them, the time of the first
piece: their sum is not the run's, and the report leaves it out.

Energy is NVML's total counter of the whole GPU (Volta and later), at the end less at the start: so it is null for a
share of a GPU or a MIG instance, and where another process was seen to compute on it, for their energy would be counted
too; without a GPU or an NVML that answers, too. A thread reads the counter, looks for other processes and writes both
down every WRITE_EVERY_S, which is what a kill can cost.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from raykd.errors import ConfigError
from raykd.store.codec import read_dataclass, write_dataclass
from raykd.store.damage import DamagedFile
from raykd.store.records import UsageFile, UsagePiece
from raykd.store.run_folder import now
from raykd.training.compute import is_mig_instance

MIG = "a MIG instance, and the counter is of the whole GPU"

WRITE_EVERY_S = 30.0  # so what a kill can cost


class NoEnergy(Exception):
    """Why the run's own energy cannot be known."""


class GpuIsShared(NoEnergy):
    """Other processes compute on the GPU: the energy so far is not the run's alone, even when they have ended."""


@contextmanager
def record_usage(path: Path, device: torch.device, gpus: float, is_started: bool = False) -> Iterator[None]:
    """Add a piece to the file `path` for what happens inside. What cannot be written is said, and is no error.

    is_started: whether the run was half done before; of several workers only the first can tell.
    """
    earlier, ended = _earlier(path, is_started), threading.Event()
    piece_so_far = _meter(device, gpus)

    def write() -> None:
        try:
            write_dataclass(path, replace(earlier, pieces=(*earlier.pieces, piece_so_far())))
        except (OSError, ConfigError) as error:  # a quota, say, or a folder in its place: the run itself is sound
            print(f"raykd: what the run takes is not written to '{path}': {error}")

    def keep_writing() -> None:
        while not ended.wait(WRITE_EVERY_S):
            write()

    write()  # a run that is killed in its first seconds has a file, and not the look of an older one
    thread = threading.Thread(target=keep_writing, daemon=True, name="raykd-usage")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        write()


def _earlier(path: Path, is_started: bool) -> UsageFile:
    """Return the content of the file so far. A damaged one is replaced: the usage of the run is then unknown."""
    run = path.parents[1].name
    try:
        return read_dataclass(UsageFile, path) or UsageFile(run, since=now() if is_started else None)
    except DamagedFile as error:
        print(f"raykd: the run's usage is counted anew and left out of the report: {error}")
        return UsageFile(run, since=now())


def _meter(device: torch.device, gpus: float) -> Callable[[], UsagePiece]:
    """Starts to count; what it returns tells the piece so far."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    began, joules_before, counter, reason = time.monotonic(), 0.0, None, None
    try:
        counter = energy_counter(device, gpus)
        joules_before = counter()
    except NoEnergy as error:
        counter, reason = None, str(error)

    def piece_so_far() -> UsagePiece:
        nonlocal reason
        seconds, joules, why = time.monotonic() - began, None, reason
        if counter is not None and reason is None:
            try:
                joules = counter() - joules_before
            except GpuIsShared as error:
                reason = why = str(error)
            except NoEnergy as error:
                why = str(error)
        if joules is not None and joules < 0:
            joules, why = None, "the GPU's counter began anew"
        return UsagePiece(seconds, gpus, gpu, joules, why)

    return piece_so_far


def energy_counter(device: torch.device, gpus: float) -> Callable[[], float]:
    """Return a function that reads the joules which the GPU took since its driver was loaded.

    Both raise NoEnergy where the joules would not be the run's alone.
    """
    if device.type != "cuda":
        raise NoEnergy("no GPU")
    if gpus < 1:
        raise NoEnergy(f"the run has {gpus:g} of the GPU, and the counter is of the whole")
    if is_mig_instance(device):  # NVML has no counter for it, and does not find it as a GPU
        raise NoEnergy(MIG)
    try:
        import pynvml
    except ImportError:
        raise NoEnergy("pynvml is not installed (nvidia-ml-py)") from None
    torch.cuda.synchronize(device)  # from here on this process is one of those that compute on the GPU
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        if _is_divided(handle):
            raise NoEnergy(MIG)
        _require_alone(handle)
    except pynvml.NVMLError as error:
        raise NoEnergy(f"NVML: {error}") from None

    def joules() -> float:
        try:
            _require_alone(handle)
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        except pynvml.NVMLError as error:
            raise NoEnergy(f"NVML: {error}") from None

    return joules


def _require_alone(handle: object) -> None:
    """Raise GpuIsShared where another process than this one computes on the GPU."""
    import pynvml

    if (num_processes := len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))) > 1:
        raise GpuIsShared(f"{num_processes} processes compute on the GPU")


def _is_divided(handle: object) -> bool:
    """Whether the GPU is in MIG mode; one that has no such mode is not."""
    import pynvml

    try:
        return pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED:  # type: ignore[attr-defined]
            raise
        return False
