"""Mixup and CutMix: shares against scipy's Beta distribution, boxes, and pixels against slow mixtures."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from raykd.data.counter_rng import AUGMENT, hash64
from raykd.data.mixing import QUANTILES, Mixing, smaller_shares

NUM = 20_000
KEYS = hash64(AUGMENT, 0, 0, torch.arange(NUM))


def drawn(mixup: float, cutmix: float, height: int = 32, width: int = 32) -> dict[str, Tensor]:
    names = ("share", "inside", "outside", "top", "bottom", "left", "right")
    return dict(zip(names, Mixing(mixup, cutmix, height, width, "cpu").draw(KEYS), strict=True))


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 0.8, 1.0, 2.0, 8.0, 32.0])
def test_quantiles_match_the_lower_half_of_beta(alpha: float) -> None:
    """P(min(x, 1 - x) < q) = 2 P(x < q)."""
    quantiles = smaller_shares(alpha).double().numpy()
    expected = stats.beta(alpha, alpha).ppf((torch.arange(QUANTILES) + 0.5).numpy() / QUANTILES / 2)
    assert abs(quantiles - expected).max() < 2e-5
    assert (quantiles * QUANTILES % 1 == 0).all() and quantiles.min() >= 0 and quantiles.max() <= 0.5


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_shares_of_mixup_have_the_upper_half_of_betas_distribution(alpha: float) -> None:
    share = drawn(alpha, 0)["share"].double().numpy()
    assert share.min() >= 0.5 and share.max() <= 1
    folded = stats.beta(alpha, alpha)
    assert stats.kstest(share, lambda x: 2 * folded.cdf(x) - 1).pvalue > 1e-3


def test_mixed_pixels_are_rounded_weighted_means() -> None:
    generator = torch.Generator().manual_seed(0)
    image, partner = torch.randint(0, 256, (2, 500, 6, 8, 3), dtype=torch.uint8, generator=generator)
    mixing = Mixing(1.0, 0, 6, 8, "cpu")
    draws = mixing.draw(KEYS[:500])
    share = draws[0].double().view(-1, 1, 1, 1)
    exact = share * image.double() + (1 - share) * partner.double()
    assert torch.equal(mixing.apply(image, partner, draws), (exact + 0.5).floor().to(torch.uint8))


def test_cutmix_has_the_partner_inside_or_outside_of_a_box() -> None:
    image, partner = (
        torch.full((NUM, 12, 10, 3), 200, dtype=torch.uint8),
        torch.zeros(NUM, 12, 10, 3, dtype=torch.uint8),
    )
    mixing = Mixing(0, 1.0, 12, 10, "cpu")
    draws = drawn(0, 1.0, 12, 10)
    shown = mixing.apply(image, partner, tuple(draws.values()))[..., 0]
    assert set(shown.unique().tolist()) == {0, 200}
    for number in range(200):
        top, bottom, left, right = (int(draws[name][number]) for name in ("top", "bottom", "left", "right"))
        expected = torch.full((12, 10), 200 * int(draws["outside"][number]))
        expected[top:bottom, left:right] = 200 * int(draws["inside"][number])
        assert torch.equal(shown[number].long(), expected)
    assert 0.03 < draws["inside"].mean() < 0.4, "image and partner are exchanged for boxes of more than half"


def test_share_of_cutmix_is_the_larger_fraction_of_pixels() -> None:
    ones, zeros = torch.full((NUM, 32, 32, 3), 1, dtype=torch.uint8), torch.zeros(NUM, 32, 32, 3, dtype=torch.uint8)
    draws = drawn(0, 1.0)
    shown = Mixing(0, 1.0, 32, 32, "cpu").apply(ones, zeros, tuple(draws.values()))
    assert torch.equal(shown.float().mean((1, 2, 3)), draws["share"])
    assert draws["share"].min() >= 0.5


def test_boxes_of_cutmix_have_the_papers_sizes_and_centers() -> None:
    """For alpha 1 the area of a box before clipping and its center are uniform."""
    draws = drawn(0, 1.0, 101, 101)
    whole = (draws["top"] > 0) & (draws["bottom"] < 101) & (draws["left"] > 0) & (draws["right"] < 101)
    sides = (draws["bottom"] - draws["top"])[whole]
    assert torch.equal(sides, (draws["right"] - draws["left"])[whole]), "a box has the image's proportions"
    small = whole & (draws["bottom"] - draws["top"] < 20)
    centers = ((draws["top"] + draws["bottom"]) / 2)[small]
    assert stats.kstest((centers / 101).numpy(), stats.uniform(0.0, 1.0).cdf).statistic < 0.15  # edges are clipped
    areas = ((draws["bottom"] - draws["top"]) * (draws["right"] - draws["left"])) / 101**2
    assert areas.max() > 0.8 and areas.min() < 0.001
    # About a uniform center an axis of length s is clipped to s - s^2 / 4 on average.
    side = torch.rand(NUM, generator=torch.Generator().manual_seed(0)).sqrt()
    expected = (side - side**2 / 4).square().mean()
    assert areas.float().mean().item() == pytest.approx(expected.item(), abs=0.01)


def test_mixup_and_cutmix_together_are_each_used_for_half_of_the_images() -> None:
    both, mixup, cutmix = drawn(0.8, 1.0), drawn(0.8, 0), drawn(0, 1.0)
    is_mixup = both["inside"] == both["outside"]
    assert is_mixup.float().mean().item() == pytest.approx(0.5, abs=0.015)
    for name in both:
        assert torch.equal(both[name][is_mixup], mixup[name][is_mixup])
        assert torch.equal(both[name][~is_mixup], cutmix[name][~is_mixup])
