"""A grid judged by several metrics, half of whose trials fail: a failure has a reason and stops no other trial."""

from dataclasses import replace
from pathlib import Path

import pytest
from search_runs import EXPERIMENT, Ended, folder_in, run_search, trials_in, with_its_teacher
from small_runs import recipe

from raykd.spec.search import Search, choice
from raykd.store.study import best_first

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]

SEARCH = Search(
    space={"student.optimizer.lr": choice(0.05, 1e10), "student.model.width": choice(8, 16)},
    metric=("val_top1", "parameters", "latency_ms"),
    sampler="grid",
    scheduler="none",
    confirm=0,
)
ASKED = replace(EXPERIMENT, student=recipe(epochs=2, batch_size=20), seeds=(0,), search=SEARCH)


@pytest.fixture(scope="module")
def grid(searched: tuple[Path, Ended], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    results = tmp_path_factory.mktemp("grid")
    with_its_teacher(searched[0], results)
    return results, run_search(results, ASKED)


def test_trials_that_diverge_have_failed_with_their_reason_and_the_others_are_done(grid: tuple[Path, Ended]) -> None:
    results, ended = grid
    assert ended.exit_code == 0, ended.error
    trials = trials_in(results)
    assert [trial.state for trial in trials] == ["done", "done", "failed", "failed"], "lr 0.05, then lr 1e10"
    for trial in trials[2:]:
        assert "NaN or infinite" in trial.reason and folder_in(results).run(trial.number).status() == "failed"
        assert any(f"trial {trial.number} " in line and "failed: " in line for line in ended.lines)


def test_what_no_trial_beats_in_all_metrics_is_the_front_and_its_first_wins(grid: tuple[Path, Ended]) -> None:
    results, _ = grid
    done = [trial for trial in trials_in(results) if trial.state == "done"]
    sizes = [trial.values[1] for trial in done]
    assert sizes == sorted(sizes) and sizes[0] * 3 < sizes[1], "twice the width has four times the weights"
    assert all(0 < trial.values[2] < 1000 for trial in done), "milliseconds"
    front = best_first(done, SEARCH)
    assert done[0] in front, "no trial is smaller than the smallest"
    page = (results / "report" / "small-search" / "index.html").read_text()
    assert "Trade-off" in page and "NaN or infinite" in page
