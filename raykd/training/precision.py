"""The float type of a forward pass."""

import torch


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context for 'fp32' (nothing changes) or 'bf16' (matrix products and convolutions in bfloat16)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
