"""Where and how a run computes: decided once, when it starts, and kept when it is taken up again.

Whether the steps of a run are captured as one CUDA graph, and why not where they are not.
"""

import ctypes
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from raykd.errors import ConfigError
from raykd.spec.plan import Run

# For mallopt(3), in bytes. Without this each step of a CNN gives its activations back to the kernel and has their pages
# cleared again: 6 % of a step in bf16, 10 to 20 % of one in fp32 (docs/performance.md).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
KEEP_MEMORY = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 64 << 20}
# Where glibc's own, moving limits come to rest in a process that uses large tensors.
GLIBC_DEFAULT = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 64 << 20, _M_TOP_PAD: 128 << 10}
_NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's
EVALUATION_BATCH = {"cpu": 512, "cuda": 2048}  # no activations are kept; more gains nothing on 2 cores


@dataclass(frozen=True)
class Compute:
    """precision: 'fp32' or 'bf16', of matrix products and convolutions. threads: of the CPU."""

    device: torch.device
    precision: str
    threads: int

    def autocast(self) -> torch.autocast:
        """A context in which matrix products and convolutions are computed in `precision`."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def __str__(self) -> str:
        where = "GPU" if self.device.type == "cuda" else f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.precision}, {where}"


def choose_compute(device: torch.device, precision: str, threads: int | None = None) -> Compute:
    """How to compute on `device`: 'auto' is bf16 where the hardware has it, else fp32. threads: None for torch's."""
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return Compute(device, precision, threads or torch.get_num_threads())


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware itself multiplies bfloat16: an Ampere GPU or later, a CPU with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(_cpu_flags() & _NATIVE_BF16)


def configure_process(device: torch.device) -> None:
    """Settings of the whole process for long runs of equal steps; once is enough, more does no harm.

    On a GPU cuDNN tries its kernels for each shape. On a CPU glibc keeps memory for the next step.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        set_malloc(KEEP_MEMORY)


def set_malloc(settings: Mapping[int, int]) -> None:
    """Of this process; nothing where the C library is not glibc."""
    if libc := _glibc():
        for option, value in settings.items():
            if not libc.mallopt(option, value):  # before glibc 2.35 no mmap threshold may be larger
                libc.mallopt(option, GLIBC_DEFAULT[option])


def release_memory() -> None:
    """Give what an ended run used back to the machine: the process may live on with nothing to do."""
    torch.cuda.empty_cache()  # nothing where CUDA was not used
    if libc := _glibc():
        libc.malloc_trim(0)


def device_for(gpus: float) -> torch.device:
    """Where a run computes that was given `gpus` GPUs, a share of one included.

    Raises ConfigError when torch cannot use the GPU that is there: a day on the CPU would be the other outcome.
    """
    if gpus and not torch.cuda.is_available():
        raise ConfigError(
            f"torch {torch.__version__} cannot use the GPU that this run was given; install a torch for the driver's "
            "CUDA (see README.md, 'Which torch'), or train on the CPU with --set workers.gpus=0"
        )
    return torch.device("cuda" if gpus else "cpu")


def is_mig_instance(device: torch.device) -> bool:
    """Return whether `device` is a MIG instance, one of the parts of a divided GPU. CUDA shows a process only one."""
    if device.type != "cuda":
        return False
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    return visible.startswith("MIG-") or " MIG " in torch.cuda.get_device_name(device)


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@cache
def _cpu_flags() -> frozenset[str]:
    """What Linux says that the CPU can do; nothing elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def why_not_graph(run: Run, compute: Compute, num_workers: int) -> str:
    """Return why the steps of `run` are launched from Python; '' where they are captured as a CUDA graph.

    A graph repeats what it recorded. So code that does other work in some steps must not be captured, and of a method
    that a user wrote nobody knows that.
    """
    asked = run.recipe.step
    if asked == "eager":
        return "as was asked"
    if compute.device.type != "cuda":
        return "CUDA graphs require a GPU"
    if num_workers > 1:
        return "several workers exchange gradients"
    if run.recipe.augmentation.randaugment:
        return "RandAugment gathers images by lists that the CPU makes"
    if run.method.is_custom and asked == "auto":
        return "a custom method may do other work in some steps; --set student.step=graph says that it does not"
    return ""
