"""Random crops against Pillow's resizing, and their sizes; squares of cutout, their area and color."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from raykd.data.counter_rng import AUGMENT, hash64
from raykd.data.cutout import Cutout
from raykd.data.load import load_dataset
from raykd.data.random_crop import RandomCrop

NUM = 20_000
KEYS = hash64(AUGMENT, 0, 0, torch.arange(NUM))
DIGITS = load_dataset("digits", None).train.images.permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("least_area", [0.05, 0.5])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 16)])
def test_crops_equal_pillows_resized_boxes_to_a_gray_level(least_area: float, height: int, width: int) -> None:
    crop, images = RandomCrop(least_area, height, width), DIGITS[:200, :height, :width].contiguous()
    draws = crop.draw(KEYS[:200])
    actual = crop.apply(images, draws).numpy().astype(int)
    for number, (top, left, rows, columns) in enumerate(zip(*(tensor.tolist() for tensor in draws), strict=True)):
        box = Image.fromarray(images[number, top : top + rows, left : left + columns].numpy())
        expected = np.asarray(box.resize((width, height), Resampling.BILINEAR)).astype(int)
        assert abs(actual[number] - expected).max() <= 2, "1/256 of a weight at each of two passes"
        assert abs(actual[number] - expected).mean() < 0.5


def test_a_box_of_the_whole_image_is_the_image() -> None:
    crop = RandomCrop(1.0, 16, 16)
    nothing, whole = torch.zeros(200, dtype=torch.int64), torch.full((200,), 16)
    assert torch.equal(crop.apply(DIGITS[:200], (nothing, nothing, whole, whole)), DIGITS[:200])


@pytest.mark.nightly
def test_crops_have_torchvisions_distribution_of_sizes_and_positions() -> None:
    actual = [tensor.numpy() for tensor in RandomCrop(0.08, 32, 32).draw(KEYS)]
    torch.manual_seed(0)
    image = torch.zeros(3, 32, 32)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(NUM)]).T
    for ours, other in zip(actual, theirs, strict=True):
        assert stats.ks_2samp(ours, other).pvalue > 1e-3


def test_crops_are_inside_the_image_and_keep_the_minimum_area() -> None:
    top, left, height, width = RandomCrop(0.3, 32, 24).draw(KEYS)
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 32).all() and (left + width <= 24).all()
    assert (height * width).min() >= 0.3 * 32 * 24 - 32  # a side is rounded by half a pixel
    assert (height * width).max() == pytest.approx(32 * 24, rel=0.1)


def test_the_whole_image_is_used_if_no_box_fits() -> None:
    """In an image 4 times as wide as high, no box of nearly its area has an aspect from 3:4 to 4:3."""
    top, left, height, width = RandomCrop(0.99, 8, 32).draw(KEYS[:100])
    assert {*zip(top.tolist(), left.tolist(), height.tolist(), width.tolist(), strict=True)} == {(0, 0, 8, 32)}


@pytest.mark.parametrize("side", [1, 8, 15, 16])
def test_cutout_masks_the_expected_fraction_of_pixels(side: int) -> None:
    """The expected fraction is the square of that of one axis: the mean over all centers."""
    fill = torch.tensor([1, 2, 3], dtype=torch.uint8)
    cutout = Cutout(side, 32, 32, fill)
    images = torch.zeros(NUM, 32, 32, 3, dtype=torch.uint8)
    shown = cutout.apply(images, cutout.draw(KEYS))
    covered = (shown[..., 0] == 1).float().mean((1, 2))
    first = torch.arange(32) - side // 2
    by_axis = ((first + side).clamp(max=32) - first.clamp(min=0)).float().mean() / 32
    assert covered.mean().item() == pytest.approx(by_axis.item() ** 2, rel=0.02)
    assert covered.max().item() == (side / 32) ** 2
    assert torch.equal(shown, (shown[..., :1] * fill)), "the color is all there or not at all"


def test_cutout_is_a_square_around_its_center_clipped_at_the_edges() -> None:
    cutout = Cutout(4, 6, 8, torch.tensor([9, 9, 9], dtype=torch.uint8))
    images = torch.zeros(3, 6, 8, 3, dtype=torch.uint8)
    shown = cutout.apply(images, (torch.tensor([0, 3, 5]), torch.tensor([0, 4, 7])))[..., 0]
    for image, rows, columns in zip(
        shown, [range(2), range(1, 5), range(3, 6)], [range(2), range(2, 6), range(5, 8)], strict=True
    ):
        inside = torch.zeros(6, 8, dtype=torch.bool)
        inside[rows.start : rows.stop, columns.start : columns.stop] = True
        assert torch.equal(image == 9, inside)


def test_centers_of_cutout_are_uniform() -> None:
    row, column = Cutout(4, 8, 5, torch.zeros(3, dtype=torch.uint8)).draw(KEYS)
    counts = (row * 5 + column).bincount(minlength=40)
    assert len(counts) == 40 and stats.chisquare(counts.numpy()).pvalue > 1e-3
