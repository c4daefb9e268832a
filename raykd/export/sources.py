"""Where the images of a dataset come from, and under which terms, for the model card."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """hub: its name on the Hugging Face hub, or ''. origin and licence are sentences."""

    title: str
    hub: str
    origin: str
    licence: str


_KRIZHEVSKY = (
    "Krizhevsky 2009, *Learning Multiple Layers of Features from Tiny Images*, "
    "https://www.cs.toronto.edu/~kriz/cifar.html; labelled pictures of the Tiny Images collection, from the web."
)
_NO_LICENCE = "Its authors state no licence; they ask to cite the report. The pictures' own rights are not known."
_TWENTY = " The labels are its 20 superclasses, of five classes each."

_SOURCES = {
    "cifar10": Source("CIFAR-10", "uoft-cs/cifar10", _KRIZHEVSKY, _NO_LICENCE),
    "cifar100": Source("CIFAR-100", "uoft-cs/cifar100", _KRIZHEVSKY, _NO_LICENCE),
    "cifar100-coarse": Source("CIFAR-100 by superclass", "uoft-cs/cifar100", _KRIZHEVSKY + _TWENTY, _NO_LICENCE),
    "digits": Source(
        "handwritten digits",
        "",
        "Alpaydin and Kaynak 1998, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, "
        "https://doi.org/10.24432/C50P49; the copy of its test part that scikit-learn ships.",
        "The repository lists it under CC BY 4.0.",
    ),
}


def source_of(data: str) -> Source:
    """Of the dataset called `data`; of any other than raykd's own, that nothing is known."""
    title = data.partition(":")[2] or data
    unknown = "raykd does not know where these images come from; whoever passes the model on should say it here."
    return _SOURCES.get(data, Source(title, "", unknown, "Not known to raykd; ask whoever gave you the images."))
