"""The machine, its driver, its versions, and torch's default flags."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpu_parts.report import Part
from gpu_parts.setting import Setting
from raykd.provenance import PACKAGES, hardware, source, versions
from raykd.training.usage import energy_counter


def measure(part: Part, setting: Setting) -> None:
    part.figure("machine", lambda: _machine(setting))
    part.figure("versions", lambda: versions() | {"packages asked for": ", ".join(PACKAGES)})
    part.figure("torch", _torch)
    part.figure("source", source)
    part.figure("compiler", lambda: {name: str(shutil.which(name)) for name in ("cc", "gcc", "g++", "nvcc", "ptxas")})
    part.figure("precision flags", precision_flags)
    part.figure("gpu", lambda: _gpu(setting.device), cuda=True)
    part.figure("nvidia-smi", _nvidia_smi, cuda=True)
    part.figure("nvml energy", lambda: {"joules_since_driver_start": energy_counter(setting.device, 1.0)()}, cuda=True)


def _machine(setting: Setting) -> dict[str, Any]:
    shared = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    return {
        **hardware(None),
        "system": platform.platform(),
        "cpus_of_machine": os.cpu_count(),
        "cpus_of_process": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "shared_memory_MiB": shared.free / 2**20 if shared else None,
        "disk_free_GiB": shutil.disk_usage(setting.folder).free / 2**30,
        "memory": next((line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line), ""),
    }


def _torch() -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "architectures": " ".join(torch.cuda.get_arch_list()),
        "triton": _value(lambda: __import__("triton").__version__),
    }


def precision_flags() -> dict[str, Any]:
    """Return torch's precision flags. Each is read separately: torch refuses to mix old and new names."""
    readers: dict[str, Callable[[], Any]] = {
        "cuda.matmul.allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": lambda: torch.backends.cudnn.allow_tf32,
        "cudnn.benchmark": lambda: torch.backends.cudnn.benchmark,
        "cudnn.deterministic": lambda: torch.backends.cudnn.deterministic,
        "float32_matmul_precision": torch.get_float32_matmul_precision,
        "bf16_reduced_precision_reduction": lambda: torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
    }
    return {name: _value(read) for name, read in readers.items()}


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "memory_GiB": properties.total_memory / 2**30,
        "free_GiB": torch.cuda.mem_get_info(device)[0] / 2**30,
        "multiprocessors": properties.multi_processor_count,
    }


def _nvidia_smi() -> dict[str, str]:
    fields = (
        "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,pstate,"
        "persistence_mode,compute_mode,mig.mode.current,ecc.mode.current,pcie.link.gen.current,pcie.link.width.current"
    )
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    return dict(zip(fields.split(","), (value.strip() for value in output.split(",")), strict=False))


def _value(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # noqa: BLE001  # the other flags are read all the same
        return f"{type(error).__name__}: {error}"
