"""Results of the earlier layout, in which families did not share teachers, are usable after a migration."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import CPU, NO_WEIGHTS, digits, experiment
from written_records import record_of, search_record

from raykd.bench.without_ray import train_plan
from raykd.cli import parser
from raykd.config.codec import read_checked_json, write_checked_json, write_record
from raykd.errors import Interrupted
from raykd.methods import Method
from raykd.models.weights import read_metadata, save_weights
from raykd.provenance import file_sha256
from raykd.report.build import build
from raykd.spec import plan as plan_module
from raykd.spec.plan import Plan, make_plan
from raykd.spec.stages import TEACHERS
from raykd.store.migration import JOURNAL, SET_ASIDE, old_teachers
from raykd.store.records import CandidateRecord, ConfirmationRecord
from raykd.store.results_folder import in_use
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder
from raykd.training import migration
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.hooks import Hooks
from raykd.training.run_sources import save_sources
from raykd.training.usage import record_usage

FAMILIES = ("one", "small")


def plan_of(family: str, **changes: Any) -> Plan:
    return make_plan(experiment(family=family, **changes), digits(), NO_WEIGHTS)


def old_plan_of(family: str, **changes: Any) -> Plan:
    """Return the plan of the earlier version, whose teachers have the family of their experiment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "TEACHERS", family)
        return plan_of(family, **changes)


def write(results: Path, plan: Plan, hooks: Hooks = Hooks()) -> None:  # noqa: B008 - frozen
    """Train and evaluate a plan, with all files of its runs."""
    store = RunStore(results)
    store.make_folder()
    store.write_plan(plan)
    train_plan(plan, digits(), CPU, store, hooks)
    for run in plan.runs:
        with record_usage(store.folder(run).usage(0), CPU, 0):
            evaluate_on_test(run, store.folder(run), digits(), choose_compute(CPU, "fp32"))


def train_all(results: Path) -> list[str]:
    """Run both experiments with this version, and return the runs that were trained."""
    trained: list[str] = []
    for family in FAMILIES:
        store, plan = RunStore(results), plan_of(family)
        store.write_plan(plan)
        train_plan(plan, digits(), CPU, store, Hooks(lambda report: trained.append(report.run)))
    return list(dict.fromkeys(trained))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two families of the earlier layout with the same teacher. Read only."""
    results = tmp_path_factory.mktemp("old")
    for family in FAMILIES:
        write(results, old_plan_of(family))
    return results


@pytest.fixture
def results(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "results"))


@pytest.fixture
def migrate(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    def call(results: Path, *flags: str, code: int = 0) -> list[str]:
        """Run the command, and return its lines."""
        assert parser.entry(["migrate", "--results", str(results), *flags]) == code
        captured = capsys.readouterr()
        return (captured.err if code else captured.out).splitlines()

    return call


def content(folder: Path) -> dict[str, str]:
    """Return the hash of each file below `folder` except its locks, by path."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("lock")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_earlier_version_named_these_runs_so() -> None:
    """The names are those that it wrote, so the other tests migrate what it wrote."""
    names = {run.stage: run.name for run in old_plan_of("small").runs}
    assert names["teacher"] == "teacher-resnet8-w16-s0-1a3d745d6fc6"
    assert names["distilled"] == "distilled-resnet8-w8-kd-s0-a3a13f902475"


@pytest.mark.parametrize("words", [["report"], ["plan", "experiments/digits.py"]], ids=lambda words: words[0])
def test_commands_name_the_migration_in_one_line_and_write_nothing(
    results: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(results)
    assert parser.entry([*words, "--results", str(results)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has 2 teachers in the folders of families" in line and f"migrate --results {results}" in line
    assert content(results) == before


def test_migrated_runs_are_not_trained_again_and_have_the_same_figures(
    results: Path, migrate: Callable[..., list[str]]
) -> None:
    old = [RunFolder(results / run.family / run.name) for family in FAMILIES for run in old_plan_of(family).runs]
    tops = [json.loads(folder.test.read_text())["top1"] for folder in old]
    lines = migrate(results)
    assert lines[-2] == "1 teacher, 2 distilled runs, 0 trials keep their results; 1 teacher set aside"
    assert [path.name for path in (results / TEACHERS).iterdir()] == [plan_of("one").runs[0].name]
    assert [path.parent.name for path in (results / SET_ASIDE).glob("*/*")] == ["small"]
    assert train_all(results) == []
    store = RunStore(results)
    runs = [run for family in FAMILIES for run in plan_of(family).runs]
    assert [json.loads(store.folder(run).test.read_text())["top1"] for run in runs] == tops
    report = build(results)
    assert not any(summary.missing for summary in report.summaries)
    assert "earlier weights" not in str([summary.warnings for summary in report.summaries])
    assert not old_teachers(results) and not (results / JOURNAL).exists()


def test_a_migrated_folder_has_nothing_to_migrate(results: Path, migrate: Callable[..., list[str]]) -> None:
    migrate(results)
    before = content(results)
    assert migrate(results) == [f"'{results}' has nothing to migrate"]
    assert content(results) == before


def test_dry_run_prints_the_same_and_changes_nothing(results: Path, migrate: Callable[..., list[str]]) -> None:
    before = content(results)
    printed = migrate(results, "--dry-run")
    assert content(results) == before and printed[-1] == "nothing was changed"
    assert migrate(results)[:-1] == printed[:-1]


@pytest.mark.parametrize("step", ["_apply", "_rewrite", "_rename_in_plan", "write_record", "set_run_of_checkpoint"])
def test_a_migration_that_was_killed_anywhere_is_completed(
    results: Path, migrate: Callable[..., list[str]], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Path(shutil.copytree(results, tmp_path / "undisturbed"))
    migrate(undisturbed)
    original, calls = getattr(migration, step), 0

    def killed(*values: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > num_done:
            raise KeyboardInterrupt
        return original(*values)

    num_done, is_killed = 1, True
    while is_killed:
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(migration, step, killed)
            try:
                migration.apply_migration(results, migration.plan_migration(results))
                is_killed = False
            except KeyboardInterrupt:
                assert (results / JOURNAL).exists()
        num_done += 1
    assert content(results) == content(undisturbed)


def test_an_interrupted_migration_is_named_by_other_commands(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(migration, "_rename_in_plan", killed)
        migration.apply_migration(results, migration.plan_migration(results))
    assert not old_teachers(results)
    assert parser.entry(["report", "--results", str(results)]) == 2
    assert f"the migration of '{results}' was interrupted" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("stage", ["teacher", "distilled"])
def test_a_partly_trained_run_resumes_after_the_migration_with_the_same_bits(
    tmp_path: Path, migrate: Callable[..., list[str]], stage: str
) -> None:
    results, epochs = tmp_path / "results", 0

    def stop_in_second_epoch() -> bool:
        return epochs == 2

    def count(report: Any) -> None:
        nonlocal epochs
        epochs += report.run.startswith(stage)

    with pytest.raises(Interrupted):
        write(results, old_plan_of("small"), Hooks(count, stop_in_second_epoch))
    migrate(results)
    (folder,) = (RunStore(results).folder(run) for run in plan_of("small").runs if run.stage == stage)
    assert folder.status() == "interrupted" and len(folder.history()) == 2
    write(results, plan_of("small"))
    write(tmp_path / "straight", plan_of("small"))
    assert folder.require_record().resumes == 1
    for run in plan_of("small").runs:
        actual, expected = (load_file(RunStore(path).folder(run).best) for path in (results, tmp_path / "straight"))
        assert all(torch.equal(actual[name], expected[name]) for name in expected), run.name


def test_a_locked_run_is_named_and_nothing_is_moved(results: Path, migrate: Callable[..., list[str]]) -> None:
    before, run = content(results), old_plan_of("one").runs[1]
    with RunFolder(results / "one" / run.name).lock():
        (line,) = migrate(results, code=2)
    assert "is locked by process" in line and run.name in line and "migrate when no command uses" in line
    assert content(results) == before


def test_nothing_is_moved_while_a_command_trains_in_the_folder(
    results: Path, migrate: Callable[..., list[str]]
) -> None:
    with in_use(results):
        before = content(results)
        (line,) = migrate(results, code=2)
        assert "a command trains in" in line and "migrate when no command uses" in line
        assert content(results) == before


def change_teacher(results: Path, family: str) -> None:
    """Give the family's teacher other weights, as on a GPU, from which its students are distilled."""
    teacher, _, student = (RunFolder(results / family / run.name) for run in old_plan_of(family).runs)
    weights = {name: tensor + 1 for name, tensor in load_file(teacher.best).items()}
    save_weights(teacher.best, weights, read_metadata(teacher.best))
    teacher.update(weights_sha256=file_sha256(teacher.best))
    student.update(teacher_sha256=file_sha256(teacher.best))


@pytest.mark.nightly
def test_runs_distilled_from_other_weights_are_kept_with_a_note_and_the_reports_warning(
    results: Path, migrate: Callable[..., list[str]]
) -> None:
    change_teacher(results, "small")
    student = old_plan_of("small").runs[2].name
    assert f"small/{student}: distilled from other weights of the same teacher, as the report warns" in migrate(results)
    (summary,) = (summary for summary in build(results).summaries if summary.name == "small")
    assert "distilled from earlier weights of the teacher" in str(summary.warnings)


def test_a_partly_trained_student_of_other_weights_stays_and_is_trained_again(
    results: Path, migrate: Callable[..., list[str]]
) -> None:
    change_teacher(results, "small")
    student = RunFolder(results / "small" / old_plan_of("small").runs[2].name)
    student.update(status="running")
    (line,) = (line for line in migrate(results) if line.startswith(f"small/{student.path.name}: "))
    assert "partly trained with other weights of its teacher; it stays, and is trained again" in line
    assert student.path.is_dir() and train_all(results) == [plan_of("small").runs[2].name]


def test_the_better_trained_copy_of_a_teacher_is_kept(results: Path, migrate: Callable[..., list[str]]) -> None:
    RunFolder(results / "one" / old_plan_of("one").runs[0].name).update(status="running")
    migrate(results)
    folder = RunStore(results).folder(plan_of("one").runs[0])
    assert folder.status() == "done" and [path.parent.name for path in (results / SET_ASIDE).glob("*/*")] == ["one"]


def test_of_equally_trained_copies_the_one_with_the_most_students_is_kept(
    results: Path, migrate: Callable[..., list[str]]
) -> None:
    run = replace(old_plan_of("small").runs[2], seed=1)
    RunFolder(results / "small" / run.name).write_record(record_of(run))
    migrate(results)
    assert [path.parent.name for path in (results / SET_ASIDE).glob("*/*")] == ["one"]


def test_a_teacher_that_this_version_cannot_read_is_set_aside(results: Path, migrate: Callable[..., list[str]]) -> None:
    run = old_plan_of("small").runs[0]
    path = RunFolder(results / "small" / run.name).record_path
    values = read_checked_json(path)
    assert values is not None
    write_checked_json(path, values | {"fingerprint": "0" * 64})
    assert any("another version of raykd wrote its configuration" in line for line in migrate(results))
    assert (results / SET_ASIDE / "small" / run.name / "best.safetensors").is_file()


def test_a_search_keeps_its_trials_its_confirmation_and_its_identity(
    results: Path, migrate: Callable[..., list[str]]
) -> None:
    before, after = old_plan_of("small"), plan_of("small")
    folder = SearchFolder(results / "small" / "search")
    identity = {"family": "small", "teacher_run": before.runs[0].fingerprint}
    folder.write_record(search_record(family="small", identity=identity))
    trial = replace(before.runs[2], seed=1000)
    folder.run(0).write_record(record_of(trial, teacher_sha256=""))
    row = CandidateRecord(None, {}, (before.runs[2].name,), (90.0,))
    baseline = replace(row, runs=(before.runs[1].name,))
    write_record(folder.confirmed, ConfirmationRecord("val_top1", 1, 1, (0,), (row,), baseline, 0))
    assert "1 trial keep their results" in "\n".join(migrate(results))
    assert folder.require_record().identity["teacher_run"] == after.runs[0].fingerprint
    assert folder.run(0).require_record().fingerprint == replace(after.runs[2], seed=1000).fingerprint
    confirmed = read_checked_json(folder.confirmed)
    assert confirmed is not None
    assert confirmed["candidates"][0]["runs"] == [after.runs[2].name]
    assert confirmed["baseline"]["runs"] == [after.runs[1].name]


@pytest.mark.nightly
def test_a_run_of_a_custom_method_migrates_with_the_copy_of_its_code(tmp_path: Path) -> None:
    file, results = tmp_path / "mine.py", tmp_path / "results"
    file.write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom raykd.methods import KD\n\n\n"
        "@dataclass(frozen=True)\nclass Mine(KD):\n    kind: ClassVar[str] = 'mine'\n    scale: float = 1.0\n"
    )
    method = replace(Method.from_text(f"{file}:Mine"), scale=2.0)
    run = old_plan_of("small", method=method).runs[2]
    folder = RunFolder(results / "small" / run.name)
    folder.write_record(record_of(run))
    save_sources(run, folder)
    file.unlink()
    command = [sys.executable, "-m", "raykd", "migrate", "--results", str(results)]  # a process without the class
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (results / "small").iterdir()] == [plan_of("small", method=method).runs[2].name]


def test_a_missing_results_folder_is_refused(tmp_path: Path, migrate: Callable[..., list[str]]) -> None:
    (line,) = migrate(tmp_path / "none", code=2)
    assert "does not exist; name another with --results" in line and not (tmp_path / "none").exists()
