"""A search of two trials on Ray: each trial is the run with its configuration, and the report has the search."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from experiment_runs import train_directly
from search_runs import EXPERIMENT, SPACE, folder_in, run_search, trained_without_ray, trials_in
from small_runs import CPU, NO_WEIGHTS, curve, digits, recipe
from wandb_files import contents

from raykd.spec.experiment import Workers
from raykd.spec.plan import make_plan
from raykd.spec.search import Search
from raykd.trackers.tracking import FOLDER
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

SEARCH = Search(space=SPACE, trials=2, scheduler="none", confirm=0, max_concurrent=1)
# Two CPUs, so that one worker at a time starts; a live teacher, so that none starts to fill a cache.
ASKED = replace(
    EXPERIMENT,
    data=replace(EXPERIMENT.data, train_images=200),
    student=recipe(epochs=2, batch_size=20),
    teacher_source="live",
    workers=Workers(cpus=2),
    seeds=(0,),
    search=SEARCH,
    tracker=("tensorboard", "wandb"),
)

CALLBACK = """
from raykd import Callback

class Bad(Callback):
    def on_epoch(self, report):
        raise ValueError("no network")
"""


def assert_tracked(results: Path) -> None:
    """Assert that W&B's files have the search with its trials, and the report with the family."""
    paths = sorted((results / FOLDER / "wandb").glob("offline-run-*/*.wandb"))
    found = {(run["kind"], run["name"]): run for run in map(contents, paths)}
    search = found["search", "small/search"]
    assert search["group"] == "small/search" and "search.space.method.alpha" in search["config"]
    for trial in trials_in(results):
        shown = found["trial", f"trial {trial.number:04d}"]
        assert (shown["group"], shown["exit"], len(shown["steps"])) == ("small/search", 0, 2)
        assert float(shown["config"]["method.alpha"]) == trial.configuration["method.alpha"]
    assert found["family", "small"]["artifacts"] == [["index.html", "report.json", "runs.csv"]]
    stages = {kind for kind, _ in found}
    assert stages == {"family", "search", "trial", "teacher", "baseline", "distilled"}


def test_trials_equal_runs_without_ray_bit_for_bit_and_are_in_the_report(cluster: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    teacher = make_plan(ASKED, digits(), NO_WEIGHTS, ("teacher",)).runs[0]
    trained = train_directly(teacher, results, threads=2)
    evaluate_on_test(teacher, trained, digits(), choose_compute(CPU, "fp32"))
    (tmp_path / "bad.py").write_text(CALLBACK)
    ended = run_search(results, replace(ASKED, callbacks=f"{tmp_path / 'bad.py'}:Bad"))  # type: ignore[arg-type]
    assert (ended.exit_code, ended.error) == (0, "")
    errors = [line for line in ended.lines if "ValueError: no network; the run continues" in line]
    assert [("trial 0" in line, "trial 1" in line) for line in errors[:2]] == [(True, False), (False, True)]
    assert len(errors) == 2 + 2, "one for each trial, and for the baseline and the distilled run of the winner"
    trials = trials_in(results)
    assert [trial.state for trial in trials] == ["done", "done"] and trials[0].configuration != trials[1].configuration
    for trial in trials:
        trained = folder_in(results).run(trial.number)
        expected = trained_without_ray(trial.configuration, results, tmp_path / "alone", ASKED)
        assert trained.best.read_bytes() == expected.best.read_bytes()
        assert curve(trained) == curve(expected)
        assert trial.values == (expected.require_record().best.val_top1,)
    assert_tracked(results)
    shutil.rmtree(results / FOLDER)
    for path in results.rglob("tracking.json"):
        path.unlink()
    assert run_search(results, ASKED).exit_code == 0
    assert_tracked(results)  # a finished search is added to a tracker that lacks it
    summary = json.loads((results / "report" / "small-search" / "summary.json").read_text())
    assert summary["winner"]["trial"] in (0, 1)
