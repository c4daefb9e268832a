"""An experiment from images to test accuracies on one device, with torch alone: no Ray, no Slurm, no network.

    python tests/benchmarks/experiment_without_ray.py experiments/distill_cnn.py --data-dir DIR --results DIR
        --json FILE [--set FIELD=VALUE ...] [--minutes M]

After --minutes or a kill, rerun the same command to resume. It writes the test and validation accuracy, seconds and
images/s of each run with hardware and versions, and prints a line per epoch.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_parts.experiment import print_epoch

from raykd.bench.without_ray import train_plan
from raykd.cli.experiment_file import apply_settings, load_experiments
from raykd.data.load import load_dataset
from raykd.errors import Interrupted
from raykd.spec.plan import Run, make_plan
from raykd.store.run_store import RunStore
from raykd.training.compute import best_device, choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.hooks import Hooks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    until, device = time.monotonic() + 60 * arguments.minutes, best_device()
    store, results = RunStore(arguments.results), []
    hooks = Hooks(print_epoch, should_stop=lambda: time.monotonic() > until)
    for experiment in apply_settings(load_experiments(arguments.file), arguments.settings):
        data = experiment.data
        dataset = load_dataset(data.name, arguments.data_dir, data.image_size, arguments.results / ".data")
        plan = make_plan(experiment, dataset, arguments.data_dir / "weights")
        try:
            train_plan(plan, dataset, device, store, hooks)
        except Interrupted as error:
            print(error)
        for run in (run for run in plan.runs if store.status(run) == "done"):
            folder = store.folder(run)
            evaluate_on_test(run, folder, dataset, choose_compute(device, folder.require_record().compute.precision))
            results.append(_figures(run, store))
            print(results[-1])
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def _figures(run: Run, store: RunStore) -> dict[str, Any]:
    folder = store.folder(run)
    record, history = asdict(folder.require_record()), folder.history()
    facts = ("stage", "model", "method", "seed", "seconds", "compute", "versions", "hardware")
    return {name: record[name] for name in facts} | {
        "test_top1": json.loads(folder.test.read_text())["top1"],
        "val_top1": record["best"]["val_top1"],
        "epochs": len(history),
        "images_per_s": statistics.median(row["images_per_s"] for row in history),
    }


if __name__ == "__main__":
    main()
