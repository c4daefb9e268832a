"""Train runs with several workers, one process each: whole, interrupted, resumed, and with a worker left out.

python group_stories.py RANK SIZE FOLDER        writes FOLDER/done-RANK.json at the end
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from documented_methods import documented_method
from methods_by_progress import Annealed
from several_processes import together
from small_runs import CPU, digits, recipe, run_of, teacher_of

from raykd.data.augmentation import Augmentation
from raykd.errors import Interrupted
from raykd.methods import RKD, AttentionTransfer, FeatureKD
from raykd.models.vit_cifar import ViT
from raykd.spec.plan import Run
from raykd.spec.recipe import AdamW
from raykd.store.run_folder import RunFolder
from raykd.training import agreement
from raykd.training.group import Group, default_group
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.loop import fit

VIT = ViT(depth=2, width=24, heads=2, patch=2)
# Without batch norm, several workers take the same steps as one, up to rounding.
RUNS: dict[str, Run] = {
    "vit": run_of("baseline", student=recipe(model=VIT, optimizer=AdamW(lr=3e-3), clip_gradient_norm=1.0)),
    "adapter": run_of("distilled", method=FeatureKD(alpha=0.3), student=recipe(model=VIT, epochs=1)),
    "augmented": run_of(
        "distilled",
        student=recipe(model=VIT, optimizer=AdamW(lr=3e-3), augmentation=Augmentation(0.3, (2, 9), 3, 0.8, 1.0)),
    ),
    "averaged, accumulated, balanced": run_of(
        "distilled",
        method=RKD(),
        student=recipe(
            model=VIT, ema_decay=0.7, gradient_accumulation=5, sampling="balanced", class_weights=tuple(range(1, 11))
        ),
    ),
    "memory": run_of(
        "distilled", method=documented_method("QueueContrast", size=120), student=recipe(model=VIT, epochs=2)
    ),
    "temperature by progress": run_of("distilled", method=Annealed(), student=recipe(model=VIT, epochs=2)),
    "resnet, averaged": run_of("baseline", student=recipe(ema_decay=0.7, epochs=1)),
    "without labels": run_of(  # the final norm of the ViT gets no gradient
        "distilled",
        method=AttentionTransfer(ce_weight=0.0),
        student=recipe(model=VIT, epochs=1),
        teacher=recipe(model=VIT),
    ),
    "resnet": run_of("distilled", method=FeatureKD(alpha=0.3)),
    "resnet, batch norm over all": run_of(
        "distilled", method=FeatureKD(alpha=0.3), student=recipe(sync_batch_norm=True)
    ),
    "six epochs": run_of("baseline", student=recipe(model=VIT, epochs=6)),
    "resnet, fp16": run_of("baseline", student=recipe(precision="fp16", clip_gradient_norm=1.0, epochs=1)),
}
STOP_AT = 6  # steps, of 12: in the middle of the second epoch
STOP_AT_MESSAGE = 3  # of messages after steps 1, 2 and 18: in the middle of the fifth of six epochs


def train(name: str, folder: RunFolder, group: Group, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Train in all workers; each worker writes its epochs into a file."""
    reports: list[EpochReport] = []
    run = RUNS[name]
    torch.set_num_threads(1)
    try:
        fit(run, digits(), folder, CPU, teacher_of(run), Hooks(reports.append, should_stop), group)
    finally:
        with (folder.path.parent / f"reports-{folder.path.name}-{group.rank}.jsonl").open("a") as file:
            file.writelines(json.dumps([report.epoch, report.terms, report.val_top1]) + "\n" for report in reports)


def interrupted(name: str, folder: RunFolder, group: Group, stop_at: int = STOP_AT) -> str:
    """Train until the first worker stops when it is asked for the `stop_at`-th time; return each worker's message."""
    num_asked = 0

    def should_stop() -> bool:
        nonlocal num_asked
        num_asked += 1
        return group.is_first and num_asked == stop_at

    try:
        train(name, folder, group, should_stop)
    except Interrupted as error:
        return str(error)
    return ""


def main(rank: int, size: int, folder: Path) -> None:
    with together(rank, size, folder):
        group = default_group()
        for name in RUNS:
            train(name, RunFolder(folder / name), group)
        message = interrupted("resnet", RunFolder(folder / "resnet-cut"), group)
        train("resnet", RunFolder(folder / "resnet-cut"), group)
        message_memory = interrupted("memory", RunFolder(folder / "memory-cut"), group)
        train("memory", RunFolder(folder / "memory-cut"), group)
        message_vit = interrupted("vit", RunFolder(folder / "vit-cut"), group)
        agreement.MOST_STEPS["cpu"], agreement.EVERY_S = 16, 1e9
        rarely = interrupted("six epochs", RunFolder(folder / "six-epochs-cut"), group, STOP_AT_MESSAGE)
        train("six epochs", RunFolder(folder / "six-epochs-cut"), group)
        odd = group.subgroup(25)
        result = {
            "messages": [message, message_memory, message_vit],
            "rarely": rarely,
            "odd": [odd.size, odd.is_member],
            "even": group.subgroup(50).size,
        }
        (folder / f"done-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
