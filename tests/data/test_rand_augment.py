"""Every operation against Pillow's and torchvision's on real digits in color, and how often each is drawn."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Resampling, Transform
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms import functional as transforms
from torchvision.transforms.autoaugment import _apply_op  # the operations of its RandAugment, without the random choice

from raykd.data.counter_rng import AUGMENT, hash64
from raykd.data.load import load_dataset
from raykd.data.rand_augment import OPERATIONS, RandAugment

SIDE = 32
MAGNITUDES = (0, 1, 9, 17, 30)
# The fraction of equal pixels: Pillow steps along a line in 1/65536 pixels, torchvision computes in float32.
NEARLY_ALL = 0.999


@cache
def color_digits(num_images: int = 60) -> Tensor:
    """Return uint8 [n, 32, 32, 3]: a digit in each channel, at twice its size; two channels lack the full range."""
    images = (
        load_dataset("digits", None).train.images[: 3 * num_images, 0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    )
    pixels = images.view(num_images, 3, SIDE, SIDE).permute(0, 2, 3, 1)
    return (pixels * torch.tensor([1.0, 0.6, 0.8]) + torch.tensor([0.0, 40.0, 10.0])).to(torch.uint8).contiguous()


def ours(name: str, magnitude: int, negative: bool, images: Tensor | None = None) -> Tensor:
    """Return all digits after one operation, uint8 [n, H, W, 3]."""
    images = color_digits() if images is None else images
    augment = RandAugment(1, magnitude, *images.shape[1:3], "cpu")
    codes = torch.full((1, len(images)), 2 * OPERATIONS.index(name) + negative)
    return augment.apply(images.clone(), (codes, codes))


class Copies(TorchDispatchMode):
    """Records copies to another device and reads of values by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in tree_leaves((args, results)) if isinstance(x, Tensor) and x.ndim}
        if len(devices) > 1:
            self.names.append(str(func))
        return results


def test_nothing_is_copied_between_the_cpu_and_the_device_when_images_are_augmented() -> None:
    """On torch's meta device, whose tensors have no values that a host could read."""
    augment, keys = RandAugment(2, 9, SIDE, SIDE, "meta"), hash64(AUGMENT, torch.arange(200))
    codes, on_cpu = RandAugment(2, 9, SIDE, SIDE, "cpu").draw(keys)
    pixels = torch.empty(200, SIDE, SIDE, 3, dtype=torch.uint8, device="meta")
    with Copies() as copies:
        augment.apply(pixels, (codes.to("meta"), on_cpu))
    assert copies.names == ["aten._to_copy.default"], "only the copy of the codes, which the test makes"


def of_pillow(change: Callable[[Image.Image], Image.Image], images: Tensor | None = None) -> Tensor:
    images = color_digits() if images is None else images
    changed = [transforms.pil_to_tensor(change(Image.fromarray(image.numpy()))) for image in images]
    return torch.stack(changed).permute(0, 2, 3, 1)


def _affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transform(image.size, Transform.AFFINE, (a, b, c, d, e, f), Resampling.NEAREST)


# Operation name -> a function from signed strength in [-1, 1] to Pillow's operation on an image.
PILLOWS: dict[str, Callable[[float], Callable[[Image.Image], Image.Image]]] = {
    "identity": lambda s: lambda image: image,
    "shear_x": lambda s: _affine(1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda s: _affine(1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda s: _affine(1, 0, -int(150 / 331 * SIDE * s), 0, 1, 0),
    "translate_y": lambda s: lambda image: _affine(1, 0, 0, 0, 1, -int(150 / 331 * image.height * s))(image),
    "rotate": lambda s: lambda image: image.rotate(30 * s, Resampling.NEAREST),
    "brightness": lambda s: lambda image: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s),
    "color": lambda s: lambda image: ImageEnhance.Color(image).enhance(1 + 0.9 * s),
    "contrast": lambda s: lambda image: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s),
    "sharpness": lambda s: lambda image: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s),
    "posterize": lambda s: lambda image: ImageOps.posterize(image, 8 - round(4 * abs(s))),
    "solarize": lambda s: lambda image: ImageOps.solarize(image, 255 * (1 - abs(s))),  # type: ignore[arg-type]
    "autocontrast": lambda s: ImageOps.autocontrast,
    "equalize": lambda s: ImageOps.equalize,
}


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_pillows(name: str, magnitude: int, negative: bool) -> None:
    strength = (-1 if negative else 1) * magnitude / 30
    actual, expected = ours(name, magnitude, negative), of_pillow(PILLOWS[name](strength))
    if name in ("shear_x", "shear_y", "rotate"):
        assert (actual == expected).float().mean() > NEARLY_ALL
    else:
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_torchvisions_except_for_its_rounding(name: str, negative: bool) -> None:
    """torchvision's weights of gray sum to 0.9999, and its mean gray is not rounded: they differ by a level or two."""
    magnitude = 9
    strength = (-1 if negative else 1) * magnitude / 30
    settings = {
        **dict.fromkeys(("shear_x", "shear_y"), 0.3 * strength),
        **dict.fromkeys(("translate_x", "translate_y"), 150 / 331 * SIDE * strength),
        "rotate": 30 * strength,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.9 * strength),
        "posterize": 8 - round(4 * abs(strength)),
        "solarize": 255 * (1 - abs(strength)),
    }
    theirs = {"autocontrast": "AutoContrast"}.get(name, "".join(part.title() for part in name.split("_")))
    expected = _apply_op(
        color_digits().permute(0, 3, 1, 2),
        theirs,
        settings.get(name, 0.0),
        transforms.InterpolationMode.NEAREST,
        fill=None,
    ).permute(0, 2, 3, 1)
    difference = (ours(name, magnitude, negative).int() - expected.int()).abs()
    if name in ("shear_x", "shear_y", "rotate"):
        assert (difference == 0).float().mean() > NEARLY_ALL
    else:
        assert difference.max() <= (2 if name in ("color", "contrast", "sharpness", "autocontrast") else 0)


def test_every_operation_but_identity_changes_the_digits() -> None:
    """Otherwise comparisons of equal images would prove nothing."""
    for name in OPERATIONS[1:]:
        changed = (ours(name, 9, False) != color_digits()).flatten(1).any(1).float().mean()
        assert changed == 1, name


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.nightly
def test_operations_do_not_depend_on_the_batch(name: str) -> None:
    together = ours(name, 9, True)
    alone = [ours(name, 9, True, image[None]) for image in color_digits()]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("name", OPERATIONS)
def test_images_need_not_be_square(name: str) -> None:
    wide = color_digits()[:, :20].contiguous()
    same = ours(name, 9, False, wide) == of_pillow(PILLOWS[name](0.3), wide)
    assert same.float().mean() > NEARLY_ALL


def test_operations_are_applied_in_order() -> None:
    names = ("rotate", "solarize", "sharpness")
    codes = torch.tensor([[2 * OPERATIONS.index(name)] * len(color_digits()) for name in names])
    actual = RandAugment(3, 9, SIDE, SIDE, "cpu").apply(color_digits().clone(), (codes, codes))
    expected = color_digits()
    for name in names:
        expected = ours(name, 9, False, expected)
    assert torch.equal(actual, expected)
    assert not torch.equal(actual, ours("rotate", 9, False, ours("solarize", 9, False)))


def test_each_image_of_a_batch_has_its_own_operation() -> None:
    images = color_digits()[: 2 * len(OPERATIONS)]
    codes = torch.arange(len(images)).flip(0)
    actual = RandAugment(1, 9, SIDE, SIDE, "cpu").apply(images.clone(), (codes[None], codes[None]))
    for image, code, changed in zip(images, codes.tolist(), actual, strict=True):
        assert torch.equal(ours(OPERATIONS[code // 2], 9, code % 2 == 1, image[None])[0], changed)


def test_operations_and_signs_are_uniform_and_independent() -> None:
    keys = hash64(AUGMENT, 0, 0, torch.arange(28_000)).view(2, -1)
    codes, known = RandAugment(2, 9, SIDE, SIDE, "cpu").draw(keys)
    assert codes.shape == (2, 2, 14_000) and torch.equal(codes, known)
    for sample in (codes[0], codes[1], (codes[0] + codes[1]) % 28):
        counts = sample.flatten().bincount(minlength=28).double()
        chi_square = ((counts - 1000) ** 2 / 1000).sum().item()
        assert len(counts) == 28 and 9 < chi_square < 56  # 27 degrees of freedom: outside with probability 0.001
