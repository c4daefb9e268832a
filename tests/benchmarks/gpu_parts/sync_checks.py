"""Check with torch's sync debug mode that the host never waits for the GPU inside a training step.

After WARM_UP steps of the loop, the first call that waits raises an error, for CHECKED steps. Between epochs the loop
may wait.
"""

import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpu_parts.setting import BATCH_SIZE, Small, small_dataset, with_recipe
from raykd.data.augmentation import NO_AUGMENTATION, Augmentation
from raykd.data.types import Dataset
from raykd.errors import Interrupted
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute, configure_process
from raykd.training.hooks import Hooks
from raykd.training.loop import train_epochs
from raykd.training.training_step import make_train_state

WARM_UP, CHECKED, STEPS = 12, 6, 20
FRAMES = 6


def step(device: torch.device, small: Small, augmentation: Augmentation = NO_AUGMENTATION) -> dict[str, Any]:
    """Return whether CHECKED steps ran without a wait; if not, with the innermost lines of the call that waits."""
    dataset = small_dataset(STEPS * BATCH_SIZE + 40)
    run = with_recipe(small.run(), augmentation=augmentation)
    run = replace(run, data=replace(run.data, val_images=30))
    with tempfile.TemporaryDirectory() as folder:
        try:
            checked = _train(run, small, dataset, device, Path(folder))
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
            lines = [f"{Path(frame.filename).name}:{frame.lineno} {frame.line}" for frame in frames]
            return {"passed": False, "error": str(error).splitlines()[0], "lines": lines}
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"passed": checked == CHECKED, "checked_steps": checked}


def _train(run: Run, small: Small, dataset: Dataset, device: torch.device, folder: Path) -> int:
    """Train until the check is over, and return the number of checked steps."""
    configure_process(device)
    training = make_train_state(
        run, dataset, choose_compute(device, run.recipe.precision), small.teacher(run, dataset, device)
    )
    done = 0

    def should_stop() -> bool:
        nonlocal done
        done += 1
        if done == WARM_UP:
            torch.cuda.set_sync_debug_mode("error")
        if done == WARM_UP + CHECKED:
            torch.cuda.set_sync_debug_mode("default")
        return done >= WARM_UP + CHECKED

    hooks = Hooks(should_stop=should_stop, checkpoint_every_s=float("inf"))
    try:
        for _ in train_epochs(training, RunFolder(folder), hooks):
            pass
    except Interrupted:
        pass
    return done - WARM_UP
