"""Which images of the training part a run trains on, and which are held out."""

from torch import Tensor

from raykd.data.splits import stratified_holdout, stratified_subset
from raykd.experiment import Data


def rows_of(data: Data, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(rows trained on, rows held out for validation) of the training part; both int64, ascending.

    The held-out rows depend on val_images and split_seed alone, so teacher and students share them.
    """
    kept, held_out = stratified_holdout(labels, data.val_images, data.split_seed)
    for asked in (data.train_images, data.student_images):
        if asked is not None:
            kept = kept[stratified_subset(labels[kept], asked, data.split_seed)]
    return kept, held_out
