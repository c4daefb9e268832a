"""Peak memory of a run: on its GPU, or of the whole process on a CPU."""

from pathlib import Path

import torch

STATUS, PEAKS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): reset the peak resident set size to the current one


def reset_peak(device: torch.device) -> bool:
    """Reset the peak, which may stem from an earlier run of this process. Return whether that is possible."""
    try:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            PEAKS.write_text(RESET_PEAK)
    except OSError:  # not Linux, or a container that forbids it
        return False
    return True


def peak_bytes(device: torch.device) -> int | None:
    """Return the peak in bytes since `reset_peak`, or since the process started; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    # Not ru_maxrss, which a child process inherits from its parent.
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
