"""Where the teacher's outputs for a batch come from."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from raykd.data.loader import Batch
from raykd.data.types import Dataset
from raykd.errors import RunFailed
from raykd.models import ImageModel
from raykd.outputs import Outputs
from raykd.spec.plan import Run, train_val_indices
from raykd.training.teacher.cache import LogitCache, visited


class Teacher(Protocol):
    """The target of each image of a batch. A logit cache fits: a Batch carries every image's index and view."""

    @property
    def identity(self) -> str:
        """What names the weights that taught (provenance.identity_of); '' where none did. A run goes on under the same
        ones only.
        """
        ...

    @property
    def source(self) -> str:
        """'live', 'cache', or '' for none. A run goes on with the one that it began with: they round otherwise."""
        ...

    def __call__(self, batch: Batch) -> Outputs | None: ...


class NoTeacher:
    """Of a baseline, and of a teacher's own training."""

    identity = source = ""

    def __call__(self, batch: Batch) -> None:
        return


no_teacher = NoTeacher()


class MeanLogits(nn.Module):
    """Several networks as one: views -> Outputs whose logits are the mean of theirs, float32; nothing but logits.

    Softened at any temperature it is the geometric mean of their softened outputs, made to sum to 1: one of the two
    means that Hinton et al. 2015 name for an ensemble (arXiv:1503.02531, section 1), and the one that a logit cache can
    hold whatever the temperature. The other, of the softened outputs themselves, is that of You et al. 2017 (Learning
    from Multiple Teacher Networks, doi:10.1145/3097983.3098135).
    """

    def __init__(self, models: Iterable[ImageModel]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(torch.stack([model(images).logits.float() for model in self.models]).mean(0))


class LiveTeacher:
    """Runs the teacher's network on the student's own view; evaluation mode, no gradients."""

    source = "live"

    def __init__(self, model: nn.Module, identity: str = "") -> None:
        """model: uint8 views [B, 3, H, W] -> Outputs; an ImageModel, or MeanLogits."""
        self.model = model.eval().requires_grad_(False)
        self.identity = identity

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        return self.model(batch.images)


class CachedTeacher:
    """Looks up what the teacher gave for each image's view; see cache.py."""

    source = "cache"

    def __init__(self, rows: Tensor, num_views: int, identity: str, embedding_width: int = 0) -> None:
        """rows: float16 [N * V, C + D], logits and, where D = `embedding_width` > 0, embeddings; where batches are."""
        self._rows, self._num_views, self.identity = rows, num_views, identity
        self._num_classes = rows.shape[1] - embedding_width

    def __call__(self, batch: Batch) -> Outputs:
        found = self._rows.index_select(0, batch.index * self._num_views + batch.view).float()
        logits, embedding = found.tensor_split([self._num_classes], dim=1)
        return Outputs(logits, embedding if embedding.shape[1] else None)


def read_cache(run: Run, dataset: Dataset, cache: LogitCache, device: torch.device) -> CachedTeacher:
    """The teacher of `run` from a logit cache; on a GPU its rows lie there too, on a CPU they stay mapped.

    Raises RunFailed when views are missing that the run will ask for.
    """
    rows, _ = train_val_indices(run.data, dataset.train.labels)
    asked = visited(run.data.views, rows, cache.key.num_images, {run.seed: run.recipe.epochs})
    filled, damaged = cache.check()
    if num_damaged := int((asked.any(dim=1) & damaged).sum()):
        raise RunFailed(f"{damage_in_words(cache, num_damaged)}; rerun the same command, which fills them again")
    if missing := int((asked & ~filled).sum()):
        raise RunFailed(
            f"logit cache '{cache.folder}' lacks {missing} of the {int(asked.sum())} views that {run.name} needs; "
            "rerun the same command to fill them, or use --set teacher_source=live"
        )
    key = cache.key
    return CachedTeacher(cache.rows().to(device), key.num_views, key.teacher_sha256, key.embedding_width)


def damage_in_words(cache: LogitCache, num_damaged: int) -> str:
    """Return the sentence about images of a logit cache whose rows or bits were changed on the disk."""
    return f"logit cache '{cache.folder}' is damaged: {num_damaged} images do not match their checksums"
