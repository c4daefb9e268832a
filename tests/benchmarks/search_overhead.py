"""Seconds of a trial that are not training, in steady state: with raykd's settings of Tune, and with Tune's defaults.

    python tests/benchmarks/search_overhead.py [--trials 12] [--rounds 3]

Each round runs two searches on the digits with trials of about a second, one at a time on one core: raykd's, and one
with a new worker for each trial and with Tune's loggers and snapshots. The overhead is the time from the end of the
first trial to the end of the last, minus the training time in run.json, divided by the trials between.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

PLAIN = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "auto",
}
EPOCHS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=("raykd", "plain"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_measure(arguments.trials, arguments.one == "plain")))
        return
    seconds: dict[str, list[float]] = {"raykd": [], "plain": []}
    for _ in range(arguments.rounds):
        for name, values in seconds.items():
            values.append(_in_a_process(name, arguments.trials))
    for name, values in seconds.items():
        print(json.dumps({name: round(statistics.median(values), 3), "all": [round(value, 3) for value in values]}))


def _in_a_process(name: str, trials: int) -> float:
    command = [sys.executable, __file__, "--one", name, "--trials", str(trials)]
    environ = os.environ | (PLAIN if name == "plain" else {})
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ)
    return float(process.stdout.splitlines()[-1])


def _measure(trials: int, is_plain: bool) -> float:
    import optuna
    from rich.console import Console

    from raykd.cli.experiment_file import load_experiment
    from raykd.orchestration.command import Command
    from raykd.orchestration.options import Options
    from raykd.orchestration.run_search import search
    from raykd.orchestration.session import ray_session
    from raykd.spec.bundled import EXPERIMENTS
    from raykd.spec.search import Search, loguniform, uniform
    from raykd.store.study import STUDY_NAME, SearchFolder, open_storage

    space = {"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)}
    search_spec = Search(space, trials=trials, scheduler="none", max_concurrent=1, confirm=0)
    digits = load_experiment(EXPERIMENTS / "digits.py")
    experiment = replace(digits, student=replace(digits.student, epochs=EPOCHS), seeds=(0,), search=search_spec)
    with tempfile.TemporaryDirectory() as folder, ray_session():
        if is_plain:
            from ray import tune

            tune.TuneConfig = functools.partial(_with_new_workers, tune.TuneConfig)  # type: ignore[misc]
        search(experiment, Command(Options(Path(folder), Path("none")), Console(file=sys.stderr)))
        search_folder = SearchFolder(Path(folder) / "digits" / search_spec.name)
        ended = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(search_folder.journal)).trials
        training = sum(search_folder.run(trial.number).require_record().seconds for trial in ended[1:])
    first, last = ended[0].datetime_complete, ended[-1].datetime_complete
    assert first is not None and last is not None
    return ((last - first).total_seconds() - training) / (trials - 1)


def _with_new_workers(make, **settings):
    return make(**settings | {"reuse_actors": False})


if __name__ == "__main__":
    main()
