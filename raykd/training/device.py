"""Where a run computes, and in which float type."""

import torch

from raykd.errors import ConfigError


def device_of(gpus: float) -> torch.device:
    """Where a run computes that was given `gpus` GPUs, a share of one included.

    Raises ConfigError when torch cannot use the GPU that is there: a day on the CPU would be the other outcome.
    """
    if gpus and not torch.cuda.is_available():
        raise ConfigError(
            f"torch {torch.__version__} cannot use the GPU that this run was given; install a torch for the driver's "
            "CUDA (see README.md, 'Which torch'), or train on the CPU with --set workers.gpus=0"
        )
    return torch.device("cuda" if gpus else "cpu")


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context for 'fp32' (nothing changes) or 'bf16' (matrix products and convolutions in bfloat16)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
