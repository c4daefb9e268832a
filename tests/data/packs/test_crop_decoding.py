"""Crops of an image are those of its fully decoded pixels, in every format, and damage is one clear line."""

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image

from raykd.data.image_decoding import decode_whole
from raykd.data.packs.crops import Box, crop, decode_for_crops, reduction_of
from raykd.errors import DataError

SIDE = 16


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image with the low frequencies of a photo."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


PHOTO = smooth(120, 90)
FILES = {
    "4:2:0": encode(PHOTO, subsampling=2),
    "4:2:2": encode(PHOTO, subsampling=1),
    "4:4:4": encode(PHOTO, subsampling=0),
    "restart markers": encode(PHOTO, restart_marker_rows=1),
    "optimized": encode(PHOTO, optimize=True),
    "progressive": encode(PHOTO, progressive=True),
    "gray": encode(PHOTO.convert("L")),
    "CMYK": encode(PHOTO.convert("CMYK")),
    "PNG": encode(PHOTO, "PNG"),
    "palette": encode(PHOTO.convert("P"), "PNG"),
    "EXIF, upright": encode(PHOTO, exif=exif(1)),
    "EXIF, turned": encode(PHOTO, exif=exif(6)),
    "odd size": encode(smooth(119, 91), subsampling=2),
}
BOXES = {
    "top": Box(0, 0, 30, 40, False),
    "middle": Box(21, 33, 31, 37, True),
    "bottom": Box(60, 10, 30, 30, False),
    "all": Box(0, 0, 90, 90, True),
    "one pixel": Box(5, 7, 1, 1, False),
}


def size_of(encoded: bytes) -> tuple[int, int]:
    height, width = decode_whole("", encoded).shape[:2]
    return height, width


def view_of(encoded: bytes, box: Box, side: int = SIDE) -> np.ndarray:
    view = np.zeros((side, side, 3), dtype=np.uint8)
    reduction = reduction_of(box, side)
    crop(decode_for_crops("it", encoded, size_of(encoded), [box], reduction), box, view)
    return view


def expected_view(encoded: bytes, box: Box, side: int = SIDE) -> np.ndarray:
    whole = decode_whole("", encoded)[box.top : box.top + box.height, box.left : box.left + box.width]
    part = torch.from_numpy(whole.copy())[None].permute(0, 3, 1, 2)
    resized = F.interpolate(part, (side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    return resized[:, ::-1] if box.is_flipped else resized


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("file", FILES)
def test_a_crop_has_the_pixels_of_the_whole_image_decoded_by_pillow(file: str, box: str) -> None:
    """Rows below the crop are not decoded, which must not show: chroma is interpolated from neighboring rows."""
    side = 48  # so large that no image is decoded at a reduced size
    assert (view_of(FILES[file], BOXES[box], side) == expected_view(FILES[file], BOXES[box], side)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_its_exif_requires_even_at_a_reduced_size(orientation: int) -> None:
    encoded = encode(smooth(40, 30).resize((320, 240), Image.Resampling.BICUBIC), quality=95, exif=exif(orientation))
    height, width = size_of(encoded)
    whole = Box(0, 0, height, width, False)
    decoded = decode_for_crops("it", encoded, (height, width), [whole], 1)
    assert decoded.reduction == 1 and (decoded.pixels == decode_whole("", encoded)).all()
    reduced = decode_for_crops("it", encoded, (height, width), [whole], 4)
    small = np.asarray(Image.fromarray(decode_whole("", encoded)).reduce(4)).astype(int)
    assert reduced.reduction == 4 and abs(reduced.pixels - small).mean() < 3


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_the_number_of_decoded_rows_leaves_the_rows_of_the_crop_unchanged(subsampling: str, reduction: int) -> None:
    pixels = np.ascontiguousarray(smooth(40, 136, seed=1))
    encoded = simplejpeg.encode_jpeg(pixels, colorsubsampling=subsampling)
    whole = decode_for_crops("it", encoded, (136, 40), [Box(0, 0, 136, 40, False)], reduction).pixels
    if reduction == 1:
        assert (whole == decode_whole("", encoded)).all()
    for bottom in range(1, 137):
        decoded = decode_for_crops("it", encoded, (136, 40), [Box(0, 0, bottom, 40, False)], reduction).pixels
        num_rows = round(bottom / reduction)
        assert (decoded[:num_rows] == whole[:num_rows]).all(), bottom
    first = decode_for_crops("it", encoded, (136, 40), [Box(0, 0, 8, 40, False)], reduction).pixels
    assert len(first) < len(whole)


@pytest.mark.parametrize(("shortest", "reduction"), [(63, 2), (64, 4), (127, 4), (128, 8), (31, 1), (32, 2)])
def test_a_large_crop_is_decoded_at_a_reduced_size(shortest: int, reduction: int) -> None:
    box = Box(3, 5, shortest, shortest + 9, False)
    assert reduction_of(box, SIDE) == reduction
    decoded = decode_for_crops("it", encode(smooth(300, 200)), (200, 300), [box], reduction)
    assert decoded.reduction == reduction
    assert decoded.pixels.shape[1] == -(-300 // reduction)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_image_shows_the_same_crop_up_to_rounding(reduction: int) -> None:
    """Two gray levels; the photo's blocks of 64 pixels differ by 80 on average. Edges are multiples of 8 here."""
    encoded = encode(smooth(40, 30).resize((320, 240), Image.Resampling.BICUBIC), quality=95)
    box = Box(32, 64, SIDE * reduction, SIDE * reduction + 8, True)
    error = view_of(encoded, box).astype(int) - expected_view(encoded, box)
    assert abs(error).mean() < 2


def test_an_image_that_cannot_be_decoded_is_named() -> None:
    encoded = FILES["4:2:0"]
    for damaged in (encoded[:200], b"\xff\xd8\xff" + bytes(100), b"no image", b"\xff\xd8\xff\xc0"):
        with pytest.raises(DataError, match=r"^row 3 (is|of)"):
            decode_for_crops("row 3", damaged, (90, 120), [BOXES["all"]], 1)


def test_an_image_of_another_size_than_the_index_has_is_named() -> None:
    with pytest.raises(DataError, match=r"^row 3 is 120x90 pixels instead of 120x91"):
        decode_for_crops("row 3", FILES["4:2:0"], (91, 120), [Box(0, 0, 91, 91, False)], 1)
