"""The built-in digits: real pixels, a fixed split, and constants that match the data."""

import pytest
import torch
from sklearn.datasets import load_digits

from raykd.data.load import load_dataset
from raykd.errors import ConfigError


def test_digits_have_a_fixed_stratified_split() -> None:
    digits = load_dataset("digits", None)
    assert (len(digits.train), len(digits.test)) == (1_200, 597)
    both = digits.train.labels.bincount() + digits.test.labels.bincount()
    assert ((digits.test.labels.bincount() - both * 597 / 1_797).abs() < 1).all()
    assert digits.identity == load_dataset("digits", None).identity
    assert digits.num_classes == 10
    assert digits.image_size == 16


def test_averaging_restores_every_stored_digit() -> None:
    small = load_dataset("digits", None, image_size=8)
    stored, _ = load_digits(return_X_y=True)
    expected = torch.from_numpy(stored * 255 / 16).round().to(torch.uint8).tolist()
    for channel in range(3):
        pixels = torch.cat([small.train.images[:, channel], small.test.images[:, channel]]).flatten(1).tolist()
        assert sorted(pixels) == sorted(expected)


def test_mean_and_std_are_those_of_the_training_images() -> None:
    digits = load_dataset("digits", None)
    pixels = digits.train.images.double() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(digits.mean, abs=5e-5)
    assert pixels.std((0, 2, 3), correction=0).tolist() == pytest.approx(digits.std, abs=5e-5)


def test_identity_depends_on_the_size() -> None:
    assert len({load_dataset("digits", None, size).identity for size in (16, 8, 4)}) == 3
    assert load_dataset("digits", None, 16).identity == load_dataset("digits", None).identity


def test_error_for_an_impossible_size_lists_the_possible_ones() -> None:
    message = "data.image_size = 12: must divide 16, the pixels per side .* of digits; set it to one of 1, 2, 4, 8, 16"
    with pytest.raises(ConfigError, match=message):
        load_dataset("digits", None, image_size=12)
