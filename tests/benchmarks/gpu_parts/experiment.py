"""A whole experiment on CIFAR-10: experiments/distill_cnn.py with as many epochs as the time allows.

It trains a teacher, baselines and students distilled from the logit cache, with two seeds. It reports test accuracies,
seconds, images/s, and the seconds that the whole recipe would take at the same pace.
"""

import json
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from gpu_parts.report import Part
from gpu_parts.setting import NARROW, Setting, subject_named
from gpu_parts.timed_loop import step_figures
from raykd.bench.without_ray import train_plan
from raykd.cli.experiment_file import load_experiment
from raykd.data.load import load_dataset
from raykd.data.types import Dataset
from raykd.errors import Interrupted
from raykd.spec.bundled import EXPERIMENTS
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Run, make_plan
from raykd.spec.recipe import Recipe
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.evaluate import evaluate
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.model_file import load_model
from raykd.training.teacher.choose import num_visited

TEACHER_EPOCHS, STUDENT_EPOCHS, SEEDS = 30, 20, (0, 1)
SCALES = (10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.5, 1.25, 1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
USED_SHARE = 0.75  # of the time left is planned; starts, checkpoints and tests need the rest
END_S = 4.0  # reserved for evaluation after an interruption
FILL_VIEWS_PER_S = 30_000.0  # if the part 'fill' has no figure


def measure(part: Part, setting: Setting) -> None:
    if setting.data_dir is None:
        part.leave_out("experiment", "no --data-dir with CIFAR-10")
        return
    folder, loaded = setting.data_dir, []
    cache = setting.folder / "experiment" / ".data"
    part.figure("decode", lambda: _load_times(folder, cache, loaded), needs_s=3.0)
    part.figure("steps", lambda: _step_seconds(part, setting), needs_s=3.0)
    experiment = part.figure(
        "experiment", lambda: _train(part, setting, loaded, folder, cache), 5.0, part.left() + 30.0
    )
    if experiment is None and not loaded:
        part.leave_out("accuracies", "no data set, or no time")


def _load_times(folder: Path, cache: Path, loaded: list[Dataset]) -> dict[str, Any]:
    """Decode the data set, then read it from the cache of decoded images, and return the seconds of both."""
    seconds = []
    for _ in range(2):
        start_s = time.perf_counter()
        dataset = load_dataset("cifar10", folder, None, cache)
        seconds.append(time.perf_counter() - start_s)
    loaded.append(dataset)
    counts = {"train": len(dataset.train), "test": len(dataset.test)}
    return {"decode_s": seconds[0], "read_decoded_s": seconds[1], **counts}


def _step_seconds(part: Part, setting: Setting) -> dict[str, float]:
    """Return seconds per step of teacher and student, and views/s of filling, from earlier parts or measured now."""
    figures = {}
    for key, name in (("teacher", "resnet18 training"), ("student", "resnet8 cache")):
        ways = [part.report.figure("steps", f"{name}, {way}") for way in ("eager", "graph")]
        known = [figures["ms_per_step"] for figures in ways if figures]
        if not known:
            subject = subject_named(setting, name, 50)
            folder = setting.folder / f"experiment-{key}"
            known = [step_figures(subject, "auto", setting.device, folder, 1, 0.5)["ms_per_step"]]
        figures[f"{key}_step_s"] = max(known) / 1e3
    fill = part.report.figure("fill", "fill, resnet18")
    return figures | {"fill_views_per_s": fill["views_per_s"] if fill and not setting.toy else FILL_VIEWS_PER_S}


def _train(part: Part, setting: Setting, loaded: list[Dataset], data_dir: Path, cache: Path) -> dict[str, Any]:
    dataset = loaded[0] if loaded else load_dataset("cifar10", data_dir, None, cache)
    paces = part.report.figure("experiment", "steps")
    if paces is None:
        raise RuntimeError("the time of a step is not known")
    whole = load_experiment(EXPERIMENTS / "distill_cnn.py")
    left_s = part.left() - END_S
    scale, expected_s = _scale(whole, paces, USED_SHARE * left_s)
    experiment = _shortened(whole, scale, setting.toy)
    print(
        f"[experiment] {experiment.teacher.epochs} and {experiment.student.epochs} epochs, {expected_s:.0f} s",
        flush=True,
    )
    store, fills = RunStore(setting.folder / "experiment"), []
    plan = make_plan(experiment, dataset, data_dir / "weights")
    until = time.time() + left_s
    hooks = Hooks(print_epoch, should_stop=lambda: time.time() > until)
    start_s, is_complete = time.perf_counter(), True
    try:
        train_plan(plan, dataset, setting.device, store, hooks, lambda *fill: fills.append(fill))
    except Interrupted as error:
        is_complete = False
        print(f"[experiment] {error}", flush=True)
    trained_s = time.perf_counter() - start_s
    runs = [_run_figures(run, store, dataset, setting.device) for run in plan.runs]
    return {
        "complete": is_complete,
        "scale": scale,
        "teacher_epochs": experiment.teacher.epochs,
        "student_epochs": experiment.student.epochs,
        "seeds": len(experiment.seeds),
        "expected_s": expected_s,
        "seconds": trained_s,
        "filled_views": sum(num_views for num_views, _ in fills),
        "fill_s": sum(seconds for _, seconds in fills),
        "runs": runs,
        "means": _means(runs),
        "whole_recipe_s": _projected(whole, runs, fills),
    }


def _shortened(whole: Experiment, scale: float, toy: bool) -> Experiment:
    """Return the experiment with fewer epochs and seeds. Its milestones are fractions of the epochs."""
    teacher, student = (
        replace(recipe, epochs=epochs)
        for recipe, epochs in zip((whole.teacher, whole.student), _epochs(scale), strict=True)
    )
    data = whole.data
    if toy:
        teacher, student = (replace(recipe, model=NARROW, epochs=1) for recipe in (teacher, student))
        data = replace(data, train_images=256, val_images=100, crop_padding=1)
    return replace(whole, data=data, teacher=teacher, student=student, seeds=SEEDS, teacher_source="cache")


def _epochs(scale: float) -> tuple[int, int]:
    return max(1, round(scale * TEACHER_EPOCHS)), max(1, round(scale * STUDENT_EPOCHS))


def _scale(whole: Experiment, paces: dict[str, float], seconds: float) -> tuple[float, float]:
    """Return the largest of SCALES whose expected time is at most `seconds`, and that time."""
    chosen = SCALES[-1], 0.0
    for scale in SCALES:
        chosen = scale, _expected(whole, paces, *_epochs(scale), len(SEEDS))
        if chosen[1] <= seconds:
            break
    return chosen


def _expected(
    whole: Experiment, paces: dict[str, float], teacher_epochs: int, student_epochs: int, seeds: int
) -> float:
    images = 50_000 - whole.data.val_images
    steps = images // whole.student.batch_size
    passes = images * num_visited(whole.data.views.count, seeds * student_epochs)
    trained = teacher_epochs * paces["teacher_step_s"] + 2 * seeds * student_epochs * paces["student_step_s"]
    return steps * trained + passes / paces["fill_views_per_s"]


def _run_figures(run: Run, store: RunStore, dataset: Dataset, device: torch.device) -> dict[str, Any]:
    """Return the figures of a run so far, with its test accuracy if it is done."""
    folder, figures = store.folder(run), {"run": run.name, "stage": run.stage, "status": store.status(run)}
    if figures["status"] == "not started":
        return figures
    record, history = folder.require_record(), folder.history()
    if history:
        figures["last_val_top1"] = history[-1]["val_top1"]
    if figures["status"] != "done":
        return figures | {"epochs": len(history)}
    compute = choose_compute(device, record.compute.precision)
    tested = evaluate(load_model(folder.best).to(device), dataset.test, compute)
    return figures | {
        "test_top1": tested.top1,
        "val_top1": record.best.val_top1 if record.best else None,
        "seconds": record.seconds,
        "epochs": len(history),
        "epoch_s": record.seconds / len(history),
        "images_per_s": statistics.median(row["images_per_s"] for row in history),
        "compute": json.dumps(asdict(record.compute)),
    }


def _means(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean test top-1 of each stage."""
    top1: dict[str, list[float]] = {}
    for run in runs:
        if "test_top1" in run:
            top1.setdefault(run["stage"], []).append(run["test_top1"])
    return {stage: statistics.mean(values) for stage, values in top1.items()}


def _projected(whole: Experiment, runs: list[dict[str, Any]], fills: list[tuple[int, float]]) -> dict[str, float]:
    """Return the seconds of the whole experiment at the measured pace of each stage that was reached."""
    epochs: dict[str, Recipe] = {"teacher": whole.teacher, "baseline": whole.student, "distilled": whole.student}
    projected: dict[str, float] = {}
    for stage, recipe in epochs.items():
        paces = [run["epoch_s"] for run in runs if run["stage"] == stage and "epoch_s" in run]
        if paces:
            projected[stage] = statistics.mean(paces) * recipe.epochs * (1 if stage == "teacher" else len(whole.seeds))
    if fills:
        passes = 45_000 * num_visited(whole.data.views.count, len(whole.seeds) * whole.student.epochs)
        projected["fill"] = passes * sum(seconds for _, seconds in fills) / sum(num_views for num_views, _ in fills)
    return projected | ({"all": sum(projected.values())} if len(projected) == len(epochs) + 1 else {})


def print_epoch(report: EpochReport) -> None:
    """Print a line for the epoch."""
    print(
        f"{report.run}  epoch {report.epoch + 1}/{report.epochs}  loss {report.terms['loss']:.3f}  "
        f"val {report.val_top1:.2f} %  {report.images_per_s:,.0f} images/s  {report.seconds:.0f} s",
        flush=True,
    )
