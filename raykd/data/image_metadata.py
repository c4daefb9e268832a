"""Strip the metadata from a PNG or JPEG file, after reading the image's orientation from its EXIF or XMP.

Pillow parses EXIF, XMP, ICC profiles and text when it opens a file, and an odd or large entry makes it fail, although
no pixel depends on it. So Pillow receives only the chunks and segments that pixels depend on. Pillow's own
`ImageOps.exif_transpose` stops at the first invalid tag, and leaves the image as it is if the orientation comes later.

Orientation: EXIF 2.32, tag 0x0112, 1 .. 8; see `turned` in image_decoding.py.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
PNG_END, JPEG_END = b"IEND", b"\xff\xd9"
_PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# JPEG application segments that describe how colors are stored: JFIF and Adobe.
_JPEG_PIXEL_SEGMENTS = (0xE0, 0xEE)
_COMMENT, _START_OF_SCAN = 0xFE, 0xDA
_SEQUENTIAL_FRAMES = (0xC0, 0xC1)  # progressive JPEGs have others
_EXIF_HEADER, _XMP_HEADER = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_PNG_EXIF_TEXT, _PNG_XMP = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
_MAX_EXIF_BYTES = 1 << 20  # of compressed EXIF in a PNG; one segment of a JPEG has at most 64 KiB
_ORIENTATION = 0x0112
_INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # TIFF type -> struct format
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


@dataclass(frozen=True)
class StrippedImage:
    """A PNG or JPEG without metadata, or any other file as it is.

    encoded: the bytes of the file. orientation: 1 (upright) to 8. bits: number of bits per channel.
    """

    encoded: bytes
    orientation: int = 1
    bits: int = 8


def strip_metadata(encoded: bytes) -> StrippedImage:
    """Strip the metadata from a PNG or JPEG.

    Other files, and the bytes of an image from the first damaged position on, remain as they are.
    """
    if encoded.startswith(PNG):
        kept, exif, xmp = _split(_png_chunks(encoded), encoded, len(PNG))
        bits = encoded[24] if encoded[12:16] == b"IHDR" and len(encoded) > 24 else 8  # after width and height
        return StrippedImage(kept, _read_orientation(exif, xmp), bits)
    if encoded.startswith(JPEG):
        kept, exif, xmp = _split(_jpeg_segments(encoded), encoded, 2)
        return StrippedImage(kept, _read_orientation(exif, xmp))
    return StrippedImage(encoded)


class JpegHeader(NamedTuple):
    """orientation: 1 (upright) to 8. height_at: the position of the two bytes with the height, if the rows of all
    channels are stored together from top to bottom; else None."""

    orientation: int
    height_at: int | None


def read_jpeg_header(encoded: bytes) -> JpegHeader:
    """Read the segments before the first scan of a JPEG."""
    exif, xmp, frame, scan = b"", b"", 0, 2
    for segment in _jpeg_segments(encoded):
        exif, xmp, scan = exif + segment.exif, xmp + segment.xmp, segment.end
        if encoded[segment.start + 1] in _SEQUENTIAL_FRAMES:
            frame = segment.start
    # Frame: marker, length (2), bits (1), height (2), width (2), channels (1). Scan: marker, length (2), channels (1).
    is_interleaved = frame and encoded[frame + 9 : frame + 10] == encoded[scan + 4 : scan + 5]
    return JpegHeader(_read_orientation(exif, xmp), frame + 5 if is_interleaved else None)


def _read_orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation in an EXIF block, else in an XMP packet, else 1."""
    while exif.startswith(_EXIF_HEADER):  # some cameras write the header twice
        exif = exif[len(_EXIF_HEADER) :]
    orientations = [int(match[1]) for match in _XMP_ORIENTATION.finditer(xmp)][:1]
    with suppress(struct.error):  # the block is truncated: use the orientations before its end
        orientations.extend(_exif_orientations(exif))
    return orientations[-1] if orientations else 1


class _Segment(NamedTuple):
    """A PNG chunk or JPEG segment, encoded[start:end], and its content if that is EXIF or XMP."""

    start: int
    end: int
    is_pixel_data: bool
    exif: bytes = b""
    xmp: bytes = b""


def _split(segments: Iterator[_Segment], encoded: bytes, position: int) -> tuple[bytes, bytes, bytes]:
    """Return (bytes without metadata, EXIF, XMP). position: the start of the first segment."""
    kept, exif, xmp = [encoded[:position]], b"", b""
    for segment in segments:
        if segment.is_pixel_data:
            kept.append(encoded[segment.start : segment.end])
        exif += segment.exif  # EXIF above 64 KiB spans several segments
        xmp += segment.xmp
        position = segment.end
    return b"".join([*kept, encoded[position:]]), exif, xmp


def _png_chunks(encoded: bytes) -> Iterator[_Segment]:
    """Yield every complete chunk: length, name, data, checksum."""
    start = len(PNG)
    while start + 12 <= len(encoded):
        (length,) = struct.unpack_from(">I", encoded, start)
        name, end = encoded[start + 4 : start + 8], start + 12 + length
        if end > len(encoded):
            return
        exif = xmp = b""
        if name not in _PNG_PIXEL_CHUNKS:
            data = encoded[start + 8 : end - 4]
            exif = data if name == b"eXIf" else _exif_in_text(name, data)
            xmp = data if name == b"iTXt" and data.startswith(_PNG_XMP) else b""
        yield _Segment(start, end, name in _PNG_PIXEL_CHUNKS, exif, xmp)
        if name == b"IEND":
            return
        start = end


def _exif_in_text(name: bytes, data: bytes) -> bytes:
    """Return the EXIF that ImageMagick stores as text: three lines of header, then hexadecimal digits."""
    if name not in (b"tEXt", b"zTXt") or not data.startswith(_PNG_EXIF_TEXT):
        return b""
    text = data[len(_PNG_EXIF_TEXT) :]
    try:
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_EXIF_BYTES)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return b""


def _jpeg_segments(encoded: bytes) -> Iterator[_Segment]:
    """Yield every complete segment before the first scan: 0xFF, marker, length, data."""
    start = 2
    while start + 4 <= len(encoded) and encoded[start] == 0xFF:
        marker = encoded[start + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            yield _Segment(start, start + 1, False)
            start += 1
            continue
        (length,) = struct.unpack_from(">H", encoded, start + 2)
        end = start + 2 + length
        if marker == _START_OF_SCAN or length < 2 or end > len(encoded):
            return
        data = encoded[start + 4 : end] if marker == 0xE1 else b""
        exif = data[len(_EXIF_HEADER) :] if data.startswith(_EXIF_HEADER) else b""
        xmp = data if data.startswith(_XMP_HEADER) else b""
        is_metadata = (0xE0 <= marker <= 0xEF and marker not in _JPEG_PIXEL_SEGMENTS) or marker == _COMMENT
        yield _Segment(start, end, not is_metadata, exif, xmp)
        start = end


def _exif_orientations(exif: bytes) -> Iterator[int]:
    """Yield every valid orientation in the first directory of a TIFF block. Raises struct.error at a truncated end."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    (num_entries,) = struct.unpack_from(f"{order}H", exif, directory)
    for entry in range(directory + 2, directory + 2 + 12 * num_entries, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", exif, entry)
        if tag != _ORIENTATION or kind not in _INTEGER_TYPES or not count:
            continue
        position = entry + 8
        if count * struct.calcsize(_INTEGER_TYPES[kind]) > 4:  # the values are stored elsewhere
            (position,) = struct.unpack_from(f"{order}I", exif, position)
        (value,) = struct.unpack_from(f"{order}{_INTEGER_TYPES[kind]}", exif, position)
        if 1 <= value <= 8:
            yield value
