"""The benchmark that trains an experiment file without Ray: its exit codes and its list of finished runs."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from small_experiment import SMALL

from raykd.errors import Interrupted

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "benchmarks"))

import experiment_without_ray  # noqa: E402

STAGES = ["teacher", "baseline", "distilled"]


def run(folder: Path, *words: str, file: Path = ROOT / "experiments" / "digits.py") -> tuple[int, list[dict[str, Any]]]:
    """Run the benchmark with small runs, and return its exit code and the content of its JSON file."""
    settings = [word for text in (*SMALL, "teacher.epochs=15", "student.epochs=1") for word in ("--set", text)]
    places = ["--data-dir", str(folder), "--results", str(folder / "results"), "--json", str(folder / "out.json")]
    code = experiment_without_ray.main([str(file), *places, *settings, *words])
    return code, json.loads((folder / "out.json").read_text())


@pytest.mark.nightly
def test_every_run_is_listed_and_an_imported_teacher_has_no_images_per_s(tmp_path: Path) -> None:
    code, results = run(tmp_path)
    assert (code, [result["stage"] for result in results]) == (0, STAGES)
    assert all(0 < result["test_top1"] <= 100 and result["images_per_s"] > 0 for result in results)
    (weights,) = (tmp_path / "results").glob("*/teacher-*/best.safetensors")
    (tmp_path / "again").mkdir()
    code, results = run(tmp_path / "again", "--set", f"teacher_checkpoint={weights}")
    assert (code, [result["stage"] for result in results]) == (0, STAGES)
    assert (results[0]["images_per_s"], results[0]["epochs"]) == (None, 0) and results[1]["images_per_s"] > 0


@pytest.mark.nightly
def test_of_compared_methods_those_that_need_more_than_the_cache_have_a_live_teacher(tmp_path: Path) -> None:
    settings = ["method=embedding", "compare=kd", "student.epochs=12"]
    code, results = run(tmp_path, *(word for text in settings for word in ("--set", text)))
    sources = {result["method"]: result["compute"]["teacher"] for result in results if result["stage"] == "distilled"}
    assert (code, sources) == (0, {"kd": "cache", "embedding": "live"})


def test_an_interruption_ends_the_command_with_exit_code_75_and_starts_no_other_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def interrupt(plan: Any, *_: Any) -> None:
        started.append(plan.experiment.family)
        raise Interrupted("the time is over")

    monkeypatch.setattr(experiment_without_ray, "train_plan", interrupt)
    two = tmp_path / "two.py"
    two.write_text(
        "from dataclasses import replace\nfrom digits import experiment as one\n"
        "experiments = (one, replace(one, family='other'))\n"
    )
    (tmp_path / "digits.py").write_text((ROOT / "experiments" / "digits.py").read_text())
    assert run(tmp_path, file=two) == (Interrupted.exit_code, [])
    assert started == ["digits"]


def test_a_missing_folder_for_the_json_file_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment_without_ray, "train_plan", lambda *_: pytest.fail("a run was trained"))
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "--json", str(tmp_path / "missing" / "out.json"))
    assert ended.value.code == 2
    assert "missing/out.json: the folder does not exist; make it" in capsys.readouterr().err
