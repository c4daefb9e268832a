"""Where the teacher's outputs for a batch come from."""

from collections.abc import Callable

import torch

from raykd.data.loader import Batch
from raykd.models import ImageModel
from raykd.outputs import Outputs

# A table of logits slots in here: a Batch carries the index and view of every image.
Teacher = Callable[[Batch], Outputs | None]


def no_teacher(batch: Batch) -> None:
    """The target of a baseline and of a teacher's own training."""
    return


class LiveTeacher:
    """Runs the teacher's network on the student's own view; evaluation mode, no gradients."""

    def __init__(self, model: ImageModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        return self.model(batch.images)
