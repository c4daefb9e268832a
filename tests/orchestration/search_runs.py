"""A search of a few seconds on the digits: run in this process, or as a command (`python search_runs.py ...`)."""

import contextlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiment_runs import NO_DATA, train_directly
from rich.console import Console
from small_runs import NO_WEIGHTS, digits, experiment, recipe

from raykd.cli.parser import main, run_reporting_errors
from raykd.orchestration.command import Command
from raykd.orchestration.options import Options
from raykd.orchestration.run_search import search
from raykd.spec.experiment import Data, Experiment, Workers
from raykd.spec.plan import make_plan
from raykd.spec.search import Search, loguniform, uniform
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder, SearchTrial

FILE = Path(__file__)
TRIALS, EPOCHS = 6, 9
SPACE = {"method.alpha": uniform(0.1, 0.9), "method.temperature": loguniform(1, 20)}
EXPERIMENT = experiment(
    data=Data("digits", val_images=100, train_images=1000, image_size=8, crop_padding=1, flip=True),
    student=recipe(epochs=EPOCHS, batch_size=20),
    workers=Workers(cpus=1),
    seeds=(0, 1),
    search=Search(space=SPACE, trials=TRIALS, grace_epochs=1, confirm=1, max_concurrent=1),
)


@dataclass(frozen=True)
class Ended:
    """How a search ended, and what it printed through its console."""

    exit_code: int
    lines: list[str]
    error: str


def run_search(results: Path, asked: Experiment = EXPERIMENT) -> Ended:
    """Run the search as the command line does, in this process and its Ray cluster."""
    log, error = io.StringIO(), io.StringIO()
    options = Options(results, NO_DATA)
    with contextlib.redirect_stderr(error):
        code = run_reporting_errors(lambda: search(asked, Command(options, Console(file=log, width=80))))
    return Ended(code, log.getvalue().splitlines(), error.getvalue())


def changed(**changes: Any) -> Experiment:
    """The experiment with another search."""
    assert EXPERIMENT.search is not None
    return replace(EXPERIMENT, search=replace(EXPERIMENT.search, **changes))


def trained_without_ray(
    configuration: Mapping[str, Any], results: Path, elsewhere: Path, asked: Experiment = EXPERIMENT
) -> RunFolder:
    """The run of a trial with `configuration`, trained by the loop alone with the search's logit cache."""
    assert asked.search is not None and asked.workers.cpus is not None
    made = replace(asked.with_configuration(configuration), seeds=(asked.search.trial_seed,))
    run = next(run for run in make_plan(made, digits(), NO_WEIGHTS).runs if run.stage == "distilled")
    return train_directly(run, elsewhere, caches=RunStore(results).logit_caches, threads=asked.workers.cpus)


def folder_in(results: Path) -> SearchFolder:
    return SearchFolder(results / "small" / "search")


def trials_in(results: Path) -> list[SearchTrial]:
    return folder_in(results).trials()


def confirmed_in(results: Path) -> Mapping[str, Any]:
    return json.loads(folder_in(results).confirmed.read_text())


def with_its_teacher(results: Path, other: Path) -> None:
    """Give `other` the teacher and its logit cache that are in `results`, so that a search begins with its trials."""
    for path in (*results.glob("teachers/*"), results / ".logit_caches"):
        shutil.copytree(path, other / path.relative_to(results))


if __name__ == "__main__":
    main(EXPERIMENT)
