"""Live, or from a table: decided by counting the teacher's passes, with the reason in words."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import NO_WEIGHTS, digits, experiment, recipe

from raykd import teaching
from raykd.errors import ConfigError
from raykd.experiment import Data, Experiment
from raykd.methods import KD, FeatureKD
from raykd.plan import make_plan
from raykd.run_folder import RunFolder
from raykd.search import Search, uniform
from raykd.stages import STAGES
from raykd.teacher_table import TeacherTable
from raykd.teaching import Teaching, decide

# 8x8 digits: 18 views, 200 of them trained on.
NEW = RunFolder(Path("not-there"))


def decided(tables: Path, trained: tuple[str, ...] = (), teacher: RunFolder = NEW, **changes: Any) -> Teaching | None:
    plan = make_plan(experiment(**changes), digits(), NO_WEIGHTS, STAGES)
    names = [run.name for run in plan.runs if run.stage in trained]
    return decide(plan, digits(), names, tables, [teacher])


def test_runs_that_visit_nearly_all_views_get_them_all(tmp_path: Path) -> None:
    found = decided(tmp_path, student=recipe(epochs=60), seeds=(0, 1, 2))
    assert found is not None and found.table is not None
    assert found.table.whole and found.table.epochs == () and found.table.num_parts == 1
    assert found.reason == "from a table, 180 passes an image become all of its 18 views (422 KiB)"


def test_runs_that_visit_a_part_of_the_views_get_that_part(tmp_path: Path) -> None:
    found = decided(tmp_path, student=recipe(epochs=10), seeds=(0, 7))
    assert found is not None and found.table is not None
    assert not found.table.whole and found.table.epochs == ((0, 10), (7, 10))
    assert found.reason == "from a table, 20 passes an image become 12 of its 18 views (422 KiB)"


def test_table_that_saves_next_to_nothing_is_not_made(tmp_path: Path) -> None:
    found = decided(tmp_path, student=recipe(epochs=3))
    assert found == Teaching(None, "live, 3 passes an image: a table would leave 95% of them")


def test_passes_of_several_teachers_are_told(tmp_path: Path) -> None:
    plan = make_plan(experiment(teacher_seeds=(0, 1, 2), student=recipe(epochs=60)), digits(), NO_WEIGHTS)
    found = decide(plan, digits(), (), tmp_path, 3 * [NEW])
    assert found is not None and found.table is not None and found.table.teachers == plan.runs[:3]
    assert found.reason.startswith("from a table, 60 passes an image of each of 3 teachers become")
    live = replace(plan, experiment=replace(plan.experiment, teacher_source="live"))
    assert decide(live, digits(), (), tmp_path, 3 * [NEW]) == Teaching(
        None, "live, 60 passes an image of each of 3 teachers: as was asked"
    )


def test_work_of_several_teachers_is_shared_out_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teaching, "PASSES_PER_PART", 200 * 18)
    plan = make_plan(experiment(teacher_seeds=(0, 1, 2), student=recipe(epochs=60)), digits(), NO_WEIGHTS)
    found = decide(plan, digits(), (), tmp_path, 3 * [NEW])
    assert found is not None and found.table is not None and found.table.num_parts == 3


def test_trials_of_a_search_share_their_views(tmp_path: Path) -> None:
    search = Search({"method.alpha": uniform(0, 1)}, trials=16, trial_seed=7, confirm=0)
    found = decided(tmp_path, student=recipe(epochs=3), search=search)
    assert found is not None and found.table is not None and found.table.epochs == ((7, 3),)
    assert "48 passes an image become 3 of its 18 views" in found.reason


def test_runs_that_confirm_a_search_count_with_their_seeds(tmp_path: Path) -> None:
    search = Search({"method.alpha": uniform(0, 1)}, trials=16, trial_seed=7, confirm=2)
    found = decided(tmp_path, student=recipe(epochs=3), search=search, seeds=(0, 1))
    assert found is not None and found.table is not None and found.table.epochs == ((0, 3), (1, 3), (7, 3))
    assert "66 passes an image" in found.reason, "16 trials of 3 epochs, and 3 settings of 2 seeds"


def test_what_is_trained_counts_no_more(tmp_path: Path) -> None:
    assert decided(tmp_path, trained=("distilled",), student=recipe(epochs=60)) is None
    assert decided(tmp_path, trained=("baseline",), student=recipe(epochs=60)) is not None


def test_methods_that_need_more_than_logits_are_taught_live(tmp_path: Path) -> None:
    found = decided(tmp_path, method=FeatureKD(), student=recipe(epochs=60))
    assert found is not None and found.table is None
    assert found.reason.endswith("FeatureKD needs the teacher's embedding, and a table holds logits")


def test_table_that_is_too_large_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "MAX_TABLE_BYTES", 1000)
    found = decided(tmp_path, student=recipe(epochs=60))
    assert found is not None and found.table is None and "a table would take 422 KiB" in found.reason


def test_table_that_has_no_room_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "_free_bytes", lambda folder: 1000)
    found = decided(tmp_path / "not" / "there", student=recipe(epochs=60))
    assert found is not None and found.table is None and "no room where results lie" in found.reason


def test_asked_for_is_asked_for(tmp_path: Path) -> None:
    live = decided(tmp_path, student=recipe(epochs=60), teacher_source="live")
    assert live == Teaching(None, "live, 60 passes an image: as was asked")
    table = decided(tmp_path, student=recipe(epochs=3), teacher_source="table")
    assert table is not None and table.table is not None


def test_table_that_cannot_be_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="teacher_source = 'table' in Experiment: FeatureKD needs the teacher's embedding"
    ):
        decided(tmp_path, method=FeatureKD(), teacher_source="table")


def test_table_that_is_there_is_used_however_little_it_saves(tmp_path: Path) -> None:
    class Trained(RunFolder):
        def status(self) -> Any:
            return "done"

    teacher = Trained(tmp_path / "teacher")
    teacher.path.mkdir()
    teacher.best.write_bytes(b"weights")
    few = experiment(student=recipe(epochs=3))
    assert (found := decided(tmp_path, teacher=teacher, student=few.student)) and found.table is None
    TeacherTable(tmp_path, teaching.key_of(few.data, "fp32", digits(), teaching._sha256([teacher])))
    assert (found := decided(tmp_path, teacher=teacher, student=few.student)) and found.table is not None


def test_cifar10s_lab_saves_what_the_docs_say(tmp_path: Path) -> None:
    """3 seeds of 200 epochs: 600 passes become all 162; of 150 epochs, 450 become 152."""
    train = digits().train
    many = replace(digits(), train=replace(train, images=train.images[:1].expand(50_000, -1, -1, -1),
                   labels=torch.arange(50_000) % 10))  # fmt: skip
    asked = Experiment(
        family="cnn", data=Data("digits"), student=recipe(epochs=200, batch_size=128), teacher=recipe(), method=KD()
    )
    for epochs, words, parts in (
        (200, "600 passes an image become all of its 162", 146),
        (150, "450 passes an image become 152 of", 137),
    ):
        plan = make_plan(replace(asked, student=recipe(epochs=epochs)), many, NO_WEIGHTS)
        found = decide(plan, many, (), tmp_path, [NEW])
        assert found is not None and found.table is not None
        assert words in found.reason and "(154 MiB)" in found.reason
        assert found.table.num_parts == parts
