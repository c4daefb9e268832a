"""What a method of distillation is: data and behaviour in one frozen object."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from raykd.config import Config
from raykd.outputs import Outputs, Targets

Need = Literal["logits", "embedding", "features"]


@dataclass(frozen=True)
class Method(Config):
    """The extra terms of a student's loss, and what each weighs.

    loss = sum over terms of weights(epoch)[term] * term. Every objective has the term 'ce', the labels'
    cross-entropy; a method adds its own. Methods see tensors: never a model, a file or a rank.
    """

    paper: ClassVar[str] = ""  # where the formula is from, an arXiv id where there is one
    needs: ClassVar[frozenset[Need]] = frozenset()

    def weights(self, epoch: int) -> dict[str, float]:
        """Weight of 'ce' and of each term of `terms` in `epoch`, counted from 0; warm-up belongs here."""
        raise NotImplementedError

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        """A module trained and checkpointed with the student, such as a regressor where shapes differ; None for none.

        student, teacher: outputs for some images, to show the shapes. images: every image that the run trains on,
        index ascending. Fresh weights come from torch's global generator. Raises ConfigError for shapes, or models
        without what it `needs`, that it cannot bring together.
        """
        return None

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        """The method's terms, [] each, float32, mean over the batch, unweighted. The teacher's carry no gradient."""
        raise NotImplementedError


class Memory(nn.Module):
    """An adapter whose buffers keep what its steps have seen, alike on all workers of a run."""

    def remember(self, gather: Callable[[Tensor], Tensor]) -> None:
        """After each step. gather: [*] of this worker -> [W, *], of all W by rank; called alike by all."""
        raise NotImplementedError
