"""The float type in which losses are computed."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; float32 and float64 as they are (so float64 in gives float64 out)."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
