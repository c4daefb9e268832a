"""Views: their numbers and frequencies, and the renderer against slow padding, mirroring and cropping."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from raykd.data.views import ViewRenderer, Views
from raykd.errors import ConfigError

KINDS = [Views(4, True), Views(4, False), Views(1, True), Views(0, True), Views(0, False)]


def random_images(num_images: int = 12, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, 3, height, width)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)  # no black pixels


def identity_view(views: Views) -> int:
    """Return the view that is the image itself: not mirrored, cropped in the middle."""
    return views.crop_padding * (2 * views.crop_padding + 1) + views.crop_padding


def slow_view(image: Tensor, views: Views, view: int) -> Tensor:
    """Mirror, pad and crop one image [3, H, W]."""
    reach = 2 * views.crop_padding + 1
    flip, top, left = view // reach**2, view // reach % reach, view % reach
    mirrored = image.flip(2) if flip else image
    padded = pad(mirrored, [views.crop_padding] * 4)
    return padded[:, top : top + image.shape[1], left : left + image.shape[2]]


@pytest.mark.parametrize("views", KINDS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_every_view_equals_pad_mirror_and_crop(views: Views, height: int, width: int) -> None:
    images = random_images(5, height, width)
    index = torch.arange(5).repeat_interleave(views.count)
    view = torch.arange(views.count).repeat(5)
    rendered = ViewRenderer(images, views).render(index, view)
    slow = [slow_view(images[i], views, v) for i, v in zip(index.tolist(), view.tolist(), strict=True)]
    assert rendered.equal(torch.stack(slow))


@pytest.mark.parametrize("views", KINDS)
def test_identity_view_is_the_image_itself(views: Views) -> None:
    images = random_images()
    index = torch.arange(len(images))
    rendered = ViewRenderer(images, views).render(index, torch.full_like(index, identity_view(views)))
    assert rendered.equal(images)


@pytest.mark.parametrize("views", KINDS)
def test_rendered_batches_are_uint8_and_channels_last(views: Views) -> None:
    rendered = ViewRenderer(random_images(), views).render(torch.tensor([3, 3]), torch.tensor([0, 0]))
    assert rendered.dtype == torch.uint8
    assert rendered.shape == (2, 3, 8, 8)
    assert rendered.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_strides_of_the_stored_images_do_not_matter(memory_format: torch.memory_format) -> None:
    images = random_images()
    index, view = torch.arange(12), torch.arange(12) * 13
    expected = ViewRenderer(images, Views(4, True)).render(index, view)
    stored = images.to(memory_format=memory_format)
    assert ViewRenderer(stored, Views(4, True)).render(index, view).equal(expected)


def test_rendering_does_not_change_the_stored_images() -> None:
    images = random_images().to(memory_format=torch.channels_last)
    before = images.clone()
    ViewRenderer(images, Views(0, False)).render(torch.arange(12), torch.zeros(12, dtype=torch.int64)).zero_()
    assert images.equal(before)


def test_images_are_not_copied_without_crops_and_flips() -> None:
    images = random_images().to(memory_format=torch.channels_last)
    renderer = ViewRenderer(images, Views(0, False))
    assert renderer._segments.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()


@pytest.mark.parametrize(("views", "count"), [*zip(KINDS, [162, 81, 18, 2, 1], strict=True)])
def test_count_is_crops_times_flips(views: Views, count: int) -> None:
    assert views.count == count


def test_views_are_uniform() -> None:
    views = Views(4, True)
    drawn = torch.stack([views.draw(0, epoch, torch.arange(20_000)) for epoch in range(10)])
    for sample in (drawn, torch.stack([views.draw(0, epoch, torch.arange(20)) for epoch in range(5_000)])):
        counts = sample.flatten().bincount(minlength=views.count).double()
        expected = sample.numel() / views.count
        chi_square = ((counts - expected) ** 2 / expected).sum().item()
        assert len(counts) == 162
        assert 110 < chi_square < 222  # 161 degrees of freedom: outside with probability 0.002


def test_view_of_an_image_depends_on_seed_epoch_and_index_alone() -> None:
    views = Views(4, True)
    index = torch.randperm(1_000)
    assert views.draw(0, 3, index).equal(views.draw(0, 3, torch.arange(1_000))[index])
    for seed, epoch in ((1, 3), (0, 4)):
        same = views.draw(seed, epoch, index) == views.draw(0, 3, index)
        assert same.float().mean() < 0.03


def test_a_single_view_is_always_drawn() -> None:
    assert Views(0, False).draw(0, 0, torch.arange(9)).tolist() == [0] * 9


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ConfigError, match="crop_padding = -1: must be 0"):
        Views(-1, True)


@pytest.mark.gpu
@pytest.mark.parametrize("views", KINDS)
def test_cuda_renders_the_same_pixels(views: Views) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images = random_images(3_000, 32, 32)  # enough segments for 64-bit indices on the device
    index = torch.randint(0, 3_000, (512,))
    view = views.draw(0, 0, index)
    assert views.draw(0, 0, index.cuda()).cpu().equal(view)
    on_device = ViewRenderer(images, views, "cuda").render(index.cuda(), view.cuda())
    assert on_device.cpu().equal(ViewRenderer(images, views).render(index, view))
