"""Decoding of single images: orientation despite odd metadata, and an error with a remedy for each failure."""

import io
import random
import struct
import zlib
from collections.abc import Callable

import exif_variants
import numpy as np
import pytest
from exif_variants import PIXELS, TURN, jpeg, png
from PIL import Image, ImageFile, ImageOps, PngImagePlugin
from small_images import png_chunk

from raykd.data import image_decoding
from raykd.errors import DataError

VALID = list(exif_variants.valid(700))
INVALID = list(exif_variants.invalid(100))
SIDE = len(PIXELS)


def decode(encoded: bytes) -> np.ndarray:
    return image_decoding.decode("ant.png", encoded, image_decoding.TargetSize(SIDE)).pixels


def upright(encoded: bytes) -> np.ndarray:
    """Return the stored pixels."""
    return np.asarray(Image.open(io.BytesIO(encoded)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("carrier", [png, jpeg])
def test_valid_orientation_is_applied_despite_odd_entries(carrier: Callable[[bytes], bytes]) -> None:
    stored = upright(carrier(b""))
    assert {variant.orientation for variant in VALID} == set(TURN)
    for number, variant in enumerate(VALID):
        expected = TURN[variant.orientation](stored)
        assert np.array_equal(decode(carrier(variant.exif)), expected), (number, variant)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("carrier", [png, jpeg])
def test_without_a_valid_orientation_an_image_is_not_rotated(carrier: Callable[[bytes], bytes]) -> None:
    stored = upright(carrier(b""))
    for number, variant in enumerate(INVALID):
        assert np.array_equal(decode(carrier(variant.exif)), stored), (number, variant)


@pytest.mark.parametrize("orientation", TURN)
def test_orientations_equal_pillows(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = png(exif.tobytes())
    assert np.array_equal(decode(encoded), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))))


def xmp(orientation: int) -> str:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'


def png_with_text(key: str, text: str, compressed: bool = False) -> bytes:
    info = PngImagePlugin.PngInfo()
    (info.add_itxt if key.startswith("XML") else info.add_text)(key, text, zip=compressed)
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def test_orientation_is_read_from_xmp_and_from_exif_stored_as_text() -> None:
    block = exif_variants.tiff("<", [exif_variants.entry("<", 0x0112, 3, 1, b"\6\0")])
    profile = f"\nexif\n{len(block):8}\n{block.hex()}\n"
    for compressed in (False, True):
        assert np.array_equal(decode(png_with_text("Raw profile type exif", profile, compressed)), TURN[6](PIXELS))
    assert np.array_equal(decode(png_with_text("XML:com.adobe.xmp", xmp(8))), TURN[8](PIXELS))
    packet = b"http://ns.adobe.com/xap/1.0/\0" + xmp(3).encode()
    plain = jpeg(b"")
    encoded = plain[:20] + b"\xff\xe1" + struct.pack(">H", len(packet) + 2) + packet + plain[20:]
    assert np.array_equal(decode(encoded), TURN[3](upright(plain)))


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000))),
        png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(20_000_000))),
        png_chunk(b"zTXt", b"Comment\0\0no zlib"),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(20_000_000))),
        png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(20_000_000))),
        png_chunk(b"gAMA", b""),
        png_chunk(b"pHYs", b"1"),
        png_chunk(b"acTL", b"\0"),
    ],
    ids=["text", "packed text", "UTF-8 text", "damaged text", "packed EXIF", "ICC", "gamma", "resolution", "animation"],
)
def test_png_chunks_without_pixels_are_ignored(chunk: bytes) -> None:
    plain = png(b"")
    assert np.array_equal(decode(plain[:33] + chunk + plain[33:]), PIXELS)  # 33 bytes: signature and IHDR


def test_jpeg_segments_without_pixels_are_ignored() -> None:
    plain = jpeg(b"")
    noise = random.Random(0)
    for marker in (0xE1, 0xE2, 0xE3, 0xED, 0xEF, 0xFE):
        for head in (b"MPF\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"Exif\0\0", b""):
            data = head + noise.randbytes(noise.randrange(60))
            encoded = plain[:20] + bytes((0xFF, 0xFF, marker)) + struct.pack(">H", len(data) + 2) + data + plain[20:]
            assert np.array_equal(decode(encoded), upright(plain)), (marker, data)


def damaged(encoded: bytes, draw: random.Random) -> bytes:
    content = bytearray(encoded)
    for _ in range(draw.choice((0, 1, 1, 4, 30))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content[: draw.choice((len(content), len(content), draw.randrange(len(content))))])


@pytest.mark.parametrize("carrier", [png, jpeg])
def test_damaged_image_is_decoded_or_refused_in_one_line(carrier: Callable[[bytes], bytes]) -> None:
    draw, num_named = random.Random(2), 0
    for number in range(600):
        content = damaged(carrier(VALID[number % len(VALID)].exif), draw)
        try:
            assert decode(content).shape == (SIDE, SIDE, 3)
        except DataError as error:
            assert str(error).startswith("ant.png ") and "\n" not in str(error)
            num_named += 1
    assert num_named > 100


@pytest.mark.parametrize("error", [SyntaxError, struct.error, ValueError, OverflowError, ZeroDivisionError, IndexError])
def test_every_error_of_a_decoder_names_the_file(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error("odd\nbytes")

    encoded = png(b"")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(DataError, match=r"ant\.png is a PNG or JPEG that cannot be decoded \(odd bytes\); copy or"):
        decode(encoded)


def test_error_for_too_many_pixels_has_the_limit() -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 14_000, 14_000, 8, 0, 0, 0, 0))
    encoded = b"\x89PNG\r\n\x1a\n" + header + png(b"")[33:]
    message = r"ant\.png has 196,000,000 pixels, and 178,956,970 is the limit; make it smaller"
    for read in (decode, lambda content: image_decoding.square_size("ant.png", content)):
        with pytest.raises(DataError, match=message):
            read(encoded)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"RIFF\x24\0\0\0WEBPVP8 ", "it is a WEBP by its content; convert it to PNG or JPEG"),
        (b"GIF89a", "it is a GIF by its content"),
        (b"BM\x46\0\0\0\0\0\0\0\x36", "it is a BMP by its content"),
        (b"II*\0\x08\0\0\0", "it is a TIFF by its content"),
        (b"\0\0\0\x18ftypheic", "it is a HEIC or AVIF by its content"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a Git LFS pointer .*; run: git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "it is a web page .*; copy or download it again"),
        (b"", "it is empty or all zeros; copy or download it again"),
        (bytes(5_000), "it is empty or all zeros; copy or download it again"),
        (b"a image", "store one of these"),
    ],
)
def test_error_for_another_format_names_the_format(content: bytes, remedy: str) -> None:
    with pytest.raises(DataError, match=rf"ant\.png is no PNG or JPEG; {remedy}"):
        decode(content)


def deep_png(values: np.ndarray) -> bytes:
    """Return a PNG of 16 bits: gray for [H, W]; RGB for [H, W, 3], which Pillow reads but cannot write."""
    if values.ndim == 2:
        stream = io.BytesIO()
        Image.fromarray(values.astype(np.uint16)).save(stream, "PNG")
        return stream.getvalue()
    height, width, _ = values.shape
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_images_of_16_bits_must_use_their_range(bits: int, channels: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (3, SIDE, SIDE, *channels))
    values[:, 0, 0] = 2**bits - 1
    encoded = [deep_png(values[0]), png(b""), *map(deep_png, values[1:])]
    pixels = np.empty((4, SIDE, SIDE, 3), dtype=np.uint8)
    deep = image_decoding.decode_all(pixels, lambda row: (f"{row}.png", encoded[row]), image_decoding.TargetSize(SIDE))
    assert deep == [(f"{row}.png", 2**bits - 1) for row in (0, 2, 3)]
    assert np.array_equal(pixels[1], PIXELS) and pixels[0].max() == (2**bits - 1) >> 8
    if bits == 16:
        image_decoding.require_full_range(deep)
        return
    with pytest.raises(DataError, match=rf"^0\.png: its values of 16 bits go up to {2**bits - 1:,} at most, .* 3 of 3"):
        image_decoding.require_full_range(deep)


def test_a_few_dark_images_of_16_bits_are_accepted() -> None:
    bright = [(f"{row}.png", 65_535) for row in range(10)]
    image_decoding.require_full_range([*bright, ("dark.png", 4_000), ("black.png", 0), ("black2.png", 0)])
    with pytest.raises(DataError, match=r"^dark\.png"):
        image_decoding.require_full_range([*bright[:5], ("dark.png", 4_000)])
    image_decoding.require_full_range([])
