"""The most memory that a run takes: of its GPU, or of its whole process where it has none."""

from pathlib import Path

import torch

STATUS, PEAKS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): the peak resident set begins anew at what is resident now


def reset_peak(device: torch.device) -> bool:
    """Count from here; whether that can be had. A process that did other runs before would count theirs too."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        PEAKS.write_text(RESET_PEAK)
    except OSError:  # no Linux, or a container that forbids it
        return False
    return True


def peak_bytes(device: torch.device) -> int | None:
    """Bytes at the most since `reset_peak`, or since the process began; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    # Not ru_maxrss: a child begins with its parent's.
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
