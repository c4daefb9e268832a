"""The warning about evaluated runs that the plan of a family does not name."""

import json
from typing import Any

from report_files import summary_of

from raykd.report.build import load
from raykd.report.render.terminal import render_text


def config(method: dict[str, Any], **recipe: Any) -> dict[str, Any]:
    return {"recipe": {"epochs": 3, **recipe}, "data": {"name": "digits"}, "method": method, "teacher": None}


def plan_two_methods(results) -> None:
    """Write and plan runs of kd and at, with two seeds each."""
    names = {
        method: [
            results.run("cnn", "distilled", seed, method=method, name=f"d-{method}-s{seed}", config=config(fields))
            for seed in (0, 1)
        ]
        for method, fields in {"kd": {"kind": "kd", "alpha": 0.5}, "at": {"kind": "at", "weight": 1000.0}}.items()
    }
    results.plan("cnn", names, distilled=names["kd"])


def warnings_of(results) -> list[str]:
    return [line for line in load(results.root).summaries[0].warnings if "in this folder" in line]


def test_runs_outside_the_plan_are_counted_by_method_with_the_fields_that_differ(results):
    plan_two_methods(results)
    assert warnings_of(results) == []
    for seed in (0, 1):
        other = config({"kind": "at", "weight": 62.5})
        results.run("cnn", "distilled", seed, method="at", name=f"d-at-s{seed}-other", config=other)
    results.run("cnn", "distilled", 0, name="d-kd-longer", config=config({"kind": "kd", "alpha": 0.5}, epochs=9))
    line = (
        "3 evaluated runs in this folder are not in the plan, and left out here: at 2, kd 1. They differ from the plan "
        "in method.weight, student.epochs"
    )
    assert warnings_of(results) == [line]
    assert f"warning: {line}" in render_text(load(results.root))
    assert summary_of(results.root)["cnn"]["unplanned"] == ["d-at-s0-other", "d-at-s1-other", "d-kd-longer"]


def test_a_run_of_another_seed_or_method_differs_in_that_alone(results):
    plan_two_methods(results)
    results.run("cnn", "distilled", 7, name="d-kd-s7", config=config({"kind": "kd", "alpha": 0.5}))
    line = (
        "1 evaluated run in this folder is not in the plan, and left out here: kd 1. It differs from the plan in seeds"
    )
    assert warnings_of(results) == [line]
    results.run("cnn", "distilled", 0, method="sp", name="d-sp", config=config({"kind": "sp", "weight": 1.0}))
    assert warnings_of(results)[0].endswith("kd 1, sp 1. They differ from the plan in method, seeds")


def test_runs_without_a_result_on_the_test_split_and_trials_are_not_counted(results):
    """The losing candidates of a search are trained, but not evaluated on the test split."""
    plan_two_methods(results)
    results.run("cnn", "distilled", 3, None, name="d-confirmed")
    results.run("cnn", "distilled", 4, name="d-failed", status="failed")
    results.run("cnn/search/trials", "distilled", 5, name="0000")
    results.run("cnn", "distilled", 6, name=".removed")
    assert warnings_of(results) == []


def test_a_damaged_run_outside_the_plan_does_not_end_the_report(results):
    plan_two_methods(results)
    name = results.run("cnn", "distilled", 3, name="d-damaged")
    path = results.root / "cnn" / name / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": "three"}))
    assert warnings_of(results) == []
