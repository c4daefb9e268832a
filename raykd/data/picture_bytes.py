"""The bytes of a PNG or JPEG without its metadata, and the one fact that is read from the metadata: its orientation.

Pillow parses EXIF, XMP, ICC profiles and text when it opens a file, and an odd or large entry then stops it, although
no pixel depends on it. So Pillow gets the chunks and segments that decide pixels, and nothing else.

Orientation: EXIF 2.32, tag 0x0112, 1 .. 8; see ORIENTATIONS in pictures.py.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# JPEG application segments that say how colors are stored: JFIF and Adobe.
_JPEG_PIXELS = (0xE0, 0xEE)
_COMMENT, _START_OF_SCAN = 0xFE, 0xDA
_EXIF_HEADER, _XMP_HEADER = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_PNG_PROFILE, _PNG_XMP = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
_MAX_PROFILE_BYTES = 1 << 20  # EXIF of a JPEG has at most 64 KiB
_ORIENTATION = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # TIFF's types of whole numbers
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


@dataclass(frozen=True)
class PictureBytes:
    """pixels: a PNG or JPEG without metadata. orientation: 1 (upright) to 8. bits: of a PNG's channels; 8 of a JPEG."""

    pixels: bytes
    orientation: int = 1
    bits: int = 8


def without_metadata(encoded: bytes) -> PictureBytes:
    """Split `encoded`. Bytes that are neither, and all from a damaged place on, are kept as they are."""
    if encoded.startswith(PNG):
        kept, exif, xmp = _split(_png_chunks(encoded), encoded, len(PNG))
        bits = encoded[24] if encoded[12:16] == b"IHDR" and len(encoded) > 24 else 8  # after width and height
        return PictureBytes(kept, orientation_of(exif, xmp), bits)
    if encoded.startswith(JPEG):
        kept, exif, xmp = _split(_jpeg_segments(encoded), encoded, 2)
        return PictureBytes(kept, orientation_of(exif, xmp))
    return PictureBytes(encoded)


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation in an EXIF block, else in an XMP packet, else 1. No other entry is interpreted."""
    while exif.startswith(_EXIF_HEADER):  # some cameras write the header twice
        exif = exif[len(_EXIF_HEADER) :]
    found = [int(match[1]) for match in _XMP_ORIENTATION.finditer(xmp)][:1]
    with suppress(struct.error):  # the block is cut short: what was read before counts
        found.extend(_orientations(exif))
    return found[-1] if found else 1


@dataclass(frozen=True)
class _Piece:
    """A chunk or segment: encoded[start:end], and what it holds if it is EXIF or XMP."""

    start: int
    end: int
    decides_pixels: bool
    exif: bytes = b""
    xmp: bytes = b""


def _split(pieces: Iterator[_Piece], encoded: bytes, position: int) -> tuple[bytes, bytes, bytes]:
    """Return (the pieces that decide pixels, EXIF, XMP). position: where the first piece starts."""
    kept, exif, xmp = [encoded[:position]], b"", b""
    for piece in pieces:
        if piece.decides_pixels:
            kept.append(encoded[piece.start : piece.end])
        exif += piece.exif  # more than 64 KiB are spread over several segments
        xmp += piece.xmp
        position = piece.end
    return b"".join([*kept, encoded[position:]]), exif, xmp


def _png_chunks(encoded: bytes) -> Iterator[_Piece]:
    """Yield every whole chunk: length, name, data, checksum."""
    start = len(PNG)
    while start + 12 <= len(encoded):
        (length,) = struct.unpack_from(">I", encoded, start)
        name, end = encoded[start + 4 : start + 8], start + 12 + length
        if end > len(encoded):
            return
        exif = xmp = b""
        if name not in _PNG_PIXELS:
            data = encoded[start + 8 : end - 4]
            exif = data if name == b"eXIf" else _profile_of(name, data)
            xmp = data if name == b"iTXt" and data.startswith(_PNG_XMP) else b""
        yield _Piece(start, end, name in _PNG_PIXELS, exif, xmp)
        if name == b"IEND":
            return
        start = end


def _profile_of(name: bytes, data: bytes) -> bytes:
    """Return EXIF as ImageMagick stores it in text: three lines of header, then hexadecimal digits."""
    if name not in (b"tEXt", b"zTXt") or not data.startswith(_PNG_PROFILE):
        return b""
    text = data[len(_PNG_PROFILE) :]
    try:
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_PROFILE_BYTES)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return b""


def _jpeg_segments(encoded: bytes) -> Iterator[_Piece]:
    """Yield every whole segment before the first scan: 0xFF, marker, length, data."""
    start = 2
    while start + 4 <= len(encoded) and encoded[start] == 0xFF:
        marker = encoded[start + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            yield _Piece(start, start + 1, False)
            start += 1
            continue
        (length,) = struct.unpack_from(">H", encoded, start + 2)
        end = start + 2 + length
        if marker == _START_OF_SCAN or length < 2 or end > len(encoded):
            return
        data = encoded[start + 4 : end] if marker == 0xE1 else b""
        exif = data[len(_EXIF_HEADER) :] if data.startswith(_EXIF_HEADER) else b""
        xmp = data if data.startswith(_XMP_HEADER) else b""
        is_metadata = (0xE0 <= marker <= 0xEF and marker not in _JPEG_PIXELS) or marker == _COMMENT
        yield _Piece(start, end, not is_metadata, exif, xmp)
        start = end


def _orientations(exif: bytes) -> Iterator[int]:
    """Yield every valid orientation in the first directory of a TIFF. Raises struct.error where it is cut short."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    (num_entries,) = struct.unpack_from(f"{order}H", exif, directory)
    for entry in range(directory + 2, directory + 2 + 12 * num_entries, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", exif, entry)
        if tag != _ORIENTATION or kind not in _INTEGERS or not count:
            continue
        place = entry + 8
        if count * struct.calcsize(_INTEGERS[kind]) > 4:  # the values lie elsewhere
            (place,) = struct.unpack_from(f"{order}I", exif, place)
        (value,) = struct.unpack_from(f"{order}{_INTEGERS[kind]}", exif, place)
        if 1 <= value <= 8:
            yield value
