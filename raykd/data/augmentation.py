"""What is done to a view before it is shown: a crop, RandAugment, cutout, mixup and CutMix. All off by default.

    shown(seed, epoch, index) = mix(own, partner)        own, partner = cutout(randaugment(crop(view)))

Every number that is drawn is a hash of (seed, epoch, index), as the view is: see counter_rng.py. The formulas are in
docs/augmentation.md; each technique has a file of its own, and augmenter.py applies them.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from raykd.config import AtMost, Config

MAX_MAGNITUDE = 30  # of RandAugment: where each operation is at its strongest
MAX_ALPHA = 32.0  # of Beta(alpha, alpha): nearly all shares are then between 0.3 and 0.7


@dataclass(frozen=True)
class Augmentation(Config):
    """Each field switches one technique on, in this order; every image gets numbers of its own.

    crop_area: the smallest share of the view that a crop keeps, which is resized to the whole; 1 crops nothing.
    randaugment: (operations an image, magnitude from 0 to 30), or () for none (arXiv:1909.13719).
    cutout: side of the square that is painted over with the mean pixel; 0 for none (arXiv:1708.04552).
    mixup, cutmix: alpha of the Beta(alpha, alpha) of shares; 0 for none (arXiv:1710.09412, arXiv:1905.04899). Where
    both are on, each image takes one of them by the toss of a coin.
    """

    kind: ClassVar[str] = "augmentation"
    crop_area: float = 1.0
    randaugment: Annotated[tuple[int, ...], AtMost(100)] = ()
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def check(self) -> None:
        self.require(0 < self.crop_area <= 1, "crop_area", "must lie in (0, 1]: a share of the view; 1 crops nothing")
        is_pair = len(self.randaugment) in (0, 2)
        self.require(is_pair, "randaugment", "wants two numbers, operations and magnitude, such as 2,9; or () for none")
        if self.randaugment:
            operations, magnitude = self.randaugment
            self.require(operations >= 1, "randaugment", "must begin with 1 operation or more; or be () for none")
            in_range = 0 <= magnitude <= MAX_MAGNITUDE
            self.require(in_range, "randaugment", f"must end with a magnitude in [0, {MAX_MAGNITUDE}]")
        self.require(self.cutout >= 0, "cutout", "must be 0 (none) or more pixels")
        for name in ("mixup", "cutmix"):
            in_range = 0 <= getattr(self, name) <= MAX_ALPHA
            self.require(in_range, name, f"must lie in [0, {MAX_ALPHA:g}]: 0 for none, 1 for shares that are uniform")

    @property
    def mixes(self) -> bool:
        """Whether a second image is mixed into each."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def techniques(self) -> tuple[str, ...]:
        """The names of what is on, in the order in which it is applied."""
        return tuple(name for name in vars(self) if getattr(self, name) != getattr(NO_AUGMENTATION, name))


NO_AUGMENTATION = Augmentation()
