"""The first sentences on a family: networks, epochs, method, images; also while its runs are in progress."""

from typing import Any

from evaluated_folders import COSTS

from raykd.report.build import build, load
from raykd.report.render.lead import lead_sentences
from raykd.report.render.terminal import render_text


def config(epochs: int, **data: Any) -> dict[str, Any]:
    data = {"name": "cifar10", "val_images": 5000, "train_images": None, "image_size": None, **data}
    return {"recipe": {"epochs": epochs}, "data": data, "method": {"kind": "kd"}, "teacher": None}


def write(
    results, teacher: dict[str, Any] | None = None, num_train_images: int | None = 45_000, **data: Any
) -> list[str]:
    """Write and plan a run of each stage, and return the sentences."""
    students = {"config": config(15, **data), "num_train_images": num_train_images}
    results.plan(
        "cnn",
        teacher=[results.run("cnn", "teacher", 0, 95.0, config=config(30, **data), **(teacher or {}))],
        baseline=[results.run("cnn", "baseline", 0, 80.0, **students)],
        distilled=[results.run("cnn", "distilled", 0, 81.0, **students)],
    )
    return lead_sentences(load(results.root).summaries[0])


def test_networks_epochs_method_and_images_are_named(results):
    assert write(results, train_images=10_000, image_size=16) == [
        "resnet8 (15 epochs) distilled from resnet18 (30 epochs) with kd",
        "Data: cifar10 with 10,000 training, 5,000 validation and 10,000 test images of 16x16 pixels",
    ]
    text = " ".join(build(results.root).page.read_text(encoding="utf-8").split())
    assert "with kd. Data: cifar10 with 10,000 training, 5,000" in text


def test_counts_that_the_plan_leaves_open_are_those_of_the_runs(results):
    *_, sentence = write(results, num_train_images=None)
    assert sentence == "Data: cifar10 with 5,000 validation and 10,000 test images"
    write(results)
    results.write("cnn/baseline-net-s0-ab12/costs.json", COSTS)
    assert lead_sentences(load(results.root).summaries[0])[1] == (
        "Data: cifar10 with 45,000 training, 5,000 validation and 10,000 test images of 32x32 pixels"
    )


def test_fewer_images_for_the_students_than_for_the_teacher_are_named(results):
    _, data, teacher = write(results, {"num_train_images": 45_000}, student_images=100)
    assert data.startswith("Data: cifar10 with 100 training, ")
    assert teacher == "The teacher trains on 45,000 images"


def test_the_training_images_of_an_imported_teacher_are_not_known(results):
    networks, data = write(results, {"imported": {"val_top1": 94.0, "num_images": 5000}}, student_images=100)
    assert networks == "resnet8 (15 epochs) distilled from resnet18 (imported) with kd"
    assert data.startswith("Data: cifar10 with 100 training, ")


def test_a_family_whose_students_have_not_started_has_networks_method_and_seeds(results):
    experiment = {
        "method": {"kind": "logit_standardization"},
        "teacher": {"epochs": 30},
        "student": {"epochs": 15},
        "data": {"name": "cifar10", "val_images": 5000, "train_images": 10_000, "image_size": 16},
    }
    stages = {
        "teacher": ["teacher-resnet18-w16-s0-0123456789ab"],
        "baseline": ["baseline-resnet8-w8-s3-0123456789ab"],
        "distilled": ["distilled-resnet8-w8-logit-standardization-s3-0123456789ab"],
    }
    results.write("cnn/plan.json", {"family": "cnn", "stages": stages, "experiment": experiment})
    report = build(results.root)
    (summary,) = report.summaries
    assert lead_sentences(summary) == [
        "resnet8-w8 (15 epochs) distilled from resnet18-w16 (30 epochs) with logit_standardization",
        "Data: cifar10 with 10,000 training and 5,000 validation images of 16x16 pixels",
    ]
    assert [run.seed for run in summary.family.all_runs] == [0, 3, 3]
    assert report.page.read_text(encoding="utf-8").count('data-label="seed">3<') == 2
    assert "| distilled | resnet8-w8   | logit_standardi |" in render_text(report)


def test_unfinished_runs_do_not_hide_the_parameters(results):
    running = {"status": "running", "ended": None, "best": None, "parameters": None}
    names = [results.run("cnn", "baseline", 0, 80.0), results.run("cnn", "baseline", 1, None, **running)]
    results.plan("cnn", baseline=names)
    assert load(results.root).summaries[0].stage("baseline").parameters == 78_042


def test_the_time_of_an_unfinished_run_is_that_of_its_last_epoch(results):
    running: dict[str, Any] = {"status": "running", "ended": None, "best": None, "seconds": 0.0}
    results.plan(
        "cnn",
        baseline=[
            results.run("cnn", "baseline", 0, None, history={"seconds": [40.0, 81.5, float("nan")]}, **running),
            results.run("cnn", "baseline", 1, None, history=None, **running),
        ],
    )
    report = build(results.root)
    assert report.runs["seconds"].tolist()[:1] == [81.5] and report.runs["seconds"].isna().tolist() == [False, True]
    page = report.page.read_text(encoding="utf-8")
    assert 'data-label="time">1 min 22 s<' in page and "0.0 s" not in page
