"""Sums of loss terms over an epoch, kept on the device and read once, so that no step waits for the GPU."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from raykd.errors import RunDiverged
from raykd.training.group import SINGLE_WORKER, Group


class EpochSums:
    """A worker's sums over the steps of an epoch, and the first step at which each term was not finite.

    Methods that read the sums combine those of all workers, so all workers must call them.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        device: torch.device,
        group: Group = SINGLE_WORKER,
        problem_of_teacher: Callable[[int, int], str] = lambda epoch, step: "",
    ) -> None:
        """problem_of_teacher: returns what is wrong with the teacher's outputs in an epoch and step, or ''."""
        self.names = names
        self._group, self._problem_of_teacher = group, problem_of_teacher
        self._sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self._first_nonfinite_step = torch.full((len(names),), -1, dtype=torch.int64, device=device)

    def clear(self) -> None:
        """Reset the sums in place, because a CUDA graph has recorded the tensors' addresses."""
        self._sums.zero_()
        self._first_nonfinite_step.fill_(-1)

    def add(self, terms: Mapping[str, Tensor], step: int | Tensor) -> None:
        """Add one step's terms, each [], without reading from the device. step: a number, or int64 [1]."""
        values = torch.stack([terms[name].detach() for name in self.names])
        self._sums += values
        is_first = (self._first_nonfinite_step < 0) & ~values.isfinite()
        self._first_nonfinite_step.copy_(torch.where(is_first, step, self._first_nonfinite_step))

    def means(self, epoch: int, num_steps: int) -> dict[str, float]:
        """Return the mean of each term over the epoch's `num_steps`. Raises RunDiverged if one is not finite."""
        self.require_finite(epoch)
        means = self._group.gather(self._sums).mean(0) / max(num_steps, 1)
        return dict(zip(self.names, means.tolist(), strict=True))

    def require_finite(self, epoch: int) -> None:
        """Raise RunDiverged if a term was not finite, and name the first one; in one step, the first of `names`."""
        first_steps = self._group.gather(self._first_nonfinite_step).tolist()  # [workers][terms], -1 for none
        nonfinite = [(step, position) for steps in first_steps for position, step in enumerate(steps) if step >= 0]
        if nonfinite:
            step, position = min(nonfinite)
            names = {self.names[other] for other_step, other in nonfinite if other_step == step}
            raise RunDiverged(self._explain(epoch, step, self.names[position], "ce" in names))

    def _explain(self, epoch: int, step: int, name: str, is_student: bool) -> str:
        """Return which term was not finite, and what is known of the cause.

        is_student: whether the cross-entropy was not finite either, which no finite logits cause.
        """
        is_first = epoch == step == 0  # before any update, so the learning rate is not the cause
        slower = "lower the learning rate, or clip gradients (clip_gradient_norm)"
        if is_student:
            remedy = "check the network's forward() and its initial weights" if is_first else slower
            cause = f"the student's logits {'are' if is_first else 'did'}; {remedy}"
        elif problem := self._problem_of_teacher(epoch, step):
            cause = problem
        else:
            known = "the student's logits are finite; " if "ce" in self.names else ""
            remedy = "check the method's terms and fields, and the initial weights" if is_first else slower
            cause = f"{known}{remedy}" + ("" if is_first or not known else ", or check the method's terms")
        verb, when = (
            ("is", "the first step, before any update") if is_first else ("became", f"epoch {epoch}, step {step}")
        )
        return f"loss term '{name}' {verb} NaN or infinite in {when}: {cause}"

    def to_json(self) -> dict[str, object]:
        """Return each worker's sums for a checkpoint within the epoch. JSON keeps all bits of floats."""
        return {"names": list(self.names), "sums": self._group.gather(self._sums).tolist()}

    def restore(self, payload: dict) -> None:
        """Restore the sums from `to_json`. If the number of workers has changed, each worker starts with the mean."""
        sums = torch.tensor(payload["sums"], dtype=torch.float64)
        self._sums.copy_(sums[self._group.rank] if len(sums) == self._group.size else sums.mean(0))
