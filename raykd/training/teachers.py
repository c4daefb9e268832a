"""Where the teacher's outputs for a batch come from."""

from typing import Protocol

import torch

from raykd.data.loader import Batch
from raykd.models import ImageModel
from raykd.outputs import Outputs


class Teacher(Protocol):
    """The target of each image of a batch. A table of logits fits: a Batch carries every image's index and view."""

    @property
    def identity(self) -> str:
        """SHA-256 of the weights that taught, hex; '' where none did. A run goes on under the same one only."""
        ...

    @property
    def source(self) -> str:
        """'live', 'table', or '' for none. A run goes on with the one that it began with: they round otherwise."""
        ...

    def __call__(self, batch: Batch) -> Outputs | None: ...


class NoTeacher:
    """Of a baseline, and of a teacher's own training."""

    identity = source = ""

    def __call__(self, batch: Batch) -> None:
        return


no_teacher = NoTeacher()


class LiveTeacher:
    """Runs the teacher's network on the student's own view; evaluation mode, no gradients."""

    source = "live"

    def __init__(self, model: ImageModel, identity: str = "") -> None:
        self.model = model.eval().requires_grad_(False)
        self.identity = identity

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        return self.model(batch.images)
