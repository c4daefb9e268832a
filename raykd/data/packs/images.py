"""The images of a packed data set, decoded when they are accessed. They replace the tensor in `Split.images`.

    images[0:512]            uint8 [512, 3, S, S], the middle squares, as evaluation shows them
    images[indices]          of any images, int64 [B]
    images.subset(indices)   some of the images, without decoding them

The squares have the bytes that `image_decoding.decode` returns, since they come from that function: evaluation and
padded views have the same pixels whether a data set lies in memory or on disk. After a slice, the next slice of equal
length is decoded ahead.

Shapes: N images, S = image_size, H x W pixels of a whole image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raykd.data.crop_views import Boxes
from raykd.data.image_decoding import TargetSize, decode, middle_square
from raykd.data.loader_threads import LoaderThreads, PendingPixels
from raykd.data.packs.crops import Box, Decoded, crop, decode_for_crops, reduction_of
from raykd.data.packs.reader import PackedSplit


class PackedImages:
    """Images of one split of a pack, or some of them. One thread at a time may access them.

    raw_size: pixels per side of the stored pixels uint8 [raw_size, raw_size, 3], if the pack is not encoded.
    """

    dtype = torch.uint8

    def __init__(
        self,
        split: PackedSplit,
        target: TargetSize,
        threads: LoaderThreads,
        raw_size: int | None = None,
        indices: Tensor | None = None,
    ) -> None:
        """indices: int64 [N], the positions of these images in the split of the pack; None for all of its images."""
        self.threads, self._split, self._target, self._raw_size = threads, split, target, raw_size
        self._indices = torch.arange(len(split)) if indices is None else indices
        self._ahead: tuple[range, PendingPixels] | None = None

    @property
    def shape(self) -> torch.Size:
        size = self._target.image_size
        return torch.Size((len(self._indices), 3, size, size))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, indices: slice | Tensor) -> Tensor:
        if isinstance(indices, Tensor):
            return self.start(indices.cpu()).wait()
        part = range(len(self))[indices]
        squares = self._pop_ahead(part) or self._start_range(part)
        following = range(part.stop, min(part.stop + len(part), len(self)))
        if part.step == 1 and len(following):
            self._ahead = following, self._start_range(following)
        return squares.wait()

    def subset(self, indices: Tensor) -> "PackedImages":
        """Return the images `indices`, int64 [n]. They share this object's threads."""
        return PackedImages(self._split, self._target, self.threads, self._raw_size, self._indices[indices.cpu()])

    def sizes(self, indices: Tensor) -> Tensor:
        """Return height and width of the whole images `indices`, int64 [B, 2]."""
        return self._split.sizes[self._indices[indices]]

    def start(self, indices: Tensor, pin_memory: bool = False) -> PendingPixels:
        """Start to decode the middle squares of images `indices`, int64 [B] on the CPU."""
        squares, in_split = self._new_pixels(len(indices), pin_memory), self._indices[indices].tolist()
        pixels = squares.numpy()

        def fill(first: int, end: int) -> None:
            for position in range(first, end):
                pixels[position] = self._square(in_split[position])

        return self.threads.start(squares, len(in_split), fill)

    def start_crops(self, indices: Tensor, num_crops: Tensor, boxes: Boxes, pin_memory: bool) -> PendingPixels:
        """Start to decode random crops: num_crops[b] of image indices[b], int64 [B] on the CPU.

        boxes: of all crops, image by image.
        """
        crops, in_split = self._new_pixels(len(boxes.top), pin_memory), self._indices[indices].tolist()
        pixels, starts = crops.numpy(), [0, *num_crops.cumsum(0).tolist()]
        crop_boxes = [Box(*box) for box in zip(*(part.tolist() for part in boxes), strict=True)]

        def fill(first: int, end: int) -> None:
            for position in range(first, end):
                part = slice(starts[position], starts[position + 1])
                self._crops(in_split[position], crop_boxes[part], pixels[part])

        return self.threads.start(crops, len(in_split), fill)

    def _new_pixels(self, count: int, pin_memory: bool) -> Tensor:
        size = self._target.image_size
        return torch.empty((count, size, size, 3), dtype=torch.uint8, pin_memory=pin_memory)

    def _crops(self, index: int, boxes: Sequence[Box], pixels: np.ndarray) -> None:
        """Write the crops `boxes` of one image to uint8 [n, S, S, 3], decoding it once for each reduction."""
        where, encoded = self._split.read(index)
        if self._raw_size is not None:
            decoded = Decoded(self._unpack(encoded))
            for box, view in zip(boxes, pixels, strict=True):
                crop(decoded, box, view)
            return
        height, width = self._split.sizes[index].tolist()
        reductions = [reduction_of(box, self._target.image_size) for box in boxes]
        for reduction in set(reductions):
            chosen = [number for number, other in enumerate(reductions) if other == reduction]
            shown = [boxes[number] for number in chosen]
            decoded = decode_for_crops(where, bytes(encoded), (height, width), shown, reduction)
            for number in chosen:
                crop(decoded, boxes[number], pixels[number])

    def _square(self, index: int) -> np.ndarray:
        where, encoded = self._split.read(index)
        if self._raw_size is None:
            return decode(where, bytes(encoded), self._target).pixels
        return middle_square(Image.fromarray(self._unpack(encoded)), self._target)

    def _unpack(self, stored: memoryview) -> np.ndarray:
        assert self._raw_size is not None
        return np.frombuffer(stored, np.uint8).reshape(self._raw_size, self._raw_size, 3)

    def _start_range(self, part: range) -> PendingPixels:
        return self.start(torch.arange(part.start, part.stop, part.step))

    def _pop_ahead(self, part: range) -> PendingPixels | None:
        """Return the squares of `part` if they are being decoded ahead. Other squares are cancelled."""
        if self._ahead is None:
            return None
        (expected, squares), self._ahead = self._ahead, None
        if expected == part:
            return squares
        squares.cancel()
        return None
