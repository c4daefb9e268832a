"""Augmentation of views: random crop, RandAugment, cutout, random erasing, mixup and CutMix. All are off by default.

    augmented(seed, epoch, index) = mix(image, partner)     image, partner = erase(cutout(randaugment(crop(view))))

Every random number is a hash of (seed, epoch, index), and if images are repeated also of the number of the draw, like
the view: see counter_rng.py. The formulas are in docs/augmentation.md. Each technique has its own module, and
augmenter.py applies them.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from raykd.config import Config, Interval, NonNegativeInt, skip_if_default

TECHNIQUES = ("crop_area", "randaugment", "cutout", "erasing", "mixup", "cutmix")
MAX_OPERATIONS = 100  # of RandAugment per image
MAX_MAGNITUDE = 30  # magnitude at which every operation of RandAugment is strongest
# With an alpha of 32, nearly all weights of Beta(alpha, alpha) are between 0.3 and 0.7.
Alpha = Annotated[float, Interval("[0, 32]", "1 for uniform weights")]


@dataclass(frozen=True)
class Augmentation(Config):
    """Augmentation techniques. Random numbers differ for each image. TECHNIQUES is the order of application.

    If mixup and cutmix are both on, every image uses one of the two, each with probability 1/2.
    """

    kind: ClassVar[str] = "augmentation"
    # smallest fraction of the view's area that a crop keeps before it is resized; 1 disables crops
    crop_area: Annotated[float, Interval("(0, 1]")] = 1.0
    randaugment: tuple[int, ...] = ()  # operations per image, and their magnitude; () for none (arXiv:1909.13719)
    # side in pixels of the square that is replaced by the mean color; 0 for none (arXiv:1708.04552)
    cutout: NonNegativeInt = 0
    mixup: Alpha = 0.0  # alpha of the mixed images' weights, from Beta(alpha, alpha); 0 for none (arXiv:1710.09412)
    cutmix: Alpha = 0.0  # alpha of the pasted areas, from Beta(alpha, alpha); 0 for none (arXiv:1905.04899)
    # probability that a box of an image is erased, after cutout; 0 for none (arXiv:1708.04896)
    erasing: Annotated[float, Interval("[0, 1]")] = skip_if_default(0.0)
    # what replaces the erased pixels: 'noise', normal for each pixel with the data's mean and std, or the 'mean' color
    erasing_fill: Literal["noise", "mean"] = skip_if_default("noise")

    def check(self) -> None:
        is_pair = len(self.randaugment) in (0, 2)
        self.require(is_pair, "randaugment", "must be operations,magnitude, such as 2,9; or () for none")
        has_effect = self.erasing > 0 or self.erasing_fill == Augmentation.erasing_fill
        self.require(has_effect, "erasing_fill", "has no effect while erasing = 0; set erasing=0.25, or leave it out")
        if self.randaugment:
            operations, magnitude = self.randaugment
            is_valid = 1 <= operations <= MAX_OPERATIONS
            self.require(is_valid, "randaugment", f"must begin with 1 to {MAX_OPERATIONS} operations")
            in_range = 0 <= magnitude <= MAX_MAGNITUDE
            self.require(in_range, "randaugment", f"must end with a magnitude in [0, {MAX_MAGNITUDE}]")

    @property
    def mixes(self) -> bool:
        """Whether a partner is mixed into each image."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def techniques(self) -> tuple[str, ...]:
        """The names of the enabled techniques, in the order in which they are applied."""
        return tuple(name for name in TECHNIQUES if getattr(self, name) != getattr(NO_AUGMENTATION, name))


NO_AUGMENTATION = Augmentation()
