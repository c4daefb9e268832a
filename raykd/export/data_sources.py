"""Origin and license of the built-in data sets, for the model card."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSource:
    """The origin and license of a data set, as the model card states them."""

    title: str
    hub: str  # the data set's name on the Hugging Face Hub, or ''
    origin: str  # a sentence
    license: str  # a sentence


_KRIZHEVSKY = (
    "Krizhevsky 2009, *Learning Multiple Layers of Features from Tiny Images*, "
    "https://www.cs.toronto.edu/~kriz/cifar.html; labeled images of the Tiny Images collection, from the web."
)
_NO_LICENSE = "Its authors state no license; they ask to cite the report. The rights to the images are not known."
_COARSE = " The labels are its 20 superclasses, of five classes each."

_SOURCES = {
    "cifar10": DataSource("CIFAR-10", "uoft-cs/cifar10", _KRIZHEVSKY, _NO_LICENSE),
    "cifar100": DataSource("CIFAR-100", "uoft-cs/cifar100", _KRIZHEVSKY, _NO_LICENSE),
    "cifar100-coarse": DataSource("CIFAR-100 by superclass", "uoft-cs/cifar100", _KRIZHEVSKY + _COARSE, _NO_LICENSE),
    "digits": DataSource(
        "handwritten digits",
        "",
        "Alpaydin and Kaynak 1998, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, "
        "https://doi.org/10.24432/C50P49; the copy of its test part that scikit-learn includes.",
        "The repository lists it under CC BY 4.0.",
    ),
    "imagenet": DataSource(
        "ImageNet-1k (ILSVRC 2012)",
        "ILSVRC/imagenet-1k",
        "Russakovsky et al. 2015, *ImageNet Large Scale Visual Recognition Challenge*, "
        "https://arxiv.org/abs/1409.0575; photographs from the web.",
        "Its terms of access admit non-commercial research and education only. The rights to the images are not known.",
    ),
    "tiny_imagenet": DataSource(
        "Tiny ImageNet",
        "",
        "Le and Yang 2015, *Tiny ImageNet Visual Recognition Challenge*, Stanford CS 231N, http://cs231n.stanford.edu; "
        "reduced photographs of ImageNet.",
        "Its authors state no license; the terms of ImageNet admit non-commercial research and education only.",
    ),
}


def source_of(data: str) -> DataSource:
    """Return the source of the data set `data`. For custom data it states that nothing is known."""
    title = data.partition(":")[2] or data
    unknown = "The origin of these images is not recorded; state it here before you publish the model."
    return _SOURCES.get(data, DataSource(title, "", unknown, "Their license is not recorded either."))
