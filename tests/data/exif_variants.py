"""EXIF blocks with one orientation and one odd entry, as cameras and editors write them, and worse."""

import io
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

HEADER = b"Exif\0\0"
ORIENTATION = 0x0112
INTEGERS = {1: "B", 3: "H", 4: "I"}  # TIFF types in which an orientation may be stored
# Resolution, ASCII and rational tags, sub-directories, maker notes, and numbers that no standard has.
TAGS = (0x0100, 0x010F, 0x0111, 0x011A, 0x011B, 0x0128, 0x0132, 0x8769, 0x8825, 0x9201, 0x927C, 0xA005, 0xC4A5, 0x0001)
COUNTS = (0, 1, 2, 3, 8, 5_000, 2**31, 2**32 - 1)
PIXELS = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
# Each orientation as a transform of the stored rows and columns (EXIF 2.32, section 4.6.4).
TURN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


@dataclass(frozen=True)
class Variant:
    """exif: a TIFF block. orientation: its valid orientation, or 1."""

    exif: bytes
    orientation: int


def valid(num: int) -> Iterator[Variant]:
    """Yield `num` blocks with a valid orientation and arbitrary other entries."""
    draw = random.Random(0)
    for number in range(num):
        orientation, order, kind = 1 + number % 8, draw.choice("<>"), draw.choice((1, 3, 4))
        entries = [entry(order, ORIENTATION, kind, 1, struct.pack(f"{order}{INTEGERS[kind]}", orientation))]
        for _ in range(draw.choice((1, 1, 2))):
            odd = entry(order, _tag(draw), draw.randrange(17), draw.choice(COUNTS), _value(draw, order))
            entries.insert(draw.randrange(len(entries) + 1), odd)
        block = tiff(order, entries, draw.randbytes(draw.choice((0, 4, 40))))
        if number % 5 == 0:  # cut short behind the orientation
            position = 10 + 12 * next(row for row, encoded in enumerate(entries) if encoded[:2] == _packed(order)) + 12
            block = block[: draw.randrange(position, len(block) + 1)]
        yield Variant(block if number % 7 else HEADER + block, orientation)


def invalid(num: int) -> Iterator[Variant]:
    """Yield `num` blocks with an invalid orientation, or that are no TIFF."""
    draw = random.Random(1)
    for number in range(num):
        order = draw.choice("<>")
        orientation_entry = (
            entry(order, ORIENTATION, 3, 1, struct.pack(f"{order}H", draw.choice((0, 9, 255, 65_535)))),
            entry(order, ORIENTATION, 2, 2, b"6\0"),
            entry(order, ORIENTATION, 3, 0, b""),
            entry(order, ORIENTATION, draw.choice((0, 5, 7, 10, 11, 12, 13)), 1, b"\6\0"),
            entry(order, ORIENTATION, 3, 9, struct.pack(f"{order}I", 2**31)),
        )[number % 5]
        block = tiff(order, [orientation_entry], draw.randbytes(8))
        yield Variant(draw.choice((block, block[: draw.randrange(len(block))], b"XX" + block[2:], b"")), 1)


def _packed(order: str) -> bytes:
    return struct.pack(f"{order}H", ORIENTATION)


def _tag(draw: random.Random) -> int:
    tag = draw.choice((draw.choice(TAGS), draw.randrange(65_536)))
    return tag if tag != ORIENTATION else tag + 1


def _value(draw: random.Random, order: str) -> bytes:
    offset = draw.choice((0, 8, 22, 34, 60, draw.randrange(200), 2**31, 2**32 - 1))
    return draw.choice((struct.pack(f"{order}I", offset), draw.randbytes(4)))


def entry(order: str, tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")


def tiff(order: str, entries: list[bytes], extra: bytes = b"") -> bytes:
    """Return a TIFF block: one directory of entries of 12 bytes, followed by `extra`."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4) + extra


def png(exif: bytes) -> bytes:
    """Return PIXELS as a PNG with an eXIf chunk."""
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG", exif=exif)
    return stream.getvalue()


def jpeg(exif: bytes) -> bytes:
    """Return PIXELS as a JPEG with an APP1 segment after the first segment."""
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG", quality=100, subsampling=0)
    plain = stream.getvalue()
    data = HEADER + exif
    return plain[:20] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + plain[20:]
