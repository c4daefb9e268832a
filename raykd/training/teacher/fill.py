"""Fill a logit cache: run the teacher on large batches of views, and write a piece of the cache at a time.

missing = visited & ~filled         so filling resumes after an interruption, and repairs damaged images
piece   = neighboring images whose missing views take about PIECE_S

Commands that fill one cache concurrently compute each view once: a piece is claimed while it is computed, and pieces
that another process has claimed come last.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import torch
from torch import Tensor, nn

from raykd.data.renderers import make_renderer
from raykd.data.sampling import Balanced
from raykd.data.types import Dataset
from raykd.errors import Interrupted
from raykd.outputs import Outputs
from raykd.spec.plan import train_val_indices
from raykd.store.records import RestoredSample, SampleSum
from raykd.training.compute import Compute, configure_process
from raykd.training.failure import explaining_images
from raykd.training.inference_batch import with_largest_batch_size
from raykd.training.teacher.cache import ITEM_BYTES, LogitCache, visited_views
from raykd.training.teacher.choose import PlannedCache
from raykd.training.teacher.sparse_rows import error_sums

PIECE_S = 10.0  # the most work that an interruption loses
# How long to wait for a piece that another process has claimed. It is computed then, because that process may hang, and
# rows that are computed twice do no harm.
CLAIMED_WAIT_S = 60.0
CLAIMED_POLL_S = 0.1
PIECE_BYTES = 64 << 20  # the largest piece written at a time, including rows between its missing ones
BATCH_SIZE = {"cpu": 256, "cuda": 2048}  # views; more is not faster on 2 cores
# Whether to pad a batch to the full size by repeating its views. cuDNN takes seconds to find the fastest kernels for
# each new batch size, and the last batch of a piece has any size. On a CPU the padding would only cost time.
FIXED_SHAPE = {"cpu": False, "cuda": True}
IN_FLIGHT = {"cpu": 1, "cuda": 2}  # batches that are computed before the oldest one is read
STOPPED = "stopped while filling the logit cache; rerun the same command to resume"
SAMPLE_EVERY = 64  # the error of the top classes is measured on one in 64 rows, without another teacher pass


class Filler:
    """Fills any part of one logit cache with a teacher on a device."""

    def __init__(
        self, planned: PlannedCache, dataset: Dataset, cache: LogitCache, teacher: nn.Module, compute: Compute
    ) -> None:
        """teacher: maps uint8 views [B, 3, H, W] to Outputs; an ImageModel or MeanLogits."""
        configure_process(compute.device)
        self._cache, self._teacher, self._compute = cache, teacher.eval(), compute
        self._batch_size = BATCH_SIZE[compute.device.type]
        indices, _ = train_val_indices(planned.data, dataset.train.labels)
        self._parts = indices.tensor_split(planned.num_parts)
        self._visited = views_to_fill(planned, dataset)
        with explaining_images(planned.data):
            self._renderer = make_renderer(dataset.train.images, planned.data.views, compute.device)
        self._temperatures = planned.temperatures
        self._sums = torch.zeros(1 + len(planned.temperatures), dtype=torch.float64, device=compute.device)
        self._num_sampled = 0

    def fill(
        self, part: int, rank: int = 0, world_size: int = 1, should_stop: Callable[[], bool] = lambda: False
    ) -> int:
        """Fill the missing views of part number `part`, or of one worker's share of it; return how many were filled.

        Views that another process fills meanwhile are not counted. Raises Interrupted after `should_stop` returns true,
        once the computed rows are written; RunFailed for logits that float16 cannot hold; OutOfMemory if a single view
        does not fit in the device's memory.
        """
        indices = self._parts[part].tensor_split(world_size)[rank]
        if not len(indices):
            return 0
        done, left = self._fill_unclaimed(int(indices[0]), int(indices[-1]) + 1, should_stop)
        return done + sum(self._fill_after_claim(*piece, should_stop) for piece in left)

    def _missing(self, first: int, end: int) -> Tensor:
        """Return the views of images first .. end - 1 that are not filled yet, bool [end - first, V]."""
        return self._visited[first:end] & ~self._cache.filled(first, end)

    def _fill_unclaimed(
        self, first: int, end: int, should_stop: Callable[[], bool]
    ) -> tuple[int, list[tuple[int, int]]]:
        """Fill the missing views of images first .. end - 1, except for pieces that other processes have claimed.

        Returns how many views were filled, and (first, end) of each piece that is left.
        """
        missing, left = self._missing(first, end), list[tuple[int, int]]()
        missing_bytes = missing.numel() * self._cache.key.row_width * ITEM_BYTES
        max_images = max(1, PIECE_BYTES * len(missing) // max(1, missing_bytes))
        ends = missing.sum(1).cumsum(0)  # [n], number of missing views up to each image
        started, done, start, size = time.monotonic(), 0, 0, self._batch_size
        while (before := int(ends[start - 1]) if start else 0) < int(ends[-1]):
            stop = min(int(torch.searchsorted(ends, before + size)) + 1, start + max_images, len(ends))
            piece = first + start, first + stop
            with self._cache.claimed(*piece) as is_claimed:
                if is_claimed:
                    done += self._fill_piece(piece[0], self._missing(*piece), should_stop)
                else:
                    left.append(piece)
            start, size = stop, max(self._batch_size, int(done / (time.monotonic() - started) * PIECE_S))
        return done, left

    def _fill_after_claim(self, first: int, end: int, should_stop: Callable[[], bool]) -> int:
        """Wait for the process that has claimed images first .. end - 1, and fill the views that it does not fill."""
        deadline = time.monotonic() + CLAIMED_WAIT_S
        while True:
            with self._cache.claimed(first, end) as is_claimed:
                if is_claimed or time.monotonic() > deadline:
                    return self._fill_piece(first, self._missing(first, end), should_stop)
            if should_stop():
                raise Interrupted(STOPPED)
            time.sleep(CLAIMED_POLL_S)

    def describe_error(self) -> str:
        """Return the error of a cache of the top classes, in words; '' for a cache of all classes."""
        return self._cache.describe_error()

    def _fill_piece(self, first: int, missing: Tensor, should_stop: Callable[[], bool]) -> int:
        """Fill the views `missing`, bool [n, V], of images from `first` on, and return how many were filled.

        Up to IN_FLIGHT batches are launched before the oldest one is read, so that a GPU does not wait for the CPU.
        """
        if not missing.any():
            return 0
        layout = self._cache.key.layout
        rows = torch.zeros((*missing.shape, layout.width), dtype=layout.dtype)
        filled, stopped = torch.zeros_like(missing), False
        in_flight: deque[_PendingRows] = deque()

        def read_oldest() -> None:
            batch = in_flight.popleft()
            image, view = batch.entries.unbind(1)
            rows[image, view] = batch.read()
            filled[image, view] = True

        batches = [*_split(missing.nonzero(), self._batch_size, keep_images_whole=self._renderer.is_on_host)]
        with closing(self._renderer.render_ahead(map(partial(self._request, first), batches))) as rendered:
            for entries, pixels in zip(batches, rendered, strict=True):
                if stopped := should_stop():
                    break
                for batch in self._launch(entries, pixels):
                    in_flight.append(batch)
                    if len(in_flight) >= IN_FLIGHT[self._compute.device.type]:
                        read_oldest()
        while in_flight:
            read_oldest()
        self._cache.write(first, rows, filled)
        self._store_sample()
        if stopped:
            raise Interrupted(STOPPED)
        return int(filled.sum())

    def _request(self, first: int, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Return index and view of `entries`, int64 [B, 2] of (image - first, view), where the renderer reads them."""
        if not self._renderer.is_on_host:
            pinned = entries.pin_memory() if self._compute.device.type == "cuda" else entries
            entries = pinned.to(self._compute.device, non_blocking=True)
        image, view = entries.unbind(1)
        return image + first, view

    def _launch(self, entries: Tensor, pixels: Tensor) -> Iterator["_PendingRows"]:
        """Run the teacher on `pixels`, uint8 [B, 3, H, W], in as many batches as the device's memory requires."""
        start = 0
        while start < len(entries):
            launch = partial(self._launch_part, entries[start:], pixels[start:])
            batch = with_largest_batch_size(self._teacher, self._batch_size, launch)
            yield batch
            start += len(batch.entries)

    def _launch_part(self, entries: Tensor, pixels: Tensor, size: int) -> "_PendingRows":
        """Run the teacher on the first `size` images."""
        return _PendingRows(entries[:size], self._predict(pixels[:size], size))

    @torch.no_grad()
    def _predict(self, images: Tensor, size: int) -> Tensor:
        """Return the cache rows of at most `size` images, [B, W] on the device."""
        num_images, key = len(images), self._cache.key
        if num_images < size and FIXED_SHAPE[images.device.type]:
            repeated = torch.arange(size, device=images.device) % num_images
            images = images.permute(0, 2, 3, 1)[repeated].permute(0, 3, 1, 2)  # still channels-last
        with self._compute.autocast():
            outputs: Outputs = self._teacher(images)
        rows = key.layout.encode(outputs)[:num_images]
        if key.cached_classes is not None:
            logits = outputs.logits[:num_images:SAMPLE_EVERY]
            restored = key.layout.decode(rows[::SAMPLE_EVERY]).logits
            sums = error_sums(logits, restored, key.cached_classes, self._temperatures)
            self._sums, self._num_sampled = self._sums + sums, self._num_sampled + len(logits)
        return rows

    def _store_sample(self) -> None:
        """Add the error of the rows that were sampled since the last call to that of the cache."""
        if not self._num_sampled:
            return
        probability, *kl = (SampleSum(self._num_sampled, total) for total in self._sums.tolist())
        names = [f"{temperature:g}" for temperature in self._temperatures]
        self._cache.add_sample(RestoredSample(probability, dict(zip(names, kl, strict=True))))
        self._sums, self._num_sampled = torch.zeros_like(self._sums), 0


def _split(entries: Tensor, size: int, keep_images_whole: bool) -> Iterator[Tensor]:
    """Yield `entries`, int64 [n, 2] in the order of their images, in batches of at most `size`.

    keep_images_whole: end a batch before an image that it would split, so that each image is decoded once.
    """
    image, start = entries[:, 0].contiguous(), 0
    while start < len(entries):
        stop = min(start + size, len(entries))
        if keep_images_whole and stop < len(entries):
            first_of_image = int(torch.searchsorted(image, image[stop]))
            stop = first_of_image if first_of_image > start else stop
        yield entries[start:stop]
        start = stop


class _PendingRows:
    """Rows of `entries`, int64 [B, 2], which a GPU copies to pinned memory while the next batch is computed."""

    def __init__(self, entries: Tensor, rows: Tensor) -> None:
        """rows: [B, W], on any device."""
        self.entries, self._rows, self._copied = entries, rows, None
        if rows.device.type == "cuda":
            self._rows = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            self._rows.copy_(rows, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(rows.device))

    def read(self) -> Tensor:
        """Wait for the rows and return them, [B, W] on the CPU."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._rows


def views_to_fill(planned: PlannedCache, dataset: Dataset) -> Tensor:
    """Return the views that `planned` has to hold, bool [N, V]."""
    indices, _ = train_val_indices(planned.data, dataset.train.labels)
    labels = dataset.train.labels
    sampler = Balanced(indices, labels) if planned.is_balanced else None
    views = visited_views(planned.data.views, indices, len(labels), dict(planned.epochs), sampler)
    if planned.holds_all_views:
        views[indices] = True
    return views
