"""Progress of a job between restarts: what is a new step, and what is not."""

import os
from pathlib import Path

import pytest
import torch

from raykd.cluster.progress_record import ProgressRecord, progress_digest
from raykd.spec.search import Search, uniform
from raykd.store.study import SearchFolder, SearchStudy
from raykd.training.checkpoint import Progress, save_checkpoint


def save(results: Path, epoch: int, step: int, seconds: float = 0.0) -> None:
    path = results / "run" / "checkpoint" / "last.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    model = torch.nn.Linear(1, 1)
    save_checkpoint(path, model, torch.optim.SGD(model.parameters()), {}, Progress(epoch, step, seconds))


def test_each_new_step_changes_the_digest(tmp_path: Path) -> None:
    digests = [progress_digest(tmp_path)]
    for epoch, step in ((0, 1), (0, 2), (1, 0)):
        save(tmp_path, epoch, step)
        digests.append(progress_digest(tmp_path))
    assert len(set(digests)) == 4


def test_saving_the_same_step_again_is_no_progress(tmp_path: Path) -> None:
    save(tmp_path, 0, 1)
    before = progress_digest(tmp_path)
    save(tmp_path, 0, 1, seconds=5.0)
    (tmp_path / "run" / "run.json").write_text("{}")
    os.utime(tmp_path / "run" / "checkpoint" / "last.safetensors", (1, 1))
    assert progress_digest(tmp_path) == before


def test_a_resumed_search_makes_progress_only_with_new_epochs_and_trials(tmp_path: Path) -> None:
    folder, search, default_configuration = (
        SearchFolder(tmp_path / "s"),
        Search({"method.alpha": uniform(0, 1)}),
        {"method.alpha": 0.5},
    )
    folder.path.mkdir()
    number = SearchStudy(folder, search, default_configuration).start_trial().number
    before, size = progress_digest(tmp_path), folder.journal.stat().st_size

    resumed = SearchStudy(folder, search, default_configuration)
    resumed.resume_trial(number)
    assert progress_digest(tmp_path) == before and folder.journal.stat().st_size > size
    resumed.report_value(number, 1, 50.0)
    after_last_epoch = progress_digest(tmp_path)
    resumed.report_value(number, 1, 50.0)  # the last epoch is judged once more
    assert after_last_epoch != before and progress_digest(tmp_path) == after_last_epoch
    resumed.finish_trial(number, "done", [50.0])
    assert progress_digest(tmp_path) != after_last_epoch


@pytest.mark.parametrize(
    "name",
    [
        "run/test.json",
        "run/best.safetensors",
        "logit_caches/a/filled.bits",
        "search/study.journal",
        ".data/birds.pack/train-00000.arrow",
    ],
)
def test_other_saved_work_is_progress(tmp_path: Path, name: str) -> None:
    before = progress_digest(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("done")
    assert progress_digest(tmp_path) != before


def test_restarts_without_progress_are_counted_until_there_is_progress(tmp_path: Path) -> None:
    record, counts = ProgressRecord(tmp_path, 7), []
    for progress in ("", "", "", "a", "a", "b"):
        counts.append(record.num_stalled(progress))
        record.write(progress, counts[-1])
    assert counts == [0, 1, 2, 0, 1, 0]
    record.remove()
    assert list(tmp_path.iterdir()) == [] and record.num_stalled("b") == 0


def test_a_damaged_record_is_ignored(tmp_path: Path) -> None:
    for text in ("", "[]", "{", '{"stalled": "x", "progress": "a"}'):
        (tmp_path / ".raykd-job-7.json").write_text(text)
        assert ProgressRecord(tmp_path, 7).num_stalled("a") == 0
