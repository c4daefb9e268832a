"""What a training step changes on the host, besides tensors: random number generators, and values of modules.

A CUDA graph replays the kernels of one step, and runs no Python. A network that skips layers at random by
`random.random()`, or counts its calls to schedule DropBlock, would repeat the decisions of the captured step.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import nn

_PLAIN = (bool, int, float, str)
_GENERATORS = {
    "the state of torch's generator on the CPU": lambda: torch.get_rng_state().numpy().tobytes(),
    "the state of Python's generator 'random'": random.getstate,
    "the state of NumPy's generator": lambda: str(np.random.get_state(legacy=False)),  # noqa: NPY002 - the global one
}


def host_state(module: nn.Module) -> dict[str, Any]:
    """Return the states of the global generators, and the numbers and text among the attributes of `module`'s parts."""
    values = {
        f"'{path}.{name}'": value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if type(value) in _PLAIN
    }
    return values | {name: state() for name, state in _GENERATORS.items()}


def changes(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the names of what differs between two states."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
