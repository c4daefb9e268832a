"""Checkpoints for exact resume.

A checkpoint is one safetensors file with everything that the next step depends on. It is written to a temporary file
and renamed. Random numbers need no state: they are functions of seed, epoch and step (determinism.py).

objective.*  weights and buffers of student and adapter      optimizer.<parameter>.*  that parameter's state
best.*       weights of the best epoch                       header                   Progress as JSON

The header also has the parts of the optimizer's state that are not tensors (optimizer_state.py).

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

from raykd.disk.lookup import is_file
from raykd.errors import ConfigError, RunFailed
from raykd.models.tensor_checksum import CHECKSUM, require_intact
from raykd.models.weights import load_tensors, save_weights
from raykd.training.optimizer_state import pack_state, unpack_state


@dataclass
class Progress:
    """The progress of a run: `step` steps of `epoch` are done, with the epoch's `sums` of loss terms so far.

    run: its fingerprint. seconds: training time over all resumes. best_epoch, best_val_top1: of the epoch that is kept
    (best_epoch.py); the latter is in percent, -1 before the first epoch, and NaN without validation images.
    waited_s: the part of the finished epochs' time in which steps waited for images on disk.
    peak_memory_bytes: the maximum over all resumes; 0 if unknown.
    loss_scale: the state of the loss scaler of a run in fp16 (loss_scale.py).
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
    waited_s: float = 0.0
    loss_scale: dict[str, float] | None = None


def save_checkpoint(
    path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, best: dict[str, Tensor], progress: Progress
) -> None:
    """Write the checkpoint `path`, replacing an earlier one. best: the weights of the best epoch."""
    tensors = {f"objective.{name}": tensor for name, tensor in objective.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    state, structure = pack_state(objective, optimizer)
    tensors |= {f"optimizer.{name}": tensor for name, tensor in state.items()}
    others = {"optimizer": json.dumps(structure)} if structure else {}
    save_weights(path, tensors, {"progress": json.dumps(asdict(progress))} | others)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file, on the CPU."""

    path: Path
    progress: Progress
    objective: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor]
    structure: dict[str, Any] = field(default_factory=dict)  # of the optimizer's state, see optimizer_state.py

    def restore(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Load the state of objective and optimizer. Raises RunFailed if the file belongs to another run."""
        try:
            load_tensors(objective, self.objective)
            unpack_state(objective, optimizer, self.optimizer, self.structure)
        except (RuntimeError, KeyError, IndexError):
            raise _other_run_error(self.path) from None


def read_checkpoint(path: Path, run: str = "") -> Checkpoint | None:
    """Return the checkpoint of the run with the fingerprint `run`; None if there is no file.

    Raises RunFailed for a checkpoint that is damaged or belongs to another run.
    """
    if not is_file(path):
        return None
    groups: dict[str, dict[str, Tensor]] = {"objective": {}, "optimizer": {}, "best": {}}
    try:
        tensors, metadata = _read_intact(path)
        for name, tensor in tensors.items():
            kind, rest = name.split(".", 1)
            groups[kind][rest] = tensor
        progress, structure = Progress(**json.loads(metadata["progress"])), json.loads(metadata.get("optimizer", "{}"))
        checkpoint = Checkpoint(path, progress, **groups, structure=structure)
    except ConfigError:
        why = "its content does not match its checksum"
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        if checkpoint.progress.run != run:
            raise _other_run_error(path)
        return checkpoint
    raise RunFailed(f"checkpoint '{path}' is damaged ({why}); remove it to train from the start")


def progress_of(path: Path, run: str) -> Progress | None:
    """Return the progress in the checkpoint of the run with the fingerprint `run`. It reads no tensor.

    None if there is none that can be read: `read_checkpoint`, which the training calls, raises the reason.
    """
    if not is_file(path):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None
    return progress if progress.run == run else None


def set_run_of_checkpoint(path: Path, run: str) -> None:
    """Write the fingerprint `run` to the checkpoint `path`. A missing or damaged checkpoint stays as it is."""
    if not is_file(path):
        return
    try:
        tensors, metadata = _read_intact(path)
        progress = json.loads(metadata["progress"])
    except (ConfigError, SafetensorError, KeyError, ValueError):
        return
    others = {name: value for name, value in metadata.items() if name != CHECKSUM}
    if progress["run"] != run:
        save_weights(path, tensors, others | {"progress": json.dumps(progress | {"run": run})})


def _read_intact(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a checkpoint file.

    Raises ConfigError if they do not match their checksum, and SafetensorError if the file is truncated.
    """
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
    require_intact(path, tensors, {CHECKSUM: "missing", **metadata})
    return tensors, metadata


def _other_run_error(path: Path) -> RunFailed:
    return RunFailed(f"checkpoint '{path}' belongs to another run; remove it to train from the start")
