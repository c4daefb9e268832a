"""ImageNet (ILSVRC 2012): 1,281,167 training and 50,000 validation images of 1,000 classes.

Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", arXiv:1409.0575. The folder
imagenet/ (or imagenet-1k/, ILSVRC2012/) of the data folder has one of these layouts, of which the first is read:

    data/train-00000-of-00294.parquet, data/validation-...     the Hub's ILSVRC/imagenet-1k, see parquet_folder.py
    imagenet1k-train-0000.tar, imagenet1k-validation-00.tar    the Hub's timm/imagenet-1k-wds, see webdataset.py
    train/<wnid>/*.JPEG, val/<wnid>/*.JPEG                     as for torchvision, see image_folder.py

The labels of the test split are not published, so the validation split is the test split. Mean and std are the
published ones (torchvision's), in all layouts and at all sizes.
"""

from pathlib import Path

from raykd.data import image_folder, parquet_folder, webdataset
from raykd.data.sources import ImageSource
from raykd.data.splits import TEST
from raykd.disk.lookup import is_folder
from raykd.errors import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LAYOUTS = (
    "data/train-00000-of-00294.parquet and data/validation-... (the Hub's ILSVRC/imagenet-1k), "
    "imagenet1k-train-0000.tar and imagenet1k-validation-00.tar (the Hub's timm/imagenet-1k-wds), or "
    "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG"
)


def exists(place: Path) -> bool:
    """Return whether `place` holds one of the layouts. `find` then checks the files."""
    return any(layout.find_files(place) for layout in (parquet_folder, webdataset)) or image_folder.exists(place)


def find(place: Path) -> ImageSource:
    """Find the images below `place` in the first layout that exists. Raises DataError if none does, or for a fault."""
    if not is_folder(place):
        raise DataError(
            f"{place}: no such folder; raykd does not download ImageNet: get it from image-net.org or the Hugging Face "
            f"Hub, and put it there as {_LAYOUTS}"
        )
    for layout in (parquet_folder, webdataset):
        if layout.find_files(place):
            return layout.find(place, ignored=(TEST,), statistics=(MEAN, STD))
    if image_folder.exists(place) or is_folder(place / "train"):
        return image_folder.find(place, ignored=(TEST,), statistics=(MEAN, STD))
    raise DataError(f"{place}: holds no layout of ImageNet that raykd reads; it reads {_LAYOUTS}")
