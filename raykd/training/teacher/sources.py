"""Teachers that a training step calls: none, live, or cached."""

from collections.abc import Callable, Iterable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from raykd.data.loader import Batch
from raykd.models import ImageModel
from raykd.outputs import Outputs
from raykd.store.records import TeacherSource, TopClasses
from raykd.training.teacher.sparse_rows import RowLayout


class Teacher(Protocol):
    """Returns the teacher's outputs for a batch, which carries each image's index and view."""

    @property
    def identity(self) -> str:
        """Digest of the weights (`provenance.teacher_digest`), '' without a teacher. A run keeps it when it resumes."""
        ...

    @property
    def source(self) -> TeacherSource | Literal[""]:
        """'live', 'cache', or '' without a teacher. A run keeps its source, because their rounding differs."""
        ...

    @property
    def top_classes(self) -> TopClasses | None:
        """The classes whose logits a cached teacher kept, if it did not keep all of them; else None."""
        ...

    def network(self) -> ImageModel | None:
        """Return the teacher's network, on any device; None without a teacher, and with several."""
        ...

    def __call__(self, batch: Batch) -> Outputs | None: ...


class NoTeacher:
    """The teacher of baselines, and of teachers in training."""

    identity = ""
    source: Literal[""] = ""
    top_classes = None

    def network(self) -> None:
        return

    def __call__(self, batch: Batch) -> None:
        return


no_teacher = NoTeacher()


class MeanLogits(nn.Module):
    """Several networks as one: returns the float32 mean of their logits, and no other outputs.

    Softened at any temperature, the mean of logits is the normalized geometric mean of the softened outputs. This is
    one of the two means that Hinton et al. 2015 name for an ensemble (arXiv:1503.02531, section 1), and the only one
    that a logit cache can hold for every temperature. You et al. 2017 use the other one, the mean of the softened
    outputs themselves (Learning from Multiple Teacher Networks, doi:10.1145/3097983.3098135).
    """

    def __init__(self, models: Iterable[ImageModel]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(torch.stack([model(images).logits.float() for model in self.models]).mean(0))


class LiveTeacher:
    """Runs the teacher's network on the student's views, in evaluation mode and without gradients."""

    source: TeacherSource = "live"
    top_classes = None

    def __init__(self, model: nn.Module, identity: str = "") -> None:
        """model: maps uint8 views [B, 3, H, W] to Outputs; an ImageModel or MeanLogits."""
        self.model = model.eval().requires_grad_(False)
        self.identity = identity

    def network(self) -> ImageModel | None:
        return self.model if isinstance(self.model, ImageModel) else None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        return self.model(batch.images)


class CachedTeacher:
    """Looks up the teacher's outputs for each image's view in the rows of a logit cache."""

    source: TeacherSource = "cache"

    def __init__(
        self,
        rows: Tensor,
        num_views: int,
        identity: str,
        embedding_width: int = 0,
        top_classes: TopClasses | None = None,
        load_network: Callable[[], ImageModel | None] = lambda: None,
    ) -> None:
        """rows: [N * V, W] on the batches' device, with embeddings if D = `embedding_width` > 0.

        top_classes: the classes that each row keeps; None if rows keep all logits, float16 [N * V, C + D].
        load_network: returns the network that filled the cache; None for several.
        """
        self._load_network = load_network
        self._rows, self._num_views, self.identity, self.top_classes = rows, num_views, identity, top_classes
        self._layout = (
            RowLayout(rows.shape[1] - embedding_width, embedding_width)
            if top_classes is None
            else RowLayout(top_classes.num_classes, embedding_width, top_classes.kept)
        )

    def network(self) -> ImageModel | None:
        return self._load_network()

    def __call__(self, batch: Batch) -> Outputs:
        return self._layout.decode(self._rows.index_select(0, batch.index * self._num_views + batch.view))
