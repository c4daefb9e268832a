"""Fill a logit cache: run the teacher on large batches of views, and write a piece of the cache at a time.

missing = visited & ~filled         so filling resumes after an interruption, and repairs damaged images
piece   = neighboring images whose missing views take about PIECE_S
"""

import time
from collections import deque
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from raykd.data.sampling import Balanced
from raykd.data.types import Dataset
from raykd.data.views import ViewRenderer
from raykd.errors import Interrupted
from raykd.outputs import Outputs
from raykd.spec.plan import train_val_indices
from raykd.training.compute import Compute, configure_process
from raykd.training.inference_batch import with_largest_batch_size
from raykd.training.teacher.cache import ITEM_BYTES, LogitCache, visited_views
from raykd.training.teacher.choose import PlannedCache

PIECE_S = 10.0  # the most work that an interruption loses
PIECE_BYTES = 64 << 20  # the largest piece written at a time, including rows between its missing ones
BATCH_SIZE = {"cpu": 256, "cuda": 2048}  # views; more is not faster on 2 cores
# Whether to pad a batch to the full size by repeating its views. cuDNN takes seconds to find the fastest kernels for
# each new batch size, and the last batch of a piece has any size. On a CPU the padding would only cost time.
FIXED_SHAPE = {"cpu": False, "cuda": True}
IN_FLIGHT = {"cpu": 1, "cuda": 2}  # batches that are computed before the oldest one is read


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
        self._renderer = ViewRenderer(dataset.train.images, planned.data.views, compute.device)

    def fill(
        self, part: int, rank: int = 0, world_size: int = 1, should_stop: Callable[[], bool] = lambda: False
    ) -> int:
        """Fill the missing views of part number `part`, or of one worker's share of it; return how many were filled.

        Raises Interrupted after `should_stop` returns true, once the computed rows are written; RunFailed for logits
        that float16 cannot hold, and if a single view does not fit in the device's memory.
        """
        indices = self._parts[part].tensor_split(world_size)[rank]
        if not len(indices):
            return 0
        first, end = int(indices[0]), int(indices[-1]) + 1
        missing = self._visited[first:end] & ~self._cache.filled(first, end)
        missing_bytes = missing.numel() * self._cache.key.row_width * ITEM_BYTES
        max_images = max(1, PIECE_BYTES * len(missing) // max(1, missing_bytes))
        ends = missing.sum(1).cumsum(0)  # [n], number of missing views up to each image
        started, done, start, size = time.monotonic(), 0, 0, self._batch_size
        while done < int(ends[-1]):
            stop = min(int(torch.searchsorted(ends, done + size)) + 1, start + max_images, len(ends))
            done += self._fill_piece(first + start, missing[start:stop], should_stop)
            start, size = stop, max(self._batch_size, int(done / (time.monotonic() - started) * PIECE_S))
        return done

    def _fill_piece(self, first: int, missing: Tensor, should_stop: Callable[[], bool]) -> int:
        """Fill the views `missing`, bool [n, V], of images from `first` on, and return how many were filled.

        Up to IN_FLIGHT batches are launched before the oldest one is read, so that a GPU does not wait for the CPU.
        """
        rows = torch.zeros((*missing.shape, self._cache.key.row_width), dtype=torch.float16)
        filled, stopped = torch.zeros_like(missing), False
        in_flight: deque[_Batch] = deque()

        def read_oldest() -> None:
            batch = in_flight.popleft()
            image, view = batch.entries.unbind(1)
            rows[image, view] = batch.read()
            filled[image, view] = True

        entries, start = missing.nonzero(), 0
        while start < len(entries) and not (stopped := should_stop()):
            launch = partial(self._launch, first, entries[start:])
            in_flight.append(with_largest_batch_size(self._teacher, self._batch_size, launch))
            start += len(in_flight[-1].entries)
            if len(in_flight) >= IN_FLIGHT[self._compute.device.type]:
                read_oldest()
        while in_flight:
            read_oldest()
        self._cache.write(first, rows, filled)
        if stopped:
            raise Interrupted("stopped while filling the logit cache; rerun the same command to resume")
        return int(filled.sum())

    def _launch(self, first: int, entries: Tensor, size: int) -> "_Batch":
        """Run the teacher on the first `size` of `entries`, int64 [n, 2] of (image - first, view)."""
        device, entries = self._compute.device, entries[:size]
        padded = entries[torch.arange(size) % len(entries)] if FIXED_SHAPE[device.type] else entries
        if device.type == "cuda":
            padded = padded.pin_memory()
        image, view = padded.to(device, non_blocking=True).unbind(1)
        return _Batch(entries, self._predict(image + first, view)[: len(entries)])

    @torch.no_grad()
    def _predict(self, index: Tensor, view: Tensor) -> Tensor:
        """Return the cache rows, float16 [B, C + D], on the device."""
        with self._compute.autocast():
            outputs: Outputs = self._teacher(self._renderer.render(index, view))
        parts = [outputs.logits]
        if self._cache.key.embedding_width:
            assert outputs.embedding is not None
            parts.append(outputs.embedding)
        return torch.cat([part.to(torch.float16) for part in parts], dim=1)


class _Batch:
    """Rows of `entries`, int64 [B, 2], which a GPU copies to pinned memory while the next batch is computed."""

    def __init__(self, entries: Tensor, rows: Tensor) -> None:
        """rows: float16 [B, C + D], on any device."""
        self.entries, self._rows, self._copied = entries, rows, None
        if rows.device.type == "cuda":
            self._rows = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            self._rows.copy_(rows, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(rows.device))

    def read(self) -> Tensor:
        """Wait for the rows and return them, float16 [B, C + D] on the CPU."""
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
