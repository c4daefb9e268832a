"""The fields in which runs differ from the plan of their family, as `raykd runs` and the report name them."""

from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hugging_face import write_folder
from small_runs import NO_WEIGHTS, WIDTH, digits, experiment, plan_of, recipe
from written_results import finish, finished

from raykd.methods import DKD, KD, Method
from raykd.models.four_stage_resnet import ResNet
from raykd.models.hf_model import HuggingFace
from raykd.models.vit_cifar import ViT
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Run, make_plan
from raykd.store.run_catalog import read_catalog
from raykd.store.run_differences import differing_names
from raykd.store.run_store import RunStore


def test_runs_that_no_plan_names_any_more_are_listed_with_the_fields_that_differ_in_the_words_of_set(tmp_path):
    finished(tmp_path)
    store, student = RunStore(tmp_path), recipe(epochs=5)
    changed = plan_of(experiment(student=student, method=KD(alpha=0.5, temperature=2.0)))
    for run in changed.runs:
        finish(store, run)
    unplanned = [run for run in read_catalog(tmp_path).runs if not run.is_planned]
    assert {run.stage: dict(run.changes) for run in unplanned} == {
        "baseline": {"student.epochs": "5"},
        "distilled": {"student.epochs": "5", "method.temperature": "2.0"},
    }


def test_an_unplanned_teacher_differs_from_the_planned_one_of_any_family(tmp_path):
    finished(tmp_path)
    wider = plan_of(experiment(teacher=replace(experiment().teacher, epochs=9)))
    finish(RunStore(tmp_path), wider.runs[0])
    (teacher,) = (run for run in read_catalog(tmp_path).runs if not run.is_planned)
    assert (teacher.family, teacher.stage, dict(teacher.changes)) == ("teachers", "teacher", {"teacher.epochs": "9"})


def test_a_run_is_compared_with_the_experiment_if_no_planned_run_has_started(tmp_path):
    store = RunStore(tmp_path)
    store.make_folder()
    store.write_plan(plan_of(experiment()))
    finish(store, plan_of(experiment(student=recipe(epochs=5))).runs[1])
    (run,) = read_catalog(tmp_path).runs
    assert dict(run.changes) == {"student.epochs": "5"}


METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from raykd import KD

@dataclass(frozen=True)
class Mine(KD):
    kind: ClassVar[str] = "mine_of_differences"
    beta: float = {beta}
"""


def plan_on(made: Experiment, identity: str) -> list[Run]:
    """Return the runs of `made` on data with this identity."""
    return [*make_plan(made, replace(digits(), identity=identity), NO_WEIGHTS).runs]


def changes_of(results: Path, runs: list[Run] | tuple[Run, ...]) -> dict[str, dict[str, str]]:
    """Write `runs` as finished ones, and return the changed fields of those that no plan names, by their stage."""
    for run in runs:
        finish(RunStore(results), run)
    return {str(run.stage): dict(run.changes) for run in read_catalog(results).runs if not run.is_planned}


def write_plan(results: Path, made: Experiment) -> None:
    """Write a plan of which no run has started."""
    store = RunStore(results)
    store.make_folder()
    store.write_plan(plan_of(made))


def test_fewer_images_for_students_are_a_difference_of_distilled_students_too(tmp_path):
    finished(tmp_path)
    made = experiment(data=replace(experiment().data, student_images=80))
    images = {"data.student_images": "80"}
    assert changes_of(tmp_path, plan_of(made).runs) == {"baseline": images, "distilled": images}


def test_students_of_a_teacher_with_another_seed_differ_in_it(tmp_path):
    finished(tmp_path)
    runs = plan_of(experiment(teacher_seed=1)).runs
    assert changes_of(tmp_path, runs) == {"teacher": {}, "distilled": {"teacher_seed": "1"}}, (
        "it has a column of its own"
    )


def test_changed_images_are_named_where_the_name_of_the_data_is_the_same(tmp_path):
    folder = replace(experiment().data, name="folder:flowers")
    finished(tmp_path, experiment(data=folder))
    changes = changes_of(tmp_path, plan_on(experiment(data=folder, student=recipe(epochs=5)), "f" * 64))
    edited = {"data.name": "folder:flowers (its content differs)"}
    assert changes == {
        "teacher": edited,
        "baseline": {**edited, "student.epochs": "5"},
        "distilled": changes["baseline"],
    }
    assert differing_names(changes["baseline"]) == ["the content of data.name", "student.epochs"]


def test_a_data_set_that_has_moved_is_no_difference(tmp_path):
    data = experiment().data
    finished(tmp_path, experiment(data=replace(data, name="folder:/old/flowers")))
    moved = experiment(data=replace(data, name="folder:/new/flowers"), student=recipe(epochs=5))
    assert changes_of(tmp_path, plan_of(moved).runs)["baseline"] == {"student.epochs": "5"}


def test_another_image_size_is_the_only_difference_though_it_changes_the_identity_of_the_data(tmp_path):
    finished(tmp_path)
    made = experiment(data=replace(experiment().data, image_size=16))
    assert changes_of(tmp_path, plan_on(made, "f" * 64))["baseline"] == {"data.image_size": "16"}


@pytest.mark.parametrize("started", [[], ["teacher"]])
def test_the_name_of_a_folder_is_no_difference_if_no_planned_run_of_the_stage_has_started(tmp_path, started):
    folder = replace(experiment().data, name="folder:flowers", student_images=80)
    write_plan(tmp_path, experiment(data=folder))
    for run in plan_of(experiment(data=folder)).runs:
        if run.stage in started:
            finish(RunStore(tmp_path), run)
    runs = plan_of(experiment(data=folder, student=recipe(epochs=5), teacher=recipe(epochs=7))).runs
    wider = {"teacher.epochs": "7", "teacher.model.width": "8"}
    expected = {"teacher": wider, "baseline": {"student.epochs": "5"}, "distilled": {"student.epochs": "5", **wider}}
    assert changes_of(tmp_path, runs) == expected


def test_a_network_of_another_class_is_one_difference(tmp_path):
    finished(tmp_path)
    runs = plan_of(experiment(student=recipe(model=ViT(depth=2)))).runs
    assert changes_of(tmp_path, runs)["baseline"] == {"student.model": "vit"}


def test_a_method_without_a_teacher_is_one_difference(tmp_path):
    finished(tmp_path, experiment(teacher_seed=3))
    (run,) = (run for run in plan_of(experiment()).runs if run.stage == "distilled")
    assert changes_of(tmp_path, [replace(run, teacher=None, method=DKD())])["distilled"] == {"method": "dkd"}


def hf(folder: Path, **changes: Any) -> HuggingFace:
    write_folder(folder, **changes)
    return HuggingFace(str(folder), classifier=True)


def test_a_teacher_of_transformers_is_one_short_difference(tmp_path):
    def distilled_by(model: HuggingFace | None, planned: HuggingFace | None) -> dict[str, str]:
        """Return the changed fields of a student of the teacher `model`, where `planned` is the planned teacher."""
        made, other = (experiment(teacher=recipe(model=one)) if one else experiment() for one in (planned, model))
        results = Path(mkdtemp(dir=tmp_path))
        finished(results, made)
        return changes_of(results, plan_of(replace(other, student=recipe(epochs=5))).runs)["distilled"]

    small, wide = hf(tmp_path / "one" / "small"), hf(tmp_path / "two" / "small", hidden_size=32)
    epochs = {"student.epochs": "5"}
    assert distilled_by(small, None) == {**epochs, "teacher.model": "hf:small"}
    assert distilled_by(small, wide) == {**epochs, "teacher.model": "hf:small (its content differs)"}
    assert distilled_by(hf(tmp_path / "three" / "moved"), small) == epochs


def test_weights_are_compared_by_their_content(tmp_path):
    def importing(path: Path, content: bytes, **changes: Any) -> tuple[Run, ...]:
        path.write_bytes(content)
        return plan_of(experiment(teacher_checkpoint=str(path), **changes)).runs

    results, path = tmp_path / "results", tmp_path / "teacher.pth"
    path.write_bytes(b"first")
    finished(results, experiment(teacher_checkpoint=str(path)))
    edited = {"teacher_checkpoint": f"{path} (its content differs)"}
    assert changes_of(results, importing(path, b"second"))["distilled"] == edited
    moved = importing(tmp_path / "moved.pth", b"first", student=recipe(epochs=5))
    assert changes_of(results, moved)["baseline"] == {"student.epochs": "5"}
    assert {"student.epochs": "5"} in [
        dict(run.changes) for run in read_catalog(results).runs if run.stage == "distilled"
    ]


def test_initial_weights_of_student_and_teacher_are_distinguished(tmp_path):
    def starting(student: bytes, teacher: bytes) -> Experiment:
        paths = tmp_path / "student.pth", tmp_path / "teacher.pth"
        for path, content in zip(paths, (student, teacher), strict=True):
            path.write_bytes(content)
        models = (ResNet(blocks=(1, 1, 1, 1), width=WIDTH, weights=str(path)) for path in paths)
        return experiment(
            **{role: recipe(model=model) for role, model in zip(("student", "teacher"), models, strict=True)}
        )

    results = tmp_path / "results"
    finished(results, starting(b"one", b"two"))
    changes = changes_of(results, plan_of(starting(b"one", b"three")).runs)
    edited = {"teacher.model.weights": f"{tmp_path}/teacher.pth (its content differs)"}
    assert changes == {"teacher": edited, "distilled": edited}


def test_the_code_of_a_custom_method_is_one_difference(tmp_path):
    def mine(beta: float) -> tuple[Run, ...]:
        (tmp_path / "mine.py").write_text(METHOD.format(beta=beta))
        return plan_of(experiment(method=Method.from_text(f"{tmp_path}/mine.py:Mine"))).runs

    results = tmp_path / "results"
    (distilled,) = (run for run in mine(1.0) if run.stage == "distilled")
    finished(results, experiment(method=distilled.method))
    changes = changes_of(results, mine(2.0))["distilled"]
    assert changes == {"method": "mine_of_differences (its content differs)", "method.beta": "2.0"}
