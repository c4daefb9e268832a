"""Random erasing: boxes against torchvision's, the share of erased images, and the noise in the boxes."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomErasing

from raykd.data.counter_rng import AUGMENT, hash64
from raykd.data.erasing import NUM_STARTS, Erasing, noise

NUM = 5_000
KEYS = hash64(AUGMENT, 0, 0, torch.arange(NUM))
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.15, 0.1)


def erasing(probability: float = 1.0, height: int = 32, width: int = 32, has_noise: bool = True) -> Erasing:
    return Erasing(probability, has_noise, height, width, MEAN, STD, "cpu")


def boxes(draws: tuple[Tensor, ...]) -> list[Any]:
    """Return top, left, height and width of the drawn boxes."""
    top, bottom, left, right, _ = draws
    return [tensor.numpy() for tensor in (top, left, bottom - top, right - left)]


def test_boxes_have_torchvisions_distribution_of_sizes_and_positions() -> None:
    torch.manual_seed(0)
    image, area, aspect = torch.zeros(3, 32, 32), (0.02, 1 / 3), (0.3, 1 / 0.3)
    theirs = [RandomErasing.get_params(image, area, aspect, [0.0])[:4] for _ in range(NUM)]
    for ours, other in zip(boxes(erasing().draw(KEYS)), np.array(theirs).T, strict=True):
        compared: Any = stats.ks_2samp(ours, other)
        assert compared.pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 24)])
def test_boxes_are_inside_the_image_and_have_the_area_of_the_paper(height: int, width: int) -> None:
    top, left, rows, columns = boxes(erasing(1.0, height, width).draw(KEYS))
    assert (top >= 0).all() and (left >= 0).all() and (top + rows <= height).all() and (left + columns <= width).all()
    area = rows * columns / (height * width)
    assert 0 < area.min() < 0.03 and 0.3 < area.max() < 0.37  # a side is rounded by half a pixel
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, rel=0.05)


@pytest.mark.parametrize("probability", [0.25, 0.5, 1.0])
def test_the_probability_is_the_share_of_erased_images(probability: float) -> None:
    rows = boxes(erasing(probability).draw(KEYS))[2]
    assert stats.binomtest(int((rows > 0).sum()), NUM, probability).pvalue > 1e-3


def test_a_higher_probability_erases_the_same_boxes_and_more() -> None:
    few, many = (erasing(probability).draw(KEYS) for probability in (0.25, 0.5))
    is_erased = few[1] > few[0]
    assert all(torch.equal(one[is_erased], other[is_erased]) for one, other in zip(few, many, strict=True))


@pytest.mark.parametrize("has_noise", [True, False])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_only_the_pixels_of_the_box_are_replaced(height: int, width: int, has_noise: bool) -> None:
    erase = erasing(0.5, height, width, has_noise)
    draws = erase.draw(KEYS[:200])
    images = torch.randint(0, 256, (200, height, width, 3), generator=torch.Generator().manual_seed(0)).byte()
    shown = erase.apply(images.clone(), draws)
    sequence = noise(NUM_STARTS + height * width, MEAN, STD)
    mean = torch.tensor([128, 102, 76], dtype=torch.uint8)  # 127.5, 102 and 76.5, to the nearest even number
    for number, (top, bottom, left, right, start) in enumerate(zip(*(draw.tolist() for draw in draws), strict=True)):
        expected = images[number].clone()
        fill = sequence[start : start + height * width].view_as(expected) if has_noise else mean.expand_as(expected)
        expected[top:bottom, left:right] = fill[top:bottom, left:right]
        assert torch.equal(shown[number], expected)


def test_noise_is_normal_with_the_datas_mean_and_std() -> None:
    pixels = noise(50_000, MEAN, STD).double()
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        distribution = stats.norm(255 * mean, 255 * std)
        edges = np.quantile(pixels[:, channel], np.linspace(0.05, 0.95, 19)).round() + 0.5
        expected = len(pixels) * np.diff([0, *distribution.cdf(edges), 1])
        observed = np.histogram(pixels[:, channel], [-1, *edges, 256])[0]
        assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_noise_is_independent_between_pixels_channels_and_images() -> None:
    erase = erasing()
    parts = erase._fill_of(erase.draw(KEYS)[4][:500]).view(500, -1, 3).double()
    standardized = (parts - parts.mean((0, 1))) / parts.std((0, 1))
    neighbors = (standardized[:, 1:] * standardized[:, :-1]).mean((0, 1))
    channels = (standardized * standardized.roll(1, -1)).mean((0, 1))
    images = (standardized[1:] * standardized[:-1]).mean((0, 1))
    limit = 4 / (500 * 1024) ** 0.5
    assert torch.cat([neighbors, channels, images]).abs().max() < limit


def test_noise_is_clipped_to_gray_levels() -> None:
    pixels = noise(50_000, (0.0, 0.5, 1.0), (0.2, 0.2, 0.2)).double()
    black, white = (pixels == 0).double().mean(0), (pixels == 255).double().mean(0)
    assert black[0].item() == pytest.approx(0.5, abs=0.02) and white[2].item() == pytest.approx(0.5, abs=0.02)
