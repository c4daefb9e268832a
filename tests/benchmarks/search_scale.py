"""The cost of Tune, Optuna and the study in a search of many trials that do nothing, and how it grows.

    python tests/benchmarks/search_scale.py [--trials 100 300 1000] [--rounds 1]

A trial reports three epochs and ends. Each size runs in a new process with a new Ray cluster, one trial at a time.
Seconds count from the second trial's start, when the worker exists. Memory is the driver's peak.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from raykd.orchestration.options import Options
from raykd.orchestration.session import ray_session
from raykd.spec.experiment import Experiment
from raykd.spec.recipe import Recipe
from raykd.spec.search import Search, loguniform, uniform
from raykd.store.study import SearchStudy

EPOCHS = 3
SPACE = {"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_measure(arguments.one)))
        return
    for trials in arguments.trials:
        rounds = [_in_a_process(trials) for _ in range(arguments.rounds)]
        row = {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
        print(json.dumps({"trials": trials} | row), flush=True)


def _in_a_process(trials: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", str(trials)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def fake_trial(config: Mapping[str, Any]) -> None:
    """Report an accuracy that is a function of the configuration. This is the trial."""
    from ray import tune

    configuration = config["configuration"]
    best = 80 - 40 * (configuration["method.alpha"] - 0.3) ** 2 - (configuration["method.temperature"] - 4) ** 2 / 10
    for epoch in range(1, EPOCHS + 1):
        common = {"epochs_done": epoch, "epochs": EPOCHS, "val_top1": best * epoch / EPOCHS}
        tune.report(common | {"seconds": 0.0, "images_per_s": 0.0, "done": epoch == EPOCHS})


def _measure(trials: int) -> dict[str, float]:
    search = Search(SPACE, trials=trials, scheduler="none", max_concurrent=1)
    with tempfile.TemporaryDirectory() as folder, ray_session():
        from ray import tune

        from raykd.orchestration.command import SearchCommand
        from raykd.orchestration.parallel_runs import Slots
        from raykd.orchestration.tuner import run_trials

        student = Recipe("resnet8", epochs=EPOCHS)
        command = SearchCommand(
            Options(Path(folder), Path(folder)),
            Console(quiet=True),
            Experiment("scale", student=student, search=search),
        )
        search_folder = command.folder
        search_folder.path.mkdir(parents=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        study = SearchStudy(search_folder, search, command.default_configuration)
        start_times: list[float] = []

        def should_stop() -> bool:
            if not start_times and len(study.trials()) > 1:
                start_times.append(time.monotonic())
            return False

        def make_trainable(flag: Any, storage: Path) -> Any:
            return tune.with_resources(fake_trial, {"cpu": 1})

        run_trials(command, study, make_trainable, Slots(1, 1, 0.0), should_stop)
        seconds = time.monotonic() - start_times[0]
        assert all(trial.state == "done" for trial in study.trials())
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        open_s = time.monotonic()
        SearchStudy(search_folder, search, command.default_configuration).trials()
        return {
            "seconds_per_trial": round(seconds / (trials - 1), 4),
            "driver_mib": round(after / 1024),
            "driver_mib_added": round((after - before) / 1024),
            "disk_kib": round(disk / 1024),
            "seconds_to_take_up": round(time.monotonic() - open_s, 3),
        }


if __name__ == "__main__":
    main()
