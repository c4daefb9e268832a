"""Renderers of views: of images in memory (`ViewRenderer`), and of a packed data set (`PackedRenderer`).

    renderer.render(index, view)        uint8 [B, 3, S, S] on the device
    renderer.render_ahead(requests)     the same for one (index, view) after another; images on disk are decoded ahead

Both render equal pixels for equal `Views`: PackedRenderer decodes the squares of a batch and crops them as ViewRenderer
does. `CropViews`, random crops of whole images, are rendered from packs only.

Shapes: B views of a batch, S = image_size.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from raykd.data.crop_views import CropViews
from raykd.data.loader_threads import PendingPixels
from raykd.data.packs.images import PackedImages
from raykd.data.types import Images
from raykd.data.views import ViewRenderer, Views
from raykd.errors import COMMAND, ConfigError

Request = tuple[Tensor, Tensor]  # index and view, int64 [B] each


class Renderer(Protocol):
    """Renders views of images on a device.

    views: the set from which views are rendered. is_on_host: whether the CPU decodes the images; index and view are
    then CPU tensors, else they are on the device. waited_s: the seconds that callers have waited for images so far.
    """

    is_on_host: bool
    height: int
    width: int

    @property
    def views(self) -> Views | CropViews: ...

    @property
    def waited_s(self) -> float: ...

    def render(self, index: Tensor, view: Tensor) -> Tensor:
        """Return view[b] of image index[b]: uint8 [B, 3, S, S], channels-last, on the device.

        index, view: int64 [B]. Equal neighbors in `index` are read once.
        """
        ...

    def render_ahead(self, requests: Iterable[Request]) -> Generator[Tensor, None, None]:
        """Yield `render` of each request. Requests are read ahead; close the iterator to cancel what was started."""
        ...


def make_renderer(images: Images, views: Views | CropViews, device: torch.device | str) -> Renderer:
    """Return the renderer of `images` in the training split.

    Raises ConfigError for random crops of whole images that are not on disk.
    """
    if isinstance(images, PackedImages):
        return PackedRenderer(images, views, device)
    if isinstance(images, Tensor) and isinstance(views, Views):
        return ViewRenderer(images, views, device)
    raise ConfigError(
        f"data.min_crop_area = {getattr(views, 'min_area', None)}: random crops of whole images require a packed data "
        f"set, and these images are in memory; pack them ({COMMAND} pack NAME), or set data.min_crop_area=none"
    )


class PackedRenderer:
    """Renders views of packed images. Every thread decodes a part of each batch.

    The pixels depend on index and view alone, not on the number of threads. On a GPU, batches are copied from pinned
    memory while the GPU computes.
    """

    is_on_host = True

    def __init__(self, images: PackedImages, views: Views | CropViews, device: torch.device | str = "cpu") -> None:
        self.views = views
        self.height, self.width = images.shape[2:]
        self._images, self._device = images, torch.device(device)
        self._pins = self._device.type == "cuda"

    @property
    def waited_s(self) -> float:
        """The seconds that callers have waited for images so far, of this pack."""
        return self._images.threads.waited_s

    def render(self, index: Tensor, view: Tensor) -> Tensor:
        return self._start(index, view).wait()

    def render_ahead(self, requests: Iterable[Request]) -> Generator[Tensor, None, None]:
        started: deque[_PendingViews] = deque()
        try:
            for index, view in requests:
                started.append(self._start(index, view))
                if len(started) > self._images.threads.num_ahead(len(index)):
                    yield started.popleft().wait()
            while started:
                yield started.popleft().wait()
        finally:
            for batch in started:
                batch.cancel()

    def _start(self, index: Tensor, view: Tensor) -> "_PendingViews":
        index, view = index.cpu(), view.cpu()
        images, image_of_view, num_views = index.unique_consecutive(return_inverse=True, return_counts=True)
        if isinstance(self.views, CropViews):
            boxes = self.views.boxes(index, view, self._images.sizes(index))
            return _PendingViews(self._images.start_crops(images, num_views, boxes, self._pins), self._to_device)
        squares = self._images.start(images, self._pins)
        return _PendingViews(squares, partial(self._view_of_squares, self.views, image_of_view, view))

    def _view_of_squares(self, views: Views, index: Tensor, view: Tensor, squares: Tensor) -> Tensor:
        """Crop and mirror `squares` on the device, as ViewRenderer does with images in memory."""
        index, view = (part.to(self._device, non_blocking=True) for part in (index, view))
        return ViewRenderer(self._to_device(squares), views, self._device).render(index, view)

    def _to_device(self, pixels: Tensor) -> Tensor:
        return pixels.to(self._device, non_blocking=True)


@dataclass(frozen=True)
class _PendingViews:
    """A batch that is being decoded. finish: maps its pixels uint8 [B, 3, S, S] to the views on the device."""

    pixels: PendingPixels
    finish: Callable[[Tensor], Tensor]

    def wait(self) -> Tensor:
        return self.finish(self.pixels.wait())

    def cancel(self) -> None:
        self.pixels.cancel()
