"""Where a run computes, and in which float type."""

import torch


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context for 'fp32' (nothing changes) or 'bf16' (matrix products and convolutions in bfloat16)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
