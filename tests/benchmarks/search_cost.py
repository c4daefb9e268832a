"""The cost of a search with early stopping and a logit cache, compared with full trials with a live teacher.

    python tests/benchmarks/search_cost.py --data-dir DIR [--trials 16] [--epochs 12]

Two searches with the same seeds over alpha and temperature, for a small version of distill_cnn.py's student (CIFAR-10
at 16x16, 10,000 images, narrow ResNet-18 -> narrow ResNet-8): trials of at least 20 s, one per core side by side. Cost
is CPU seconds of the trials' training and of filling the logit cache. Both best configurations are then trained with
three new seeds and compared on validation, paired by seed.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from raykd.cli.experiment_file import apply_settings, load_experiment
from raykd.config.codec import read_checked_json
from raykd.orchestration.command import Command
from raykd.orchestration.options import Options
from raykd.orchestration.run_search import search
from raykd.orchestration.session import ray_session
from raykd.report.stats.paired_interval import spread_of
from raykd.spec.bundled import EXPERIMENTS
from raykd.spec.experiment import Experiment
from raykd.store.run_folder import RunFolder
from raykd.store.study import SearchFolder, best_first

SMALL = {
    "data.image_size": 16,
    "data.train_images": 10_000,
    "teacher.model.width": 16,
    "teacher.epochs": 12,
    "teacher.batch_size": 64,
    "teacher.schedule": "cosine",
    "student.model.width": 8,
    "student.batch_size": 64,
    "student.optimizer.lr": 0.05,
    "student.schedule": "cosine",
    "workers.cpus": 1,
    "workers.gpus": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--results", default="search_cost")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    options = Options(Path(arguments.results), Path(arguments.data_dir))
    settings = [f"{path}={value}" for path, value in SMALL.items()] + [f"student.epochs={arguments.epochs}"]
    (experiment,) = apply_settings([load_experiment(EXPERIMENTS / "tune_cnn.py")], settings)
    assert experiment.search is not None
    search_spec = replace(experiment.search, trials=arguments.trials, grace_epochs=None, confirm=0)
    results = {}
    with ray_session():
        for name, source, scheduler in (("cache", "cache", "asha"), ("live", "live", "none")):
            source_search: Any = replace(search_spec, scheduler=scheduler, name=f"search-{name}")
            results[name] = _search(replace(experiment, search=source_search, teacher_source=source), options)
            print(json.dumps({name: results[name]}), flush=True)
    differences = [a - b for a, b in zip(results["cache"]["val_top1"], results["live"]["val_top1"], strict=True)]
    spread = spread_of(differences)
    assert spread is not None
    cost = results["cache"]["training_s"] + results["cache"]["filling_s"]
    print(json.dumps({"cost ratio": round(cost / results["live"]["training_s"], 3)}))
    print(json.dumps({"val top1, logit cache + ASHA minus live": round(spread.mean, 2), "std": spread.std}))


def _search(experiment: Experiment, options: Options) -> dict[str, Any]:
    search_spec = experiment.search
    assert search_spec is not None
    search(experiment, Command(options, Console()))
    folder = SearchFolder(options.results / experiment.family / search_spec.name)
    trials = folder.trials()
    seconds = {trial.number: trial.seconds or 0.0 for trial in trials}
    best = best_first(trials, search_spec)[0]
    planned = read_checked_json(options.results / experiment.family / "plan.json")["stages"]["distilled"]
    return {
        "training_s": round(sum(seconds.values()), 1),
        "filling_s": round(folder.require_record().fill_seconds, 1),
        "shortest_full_trial_s": round(min(seconds[trial.number] for trial in trials if trial.state == "done"), 1),
        "done": sum(trial.state == "done" for trial in trials),
        "best": dict(best.configuration),
        "val_top1": [RunFolder(folder.path.parent / name).require_record().best.val_top1 for name in planned],
    }


if __name__ == "__main__":
    main()
