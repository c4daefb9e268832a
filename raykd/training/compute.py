"""The device, precision and CPU threads of a run, chosen when it starts and kept when it resumes.

`why_not_graph` decides whether its steps are captured as one CUDA graph.
"""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch

from raykd.environment import install_command
from raykd.errors import ConfigError, plural
from raykd.spec.gpu_support import cuda_error, torch_for, unsupported_gpu
from raykd.spec.optimizers import NamedOptimizer
from raykd.spec.plan import Run
from raykd.store.records import Precision
from raykd.training.failure import UnusableGpu

# For mallopt(3), in bytes. By default glibc returns a CNN's activations to the kernel after each step, and their pages
# are cleared again: 6 % of a step in bf16, 10 to 20 % in fp32 (docs/performance.md).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
KEEP_MEMORY = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 64 << 20}
# The values that glibc's adaptive limits reach in a process that uses large tensors.
GLIBC_DEFAULT = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 64 << 20, _M_TOP_PAD: 128 << 10}
_NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's
_TENSOR_CORES, _BF16_AND_TF32 = (7, 0), (8, 0)  # compute capability of Volta and of Ampere
_HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
EVALUATION_BATCH = {"cpu": 512, "cuda": 2048}  # images; inference keeps no activations, and larger is not faster


@dataclass(frozen=True)
class Compute:
    """The device, the `precision` of matrix products and convolutions, and the CPU `threads` of a run.

    precision: 'fp32' is float32 without TF32, which torch uses by default for convolutions on Ampere GPUs and later.
    'tf32' rounds the factors of float32 products to 11 significant bits there. 'bf16' and 'fp16' compute products in
    bfloat16 or float16 by autocast, the rest in float32; fp16 also scales the loss (loss_scale.py).
    """

    device: torch.device
    precision: Precision
    threads: int

    @property
    def half(self) -> torch.dtype | None:
        """The type of 16 bits that autocast computes in; None without autocast."""
        return _HALF_TYPES.get(self.precision)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute matrix products and convolutions in `precision` inside the context."""
        enabled = self.half is not None
        with self.float32_products(), torch.autocast(self.device.type, self.half or torch.bfloat16, enabled):
            yield

    @contextmanager
    def float32_products(self) -> Iterator[None]:
        """Use TF32 on GPUs inside the context, forward and backward, if and only if `precision` is 'tf32'.

        `allow_tf32` exists in every torch from 2.7 on. Where torch also has `fp32_precision`, it sets both.
        """
        before = _float32_settings()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        try:
            yield
        finally:  # for the process's next run
            for owner, name, value in before:
                setattr(owner, name, value)

    def __str__(self) -> str:
        where = "GPU" if self.device.type == "cuda" else plural(self.threads, "thread")
        return f"{self.precision}, {where}"


def _float32_settings() -> list[tuple[Any, str, Any]]:
    """Return the settings of float32 products on GPUs as (owner, attribute, value), in the order to restore them.

    torch refuses to read `allow_tf32`, as torch.compile does, while `fp32_precision` alone has been set.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not hasattr(cudnn, "conv"):  # before torch 2.9
        return [(part, "allow_tf32", part.allow_tf32) for part in (matmul, cudnn)]
    pairs = (matmul, matmul), (cudnn, cudnn.conv)  # allow_tf32 sets fp32_precision too, so it comes first
    flags = [(owner, "allow_tf32", part.fp32_precision == "tf32") for owner, part in pairs]
    return [*flags, *((part, "fp32_precision", part.fp32_precision) for part in (matmul, cudnn.conv, cudnn.rnn))]


def choose_compute(device: torch.device, precision: str, threads: int | None = None) -> Compute:
    """Return how to compute on `device`.

    precision: 'auto' for bf16 if the hardware supports it, else fp16 on a GPU with tensor cores, else fp32.
    threads: None for torch's setting.
    """
    if precision == "auto":
        slower = "fp16" if _is_capable(device, _TENSOR_CORES) else "fp32"
        precision = "bf16" if has_bf16(device) else slower
    return Compute(device, cast(Precision, precision), threads or torch.get_num_threads())


def has_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16: an Ampere GPU or later, a CPU with AVX512-BF16 or AMX."""
    return _is_capable(device, _BF16_AND_TF32) or (device.type == "cpu" and bool(_cpu_flags() & _NATIVE_BF16))


def note_on_precision(compute: Compute, requested: str) -> str:
    """Return why 'auto' became fp16, or that bf16 is slow here, as in a run that resumes on an older GPU; or ''."""
    if compute.precision == "fp16" and requested == "auto":
        return " (auto: this GPU has no bf16)"
    if compute.precision == "bf16" and not has_bf16(compute.device):
        hardware = "GPU" if compute.device.type == "cuda" else "CPU"
        return f" (slow: this {hardware} has no bf16 and emulates it)"
    return ""


def require_precision(precision: str, role: str, device: torch.device) -> None:
    """Raise ConfigError if `device` cannot train in the precision of the recipe `role`: it has no TF32."""
    if precision == "tf32" and not _is_capable(device, _BF16_AND_TF32):
        used = f"the {gpu_name(device)} has none" if device.type == "cuda" else "this run trains on the CPU"
        raise ConfigError(
            f"{role}.precision = tf32: requires a GPU with TF32 (Ampere or later), and {used}; "
            f"set {role}.precision to auto or fp32"
        )


def _is_capable(device: torch.device, capability: tuple[int, int]) -> bool:
    """Return whether `device` is a GPU of this compute capability or a later one."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= capability


def configure_process(device: torch.device) -> None:
    """Optimize the process for many equal steps: cuDNN autotuning on a GPU, glibc keeping freed memory on a CPU.

    On a GPU this also disables cuDNN's attention, the default of torch from 2.9 on for Hopper and Blackwell. With CUDA
    before 12.9 this attention reads invalid memory on other streams than the default one
    (github.com/pytorch/pytorch/issues/169849). From torch 2.11 on it returns NaN for some lengths with a mask
    (issues/196678). Without it, torch selects another kernel, such as flash attention.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.enable_cudnn_sdp(False)
    else:
        set_malloc(KEEP_MEMORY)


def set_malloc(settings: Mapping[int, int]) -> None:
    """Set malloc options of this process, {option: bytes}. Does nothing if the C library is not glibc."""
    if libc := _glibc():
        for option, value in settings.items():
            if not libc.mallopt(option, value):  # glibc before 2.35 refuses larger mmap thresholds
                libc.mallopt(option, GLIBC_DEFAULT[option])


def release_memory() -> None:
    """Return memory of an ended run to GPU and operating system, since the process may idle for long.

    After an error from which CUDA does not recover, only the end of the process frees its GPU memory.
    """
    if torch.cuda.is_initialized():
        gc.collect()  # a failed run may be part of a cycle: error, traceback, frame, variable with the error
        with suppress(RuntimeError):  # raised here, it would replace the error that ended the run
            torch.cuda.empty_cache()
    if libc := _glibc():
        libc.malloc_trim(0)


def device_for(gpus: float) -> torch.device:
    """Return the device of a run with `gpus` GPUs, which may be a fraction: the current GPU of this process.

    A worker of several sees all GPUs of its node (`share_cuda_visible_devices`). `assigned_gpu` makes its own one the
    current one, and `require_separate_gpus` checks that.

    Raises UnusableGpu if torch cannot use the GPU. The alternative would be a day of training on the CPU.
    """
    remedy = "(see docs/cluster.md, 'Which torch'), or train on the CPU with --set workers.gpus=0"
    if gpus and not torch.cuda.is_available():
        raise UnusableGpu(
            f"torch {torch.__version__} cannot use the GPU that this run was assigned ({cuda_error()}); install a "
            f"torch for the driver's CUDA {remedy}"
        )
    if gpus and (kind := _unsupported()):
        raise UnusableGpu(
            f"torch {torch.__version__} has no code for the {torch.cuda.get_device_name()} ({kind}) that this run was "
            f"assigned; {install_command(torch_for(kind))} {remedy}"
        )
    return torch.device("cuda", torch.cuda.current_device()) if gpus else torch.device("cpu")


def _unsupported() -> str | None:
    """Return the architecture of the current GPU if torch has no code for it, else None."""
    return unsupported_gpu(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())


def is_mig_instance(device: torch.device) -> bool:
    """Return whether `device` is a MIG instance, a part of a partitioned GPU. CUDA shows a process only one."""
    if (name := gpu_name(device)) is None:
        return False
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    return visible.startswith("MIG-") or " MIG " in name


def gpu_name(device: torch.device) -> str | None:
    """Return the name of the GPU, such as 'NVIDIA H100 80GB HBM3'; None for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def gpu_uuid(device: torch.device) -> str:
    """Return what identifies the GPU on its node, however CUDA numbers those that this process sees; '' for the CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""


def best_device() -> torch.device:
    """Return the GPU if there is one that torch has code for, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not _unsupported() else "cpu")


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@cache
def _cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags from Linux; empty elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def why_not_graph(run: Run, compute: Compute, num_workers: int, is_on_disk: bool = False) -> str:
    """Return why the steps of `run` are launched from Python; '' if they are captured as a CUDA graph.

    is_on_disk: whether its images are on disk.

    A graph replays the recorded kernels, so code whose work differs between steps must not be captured. raykd cannot
    know that about a custom method.
    """
    if run.recipe.step == "eager":
        return "disabled by step=eager"
    if compute.device.type != "cuda":
        return "CUDA graphs require a GPU"
    if num_workers > 1:
        return "several workers exchange gradients"
    if is_on_disk:
        return "images on disk are decoded by the CPU"
    if run.recipe.augmentation.randaugment:
        return "each operation of RandAugment changes a different number of images in each step"
    optimizer = run.recipe.optimizer
    if isinstance(optimizer, NamedOptimizer) and not optimizer.is_capturable:
        return f"the optimizer {optimizer.name} may read numbers from the GPU"
    if compute.precision == "fp16" and isinstance(optimizer, NamedOptimizer) and not optimizer.is_fused:
        return f"fp16 with the optimizer {optimizer.name} reads from the GPU whether to skip an update"
    if run.method.is_custom and run.recipe.step == "auto":
        return "a custom method may differ between steps; if it does not, set student.step=graph"
    return ""
