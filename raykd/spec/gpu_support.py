"""Which GPUs a build of torch can use. Code for older GPUs is missing in the newer wheels on PyPI.

torch detects a GPU that it has no code for, and only its first kernel fails: 'no kernel image is available for
execution on the device'.
"""

import re
from collections.abc import Sequence

from raykd.errors import reason_of

VOLTA, TURING = 70, 75


def unsupported_gpu(capability: tuple[int, int], built_for: Sequence[str]) -> str | None:
    """Return the GPU's architecture, such as 'sm_60', if torch has no code for it; None if it may have.

    built_for: torch's architectures, such as ['sm_75', 'sm_80']. Code runs on later GPUs of the same generation (8.0 on
    8.6), and PTX ('compute_90') on all later GPUs.
    """
    matches = [match for name in built_for if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name))]
    is_supported = any(
        (int(match[2]) == capability[0] or match[1] == "compute") and (int(match[2]), int(match[3])) <= capability
        for match in matches
    )
    return None if is_supported or not matches else f"sm_{capability[0]}{capability[1]}"


def torch_for(architecture: str) -> str:
    """Return the torch on PyPI for a GPU that the installed one has no code for as a requirement."""
    generation = int(architecture.removeprefix("sm_"))
    if generation >= TURING:
        return "torch"  # the GPU is newer than the installed torch
    return "torch<2.11" if generation >= VOLTA else "torch<2.8"  # the last wheels for Volta, and for Pascal


def cuda_error() -> str:
    """Return why torch cannot use CUDA: an old driver, a GPU that hangs, a torch for CPUs; '' if it can."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return reason_of(error)
    return ""
