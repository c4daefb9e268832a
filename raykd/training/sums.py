"""An epoch's sums of loss terms, kept on the device and read once: a step never waits for the GPU."""

from collections.abc import Mapping

import torch
from torch import Tensor

from raykd.errors import RunDiverged
from raykd.training.group import SINGLE_WORKER, Group


class EpochSums:
    """A worker's sums over the steps of one epoch, and the first step at which a term was not finite.

    What is read from it is of all workers, and all must read at once.
    """

    def __init__(self, names: tuple[str, ...], device: torch.device, group: Group = SINGLE_WORKER) -> None:
        self.names = names
        self._group = group
        self._sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self._first_bad = torch.full((len(names),), -1, dtype=torch.int64, device=device)

    def clear(self) -> None:
        """Begin an epoch. The tensors keep their addresses, which a CUDA graph has recorded."""
        self._sums.zero_()
        self._first_bad.fill_(-1)

    def add(self, terms: Mapping[str, Tensor], step: int | Tensor) -> None:
        """Add one step's terms, each []; nothing is read from the device. step: a number, or int64 [1]."""
        values = torch.stack([terms[name].detach() for name in self.names])
        self._sums += values
        is_first = (self._first_bad < 0) & ~values.isfinite()
        self._first_bad.copy_(torch.where(is_first, step, self._first_bad))

    def means(self, epoch: int, num_steps: int) -> dict[str, float]:
        """Return the mean of each term over the epoch's `num_steps`.

        Raises RunDiverged when one became NaN or infinite, with epoch, step and term.
        """
        self.require_finite(epoch)
        means = self._group.gather(self._sums).mean(0) / max(num_steps, 1)
        return dict(zip(self.names, means.tolist(), strict=True))

    def require_finite(self, epoch: int) -> None:
        """Raises RunDiverged naming the term that went first; among terms of one step, the parts before the loss."""
        first_bad = self._group.gather(self._first_bad).tolist()
        bad = [(step, position) for steps in first_bad for position, step in enumerate(steps) if step >= 0]
        if bad:
            step, position = min(bad)
            name = self.names[position]
            if epoch == step == 0:  # no update came before, so the learning rate has no part in it
                raise RunDiverged(
                    f"loss term '{name}' is NaN or infinite in the first step, before any update; the method's "
                    "fields, the initial weights or the teacher's outputs make it so: look at these"
                )
            raise RunDiverged(
                f"loss term '{name}' became NaN or infinite in epoch {epoch}, step {step}; "
                "lower the learning rate, or clip gradients (clip_gradient_norm)"
            )

    def to_json(self) -> dict[str, object]:
        """For a checkpoint within the epoch, each worker's own; floats keep all their bits in JSON."""
        return {"names": list(self.names), "sums": self._group.gather(self._sums).tolist()}

    def restore(self, payload: dict) -> None:
        """Resume from `to_json`. Another number of workers than wrote it each begin with the mean of those workers."""
        sums = torch.tensor(payload["sums"], dtype=torch.float64)
        self._sums.copy_(sums[self._group.rank] if len(sums) == self._group.size else sums.mean(0))
