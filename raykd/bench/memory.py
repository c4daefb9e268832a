"""Peak memory of a distilled run on as many images as CIFAR-10 has, with a full logit cache, in a separate process."""

import multiprocessing
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from raykd.bench.families import FAMILIES, noise
from raykd.errors import Interrupted
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import Hooks
from raykd.training.loop import fit
from raykd.training.memory import peak_bytes
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.sources import CachedTeacher

NUM_IMAGES = 50_000
STEPS = 20  # a run reaches its peak memory within these steps
ROWS_IN_HALF_A_PAGE = 100  # a row has 10 float16 values
OTHER_BYTES = 3 << 29  # the most that packages, models, optimizer and activations of a batch may take: 1.5 GiB
TIMEOUT_S = 600.0


def peak_memory(family: str, device: torch.device) -> dict[str, int]:
    """Return bytes: the run's 'peak', and its expected 'limit', the sum of 'images', 'cache' and 'other'.

    other: OTHER_BYTES. 'before' is the memory of the process before the run, 0.6 to 0.9 GB for the imported packages,
    depending on their versions. On a GPU only the GPU's memory counts, and it is 0.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would inherit this process's memory
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_peak, args=(family, str(device), torch.get_num_threads(), sender), daemon=True)
    child.start()
    sender.close()
    if not receiver.poll(TIMEOUT_S):
        child.kill()
        raise TimeoutError(f"a run of {family} did not finish {STEPS} steps in {TIMEOUT_S:g} s")
    sizes: dict[str, int] = receiver.recv()
    child.join()
    return sizes


def _send_peak(name: str, device_name: str, threads: int, sender: Any) -> None:
    torch.set_num_threads(threads)
    device, family = torch.device(device_name), FAMILIES[name]()
    before, dataset = peak_bytes(device) or 0, noise(NUM_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        cache = LogitCache(Path(folder), family.cache().key(dataset, "benchmark-memory"))
        logits = cache.logits().to(device)
        logits[::ROWS_IN_HALF_A_PAGE].sum()  # read every page, as a long run does
        steps = iter(range(STEPS))
        teacher = CachedTeacher(logits, cache.key.num_views, "")
        hooks = Hooks(should_stop=lambda: next(steps, None) is None)
        with suppress(Interrupted):
            fit(family.distilled(), dataset, RunFolder(Path(folder) / "run"), device, teacher, hooks)
        # In addition to the stored images, the renderer holds a padded copy of each one, and the mirrored copy.
        rendered = 2 * (1 + 2 * family.data.crop_padding / dataset.image_size) ** 2
        images = dataset.train.pixels.numel() * (1 + rendered)
        peak = peak_bytes(device)
    sizes = {"images": int(images), "cache": cache.key.size_bytes, "other": OTHER_BYTES}
    sender.send(sizes | {"before": before, "peak": peak, "limit": sum(sizes.values())})
