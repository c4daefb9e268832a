"""scikit-learn's 1,797 handwritten digits: real images that need no download, for tests and first steps.

UCI "Optical Recognition of Handwritten Digits" (Alpaydin, Kaynak 1998): 8x8 pixels with values 0 to 16. Each pixel
becomes a 2x2 block, so images are 16x16 (nothing is interpolated: image_size=8 restores the stored image exactly).
Values become round(value * 255 / 16), in three equal channels.
"""

import hashlib
from importlib.metadata import distribution

import numpy as np
import torch

from raykd.data.splits import stratified_split
from raykd.data.types import Split

CLASS_NAMES = tuple("0123456789")
IMAGE_SIZE = 16
NUM_TEST = 597  # leaves 1,200 to train on
MEAN = (0.3052, 0.3052, 0.3052)  # mean of the 1,200 training images, as fractions of 255
STD = (0.3760, 0.3760, 0.3760)
_FILE = "sklearn/datasets/data/digits.csv.gz"  # rows of 64 pixels and the label
_SPLIT_SEED = 0  # fixed: the test split is the same everywhere


def read() -> tuple[Split, Split]:
    """Return (train, test): 1,200 and 597 images, each class in proportion, uint8 [N, 3, 16, 16]."""
    # The file is read directly: importing sklearn.datasets takes 3 s in every process that reads the digits.
    rows = np.loadtxt(str(distribution("scikit-learn").locate_file(_FILE)), delimiter=",", dtype=np.int64)
    stored, targets = rows[:, :-1], rows[:, -1]
    gray = np.rint(stored.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    blocks = gray.repeat(2, axis=1).repeat(2, axis=2)
    images = torch.from_numpy(blocks)[..., None].repeat(1, 1, 1, 3).permute(0, 3, 1, 2)  # channels-last
    labels = torch.from_numpy(targets.copy())
    train, test = stratified_split(labels, NUM_TEST, _SPLIT_SEED)
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def identity(train: Split, test: Split) -> str:
    """Return the SHA-256 of the pixels and labels."""
    digest = hashlib.sha256(b"digits")
    for tensor in (train.pixels, train.labels, test.pixels, test.labels):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
