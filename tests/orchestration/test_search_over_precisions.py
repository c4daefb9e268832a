"""Searches over the student's precision on a machine without a GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_runs import NO_DATA
from search_runs import EXPERIMENT, run_search
from small_runs import recipe, teacher_of

from raykd.errors import RejectedConfiguration
from raykd.orchestration.options import Options
from raykd.orchestration.parallel_runs import Slots
from raykd.spec.search import Search, Space, choice
from raykd.store.study import SearchFolder
from raykd.training.failure import decide_trial

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

PRECISION = "student.precision"
ASKED = replace(EXPERIMENT, student=recipe(epochs=2, batch_size=20), teacher_source="live", seeds=(0,))


def search_over(**space: Space) -> Search:
    paths = {name.replace("__", "."): values for name, values in space.items()}
    return Search(space=paths, sampler="grid", scheduler="none", trials=2, confirm=0, max_concurrent=1)


@pytest.mark.parametrize(
    ("precision", "space", "field"),
    [
        (
            "fp32",
            {"student__precision": choice("fp32", "tf32")},
            "search.space: student.precision in choice(fp32, tf32) cannot be tf32: student.precision = tf32",
        ),
        ("tf32", {"method__alpha": choice(0.1, 0.9)}, "student.precision = tf32"),
    ],
    ids=["in the space", "in the recipe"],
)
def test_tf32_without_a_gpu_is_refused_before_the_teacher_is_trained(
    precision: str, space: dict[str, Space], field: str, cluster: str, tmp_path: Path
) -> None:
    asked = replace(ASKED, student=recipe(precision=precision), search=search_over(**space))
    ended = run_search(tmp_path / "results", asked)
    assert ended.exit_code == 2 and not list(tmp_path.rglob("run.json"))
    (line,) = ended.error.splitlines()
    assert f"{field}: requires a GPU with TF32 (Ampere or later), and this run trains on the CPU; set" in line


def test_each_trial_trains_in_its_precision_and_fails_if_its_device_has_no_such_precision(
    cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The driver may see no GPU, so that only a worker finds that a GPU has no TF32."""
    from raykd.orchestration import trial  # imported here, because `cluster` must import Ray first
    from raykd.orchestration.searcher import CONFIGURATION, FAILED, NUMBER, REPORTED

    monkeypatch.setattr(trial, "export_metrics", lambda *_: None)
    monkeypatch.setattr("raykd.training.train_one.load_teacher", lambda run, *_: teacher_of(run))
    search, results = search_over(student__precision=choice("fp32", "bf16", "tf32")), list[dict[str, Any]]()
    options = Options(tmp_path, NO_DATA)
    asked = replace(ASKED, search=search)
    shared = trial.TrialContext(asked, options, tmp_path / "search", Slots(1, 1, 0), None, None, Path.cwd())
    for number, precision in enumerate(("fp32", "bf16")):
        config: dict[str, Any] = {NUMBER: number, CONFIGURATION: {PRECISION: precision}, REPORTED: 0}
        trial.train_trial(config, shared, results.append, lambda: False)
        assert SearchFolder(tmp_path / "search").run(number).require_record().compute.precision == precision
    config = {NUMBER: 2, CONFIGURATION: {PRECISION: "tf32"}, REPORTED: 0}
    with pytest.raises(RejectedConfiguration, match=r"precision = tf32: requires a GPU with TF32") as raised:
        trial.train_trial(config, shared, results.append, lambda: False)
    assert trial.failed_result(decide_trial(raised.value, gpus=0)) == {FAILED: str(raised.value)}, (
        "and it is not trained again"
    )
