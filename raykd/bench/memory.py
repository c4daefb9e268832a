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
from raykd.training.teacher.choose import PlannedCache
from raykd.training.teacher.sources import CachedTeacher

NUM_IMAGES = 50_000
STEPS = 20  # a run reaches its peak memory within these steps
ROWS_IN_HALF_A_PAGE = 100  # a row has 10 float16 values
MOST_BYTES = 3 << 29  # 1.5 GiB in addition to images and logit cache
TIMEOUT_S = 600.0


def peak_memory(family: str, device: torch.device) -> dict[str, int]:
    """Return bytes: the run's 'peak' (on a GPU, of its memory), its 'images' and 'cache', and the expected 'limit'."""
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
    device, family, dataset = torch.device(device_name), FAMILIES[name](), noise(NUM_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        planned = PlannedCache((family.teacher_run(),), family.data, family.student.precision, (), True, 1)
        cache = LogitCache(Path(folder), planned.key(dataset, "benchmark-memory"))
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
        limit = int(images + cache.key.size_bytes + MOST_BYTES)
        peak = peak_bytes(device)
    sender.send({"peak": peak, "images": int(images), "cache": cache.key.size_bytes, "limit": limit})
