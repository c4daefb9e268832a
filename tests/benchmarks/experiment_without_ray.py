"""An experiment from images to test accuracies on one device, with torch alone: no Ray, no Slurm, no internet access.

    python tests/benchmarks/experiment_without_ray.py experiments/distill_cnn.py --data-dir DIR --results DIR
        --json FILE [--set FIELD=VALUE ...] [--minutes M]

It prints a line per epoch. FILE lists each finished run with its test and validation top-1 in percent, seconds of
training, images/s (null for an imported teacher, which is not trained), hardware and versions. After --minutes or a
kill, rerun the same command to resume. The exit code is 75 after --minutes.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_parts.experiment import print_epoch

from raykd.bench.without_ray import train_plan
from raykd.cli.experiment_file import apply_settings, load_experiments
from raykd.data.load import load_dataset
from raykd.errors import Interrupted
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Run, make_plan
from raykd.store.run_store import RunStore
from raykd.training.compute import best_device, choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.hooks import Hooks


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line `words` and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args(words)
    if not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: the folder does not exist; make it, or name another one")
    until, results, exit_code = time.monotonic() + 60 * arguments.minutes, [], 0
    hooks = Hooks(print_epoch, should_stop=lambda: time.monotonic() > until)
    for experiment in apply_settings(load_experiments(arguments.file), arguments.settings):
        finished, interruption = _train(experiment, arguments.data_dir, arguments.results, hooks)
        results += finished
        if interruption is not None:
            print(interruption)
            exit_code = interruption.exit_code
            break
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return exit_code


def _train(
    experiment: Experiment, data_dir: Path, results: Path, hooks: Hooks
) -> tuple[list[dict[str, Any]], Interrupted | None]:
    """Train the runs of `experiment`. Return the entries of those that are done, and the interruption, if any."""
    data, device, store, interruption = experiment.data, best_device(), RunStore(results), None
    dataset = load_dataset(data.name, data_dir, data.image_size, results / ".data")
    plan = make_plan(experiment, dataset, data_dir / "weights")
    try:
        train_plan(plan, dataset, device, store, hooks)
    except Interrupted as error:
        interruption = error
    finished = []
    for run in (run for run in plan.runs if store.status(run) == "done"):
        folder = store.folder(run)
        evaluate_on_test(run, folder, dataset, choose_compute(device, folder.require_record().compute.precision))
        finished.append(_entry(run, store))
        print(finished[-1])
    return finished, interruption


def _entry(run: Run, store: RunStore) -> dict[str, Any]:
    """Return the entry of a finished run."""
    folder = store.folder(run)
    record, history = asdict(folder.require_record()), folder.history()
    fields = ("stage", "model", "method", "seed", "seconds", "compute", "versions", "hardware")
    return {name: record[name] for name in fields} | {
        "test_top1": json.loads(folder.test.read_text())["top1"],
        "val_top1": record["best"]["val_top1"],
        "epochs": len(history),
        "images_per_s": statistics.median(row["images_per_s"] for row in history) if history else None,
    }


if __name__ == "__main__":
    sys.exit(main())
