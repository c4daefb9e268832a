"""Resource usage of a run's workers: seconds, GPUs, and the joules that the GPU counted.

    with record_usage(folder.usage(rank), device, gpus=1.0, is_started=folder.checkpoint.is_file()):
        fit(...)

<run>/usage/<rank>.json: {"run", "pieces": [{"seconds", "gpus", "gpu", "joules", "joules_missing_reason"}, ...]}, one
piece for each start or resume. Steps that are trained again after an interruption count twice. If the file was first
written when the run was already partly trained (a full disk, a damaged file), it also has "since", the time of the
first piece. Its sum is then incomplete, and the report omits it.

Energy is the difference of NVML's total counter for the whole GPU (Volta and later). It is null for a fractional GPU or
a MIG instance and if another process computed on the GPU, because the counter includes their energy. It is also null
without a GPU or without NVML. A thread reads the counter, checks for other processes and writes the file every
WRITE_EVERY_S.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from raykd.config.codec import read_record, write_record
from raykd.disk.damage import DamagedFile
from raykd.errors import ConfigError
from raykd.store.records import UsageFile, UsagePiece
from raykd.store.run_folder import now
from raykd.training.compute import gpu_name, is_mig_instance

_log = logging.getLogger(__name__)
MIG = "a MIG instance, but the counter measures the whole GPU"
WRITE_EVERY_S = 30.0  # the most usage that a kill can lose


class NoEnergy(Exception):
    """The reason why the run's energy is unknown."""


class GpuIsShared(NoEnergy):
    """Other processes compute on the GPU. The energy stays unknown, even after they have ended."""


@contextmanager
def record_usage(path: Path, device: torch.device, gpus: float, is_started: bool = False) -> Iterator[None]:
    """Add a piece to the file `path` for the time inside. If the file cannot be written, this is logged.

    is_started: whether the run was partly trained before; required of the first worker only.
    """
    earlier, ended = _earlier(path, is_started), threading.Event()
    piece_so_far = _meter(device, gpus)

    def write() -> None:
        try:
            write_record(path, replace(earlier, pieces=(*earlier.pieces, piece_so_far())))
        except (OSError, ConfigError) as error:  # such as a quota, or a folder of that name; training continues
            _log.warning("the run's resource usage cannot be written to '%s': %s", path, error)

    def keep_writing() -> None:
        while not ended.wait(WRITE_EVERY_S):
            write()

    write()  # so that a run that is killed in its first seconds has a file
    thread = threading.Thread(target=keep_writing, daemon=True, name="raykd-usage")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        write()


def _earlier(path: Path, is_started: bool) -> UsageFile:
    """Return the content of the file. A damaged one is replaced; the usage of the whole run is then unknown."""
    run = path.parents[1].name
    try:
        return read_record(UsageFile, path) or UsageFile(run, since=now() if is_started else None)
    except DamagedFile as error:
        _log.warning("the run's resource usage is incomplete and will be omitted from the report: %s", error)
        return UsageFile(run, since=now())


def _meter(device: torch.device, gpus: float) -> Callable[[], UsagePiece]:
    """Start counting. Return a function that returns the piece so far."""
    gpu = gpu_name(device)
    start, joules_before, counter, reason = time.monotonic(), 0.0, None, None
    try:
        counter = energy_counter(device, gpus)
        joules_before = counter()
    except NoEnergy as error:
        counter, reason = None, str(error)

    def piece_so_far() -> UsagePiece:
        nonlocal reason
        seconds, joules, why = time.monotonic() - start, None, reason
        if counter is not None and reason is None:
            try:
                joules = counter() - joules_before
            except GpuIsShared as error:
                reason = why = str(error)
            except NoEnergy as error:
                why = str(error)
        if joules is not None and joules < 0:
            joules, why = None, "the GPU's counter was reset"
        return UsagePiece(seconds, gpus, gpu, joules, why)

    return piece_so_far


def energy_counter(device: torch.device, gpus: float) -> Callable[[], float]:
    """Return a function that returns the joules that the GPU has used since its driver was loaded.

    Both raise NoEnergy if the joules are unknown or include those of other processes.
    """
    if device.type != "cuda":
        raise NoEnergy("no GPU")
    if gpus < 1:
        raise NoEnergy(f"the run has {gpus:g} of the GPU, but the counter measures the whole GPU")
    if is_mig_instance(device):  # NVML has no counter for it, and does not find it as a GPU
        raise NoEnergy(MIG)
    try:
        import pynvml
    except ImportError:
        raise NoEnergy("pynvml is not installed (nvidia-ml-py)") from None
    torch.cuda.synchronize(device)  # so that this process is listed among those that compute on the GPU
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        if _is_divided(handle):
            raise NoEnergy(MIG)
    except pynvml.NVMLError as error:
        raise NoEnergy(f"NVML: {error}") from None

    def joules() -> float:
        try:
            if (num_processes := len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))) > 1:
                raise GpuIsShared(f"{num_processes} processes compute on the GPU")
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        except pynvml.NVMLError as error:
            raise NoEnergy(f"NVML: {error}") from None

    return joules


def _is_divided(handle: object) -> bool:
    """Return whether the GPU is in MIG mode; false for a GPU without that mode."""
    import pynvml

    try:
        return pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED:  # type: ignore[attr-defined]
            raise
        return False
