"""Peak memory of some steps of runs on all images of CIFAR-10, less what this process had allocated before."""

import tempfile
from pathlib import Path
from typing import Any

from gpu_parts.report import Part
from gpu_parts.setting import Setting, Subject, subjects
from gpu_parts.timed_loop import free, memory_since, reset_memory
from raykd.bench.families import noise
from raykd.errors import Interrupted
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import Hooks
from raykd.training.loop import fit
from raykd.training.memory import peak_bytes, reset_peak

NUM_IMAGES = 50_000
STEPS = 20  # a run reaches its peak memory within these
NAMES = ("resnet8 cache", "resnet18 training", "vit_tiny training", "resnet8 live")


def measure(part: Part, setting: Setting) -> None:
    names = NAMES[:1] if setting.toy else NAMES
    for subject in (subject for subject in subjects(setting, 350) if subject.name in names):
        for way in ("eager", "graph"):
            part.figure(f"{subject.name}, {way}", lambda s=subject, w=way: _peak(s, w, setting))
            free()


def _peak(subject: Subject, way: str, setting: Setting) -> dict[str, Any]:
    """Return MiB, images and cache included; on a CPU the peak of the whole process."""
    device = setting.device
    dataset = noise(64 if setting.toy else NUM_IMAGES)
    before = reset_memory(device)
    reset_peak(device)
    steps = iter(range(2 if setting.toy else STEPS))
    teacher = subject.teacher(dataset, device)
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        try:
            hooks = Hooks(should_stop=lambda: next(steps, None) is None)
            fit(subject.launched(way), dataset, RunFolder(Path(folder) / "run"), device, teacher, hooks)
        except Interrupted:
            pass
    images_bytes = dataset.train.images.numel()
    peak = (peak_bytes(device) or 0) / 2**20
    return {"process_peak_MiB": peak, "images_as_stored_MiB": images_bytes / 2**20, **memory_since(device, before)}
