"""Checkpoints for exact resume.

A checkpoint is one safetensors file with everything that the next step depends on. It is written to a temporary file
and renamed. Random numbers need no state: they are functions of seed, epoch and step (determinism.py).

objective.*  weights and buffers of student and adapter      optimizer.<parameter>.*  that parameter's state
best.*       weights of the best epoch                       header                   Progress as JSON

A checksum in the header covers every tensor's bytes and the progress. A damaged checkpoint is refused. The run is not
restarted automatically, since that could lose hours and hide a failing disk. Other runs of the command continue.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from raykd.errors import ConfigError, RunFailed
from raykd.models.tensor_checksum import CHECKSUM, require_intact
from raykd.models.weights import save_weights


@dataclass
class Progress:
    """The progress of a run: `step` steps of `epoch` are done, with the epoch's `sums` of loss terms so far.

    run: its fingerprint. seconds: training time over all resumes. best_val_top1: in percent, -1 before the first epoch.
    peak_memory_bytes: the maximum over all resumes; 0 if unknown.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = -1
    best_val_top1: float = -1.0
    sums: dict[str, Any] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    run: str = ""
    peak_memory_bytes: int = 0


def save_checkpoint(
    path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, best: dict[str, Tensor], progress: Progress
) -> None:
    """Write the checkpoint `path`, replacing an earlier one. best: the weights of the best epoch."""
    tensors = {f"objective.{name}": tensor for name, tensor in objective.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for parameter_name, parameter in objective.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{parameter_name}.{name}": value for name, value in state.items() if value is not None}
    save_weights(path, tensors, {"progress": json.dumps(asdict(progress))})


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file, on the CPU."""

    path: Path
    progress: Progress
    objective: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor]

    def restore(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Load the state of objective and optimizer. Raises RunFailed if the file belongs to others."""
        try:
            objective.load_state_dict(self.objective)
            _restore_optimizer(objective, optimizer, self.optimizer)
        except (RuntimeError, KeyError):
            raise _of_another_run(self.path) from None


def read_checkpoint(path: Path, run: str = "") -> Checkpoint | None:
    """Return the checkpoint of the run with the fingerprint `run`; None if there is no file.

    Raises RunFailed for a checkpoint that is damaged or belongs to another run.
    """
    if not path.is_file():
        return None
    groups: dict[str, dict[str, Tensor]] = {"objective": {}, "optimizer": {}, "best": {}}
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata()
        require_intact(path, tensors, {CHECKSUM: "missing", **metadata})
        for name, tensor in tensors.items():
            kind, rest = name.split(".", 1)
            groups[kind][rest] = tensor
        checkpoint = Checkpoint(path, Progress(**json.loads(metadata["progress"])), **groups)
    except ConfigError:
        why = "its content does not match its checksum"
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        if checkpoint.progress.run != run:
            raise _of_another_run(path)
        return checkpoint
    raise RunFailed(f"checkpoint '{path}' is damaged ({why}); remove it to train from the start")


def _of_another_run(path: Path) -> RunFailed:
    return RunFailed(f"checkpoint '{path}' belongs to another run; remove it to train from the start")


def _restore_optimizer(objective: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the state. Raises KeyError for an unknown parameter, RuntimeError for a state of another shape."""
    parameters = dict(objective.named_parameters())
    fused = {id(p) for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    for name, tensor in tensors.items():
        parameter_name, key = name.rsplit(".", 1)
        parameter = parameters[parameter_name]
        if tensor.ndim:
            # Keep the parameter's strides (channels_last): rounding depends on the layout, and a resume must be exact.
            value = torch.empty_like(parameter.detach()).copy_(tensor)
        else:  # a step count, which fused kernels require on the weights' device
            value = tensor.to(parameter.device) if id(parameter) in fused else tensor
        optimizer.state[parameter][key] = value
