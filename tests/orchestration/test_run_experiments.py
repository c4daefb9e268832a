"""Two experiments on Ray, two runs side by side: a worker is killed, a teacher diverges, every other run completes."""

import io
import json
import os
import re
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from experiment_runs import Ended, assert_same_bits, run_here, train_directly, wait_until
from small_runs import NO_WEIGHTS, digits, experiment, recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import raykd
from raykd.errors import Interrupted
from raykd.models.four_stage_resnet import ResNet
from raykd.spec.experiment import Experiment, Workers
from raykd.spec.plan import Run, make_plan
from raykd.spec.recipe import SGD
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.hooks import Hooks

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

ONE_CPU = Workers(cpus=1)
TEACHER_EPOCHS = 50  # some seconds, long enough to be killed in
EPOCHS_BEFORE = 3
WIDE = ResNet(blocks=(1, 1, 1, 1), width=16)
GOOD = experiment(seeds=(0, 1), teacher=recipe(model=WIDE, epochs=TEACHER_EPOCHS), workers=ONE_CPU)
SPOILED = "baseline 1"
BROKEN = replace(experiment(workers=ONE_CPU), family="broken", teacher=recipe(optimizer=SGD(lr=1e6)))


def runs_of(planned: Experiment) -> dict[str, Run]:
    """Return the runs by stage and seed."""
    return {f"{run.stage} {run.seed}": run for run in make_plan(planned, digits(), NO_WEIGHTS).runs}


@dataclass(frozen=True)
class FinishedExperiments:
    """The outcome of a command that has ended.

    killed: process id of the worker. rows_before: the epochs of the teacher's checkpoint from before the command.
    """

    results: Path
    ended: Ended
    killed: int
    rows_before: list[dict[str, float]]

    def folder(self, run: Run) -> RunFolder:
        return RunStore(self.results).folder(run)


def train_a_little(run: Run, results: Path) -> RunFolder:
    """Interrupt the run in the middle of an epoch, so that it has a checkpoint."""
    reports = []
    hooks = Hooks(reports.append, should_stop=lambda: len(reports) == EPOCHS_BEFORE)
    with pytest.raises(Interrupted):
        train_directly(run, results, hooks)
    return RunStore(results).folder(run)


def kill_its_worker(folder: RunFolder, log: io.StringIO, killed: list[int]) -> None:
    """Kill the run's worker after its first epoch in this command."""
    wait_until(lambda: f"{folder.path.name}  epoch" in log.getvalue(), "the teacher's first line")
    writer = re.fullmatch(r"process (\d+) on \S+", folder.require_record().writer)
    assert writer and int(writer[1]) != os.getpid() and folder.require_record().status == "running"
    os.kill(int(writer[1]), signal.SIGKILL)
    killed.append(int(writer[1]))


def spoil(folder: RunFolder) -> None:
    """Make the run's files of TensorBoard and of its resource usage impossible to write."""
    folder.path.mkdir(parents=True)
    folder.tensorboard.write_text("not a folder")
    (folder.path / "usage").write_text("not a folder either")


@pytest.fixture(scope="module")
def finished(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> FinishedExperiments:
    """Run both experiments, with a run that cannot write some files, while a worker is killed."""
    results, log, killed = tmp_path_factory.mktemp("results"), io.StringIO(), []
    folder = train_a_little(runs_of(GOOD)["teacher 0"], results)
    spoil(RunStore(results).folder(runs_of(GOOD)[SPOILED]))
    rows = folder.history()
    killer = threading.Thread(target=kill_its_worker, args=(folder, log, killed), daemon=True)
    killer.start()
    ended = run_here([GOOD, BROKEN], results, log=log)
    killer.join()
    return FinishedExperiments(results, ended, killed[0], rows)


def test_report_has_the_documented_form(finished: FinishedExperiments) -> None:
    report = json.loads((finished.results / "report.json").read_text())
    assert list(report) == ["broken", "small"]
    for family in report.values():
        assert list(family) == ["teacher_accuracy", "student_accuracy_without_kd", "student_accuracy_with_kd"]
    assert all(0 < accuracy <= 1 for accuracy in report["small"].values())
    assert report["broken"]["teacher_accuracy"] is report["broken"]["student_accuracy_with_kd"] is None


def test_every_run_that_did_not_depend_on_the_failure_is_done_with_all_its_files(finished: FinishedExperiments) -> None:
    runs = [*runs_of(GOOD).values(), runs_of(BROKEN)["baseline 0"]]
    assert len(runs) == 6
    for run in runs:
        folder = finished.folder(run)
        assert folder.status() == "done"
        assert [row["epoch"] for row in folder.history()] == list(range(run.recipe.epochs))
        assert {"top1", "nll", "ece", "confusion", "weights_sha256"} <= set(json.loads(folder.test.read_text()))
        assert folder.val.is_file() and folder.costs.is_file()
        if run == runs_of(GOOD)[SPOILED]:
            continue
        assert list(folder.path.glob("usage/*.json"))
        events = EventAccumulator(str(folder.tensorboard)).Reload()
        logged = {event.step: event.value for event in events.Scalars("top1/val")}
        # The last events of the killed worker may be lost.
        assert set(logged) == set(range(run.recipe.epochs)) or run.stage == "teacher"
        assert logged[run.recipe.epochs - 1] == pytest.approx(folder.history()[-1]["val_top1"])


def test_a_warning_of_a_worker_is_in_the_log_of_the_command_once(finished: FinishedExperiments) -> None:
    warnings = [line.split("] ")[1] for line in finished.ended.lines if "  warning: " in line]
    for part in ("TensorBoard files in", "resource usage cannot be written"):  # usage is written twice at least
        (line,) = [line for line in warnings if part in line]
        assert line.startswith(f"small/{runs_of(GOOD)[SPOILED].name}  warning: ")


def test_best_models_are_saved_by_role(finished: FinishedExperiments) -> None:
    names = {path.stem for path in (finished.results / "models_saved").iterdir()}
    small = {f"small_{role}" for role in ("teacher", "student_baseline", "student_kd")}
    assert names == small | {"broken_student_baseline"}


def test_results_equal_those_of_the_loop_without_ray_bit_for_bit(finished: FinishedExperiments, tmp_path: Path) -> None:
    for name, run in runs_of(GOOD).items():
        directly = train_directly(run, tmp_path, caches=RunStore(finished.results).logit_caches)
        assert_same_bits(finished.folder(run), directly)
        assert finished.folder(run).require_record().compute == directly.require_record().compute, name


def test_checkpoints_of_evaluated_runs_are_removed_and_those_of_failed_runs_kept(finished: FinishedExperiments) -> None:
    folders = [finished.folder(run) for run in runs_of(GOOD).values()]
    assert all(folder.test.is_file() and folder.status() == "done" for folder in folders)
    assert not any(folder.checkpoint.parent.exists() for folder in folders)
    assert finished.folder(runs_of(BROKEN)["teacher 0"]).checkpoint.is_file()


def test_killed_worker_was_replaced_and_the_run_resumed_from_its_checkpoint(finished: FinishedExperiments) -> None:
    record = finished.folder(runs_of(GOOD)["teacher 0"]).require_record()
    assert record.resumes == 2, "once for this command, and once for the replacement worker"
    assert str(finished.killed) not in record.writer
    first = finished.folder(runs_of(GOOD)["teacher 0"]).history()[:EPOCHS_BEFORE]
    assert first == finished.rows_before, "these epochs were trained again"


def test_failed_run_stops_no_other_and_is_reported_in_one_line(finished: FinishedExperiments) -> None:
    broken = runs_of(BROKEN)
    assert finished.ended.exit_code == 1
    assert [line.split(": ")[0] for line in finished.ended.errors] == ["raykd", f"  train {broken['teacher 0'].name}"]
    assert finished.ended.errors[0] == "raykd: 1 of 17 jobs failed; the others are kept:"
    assert "lower the learning rate" in finished.ended.errors[1]
    assert finished.folder(broken["teacher 0"]).status() == "failed"
    logged = [line.split("] ")[1] for line in finished.ended.lines if "  failed: " in line or "  skipped: " in line]
    failed, skipped = broken["teacher 0"].name, f"broken/{broken['distilled 0'].name}"  # of two families
    assert [line.split(": ")[0] for line in logged] == [f"{failed}  failed", f"{skipped}  skipped"]
    assert logged[1].endswith(f"train {failed} failed")
    assert not finished.folder(broken["distilled 0"]).path.exists()


def test_repeated_command_trains_nothing_and_starts_no_trainer(finished: FinishedExperiments) -> None:
    before = {run.name: finished.folder(run).path / "run.json" for run in runs_of(GOOD).values()}
    times = {name: path.stat().st_mtime_ns for name, path in before.items()}
    again = run_here([GOOD], finished.results)
    assert again.exit_code == 0 and again.errors == []
    assert again.lines[0] == f"5 runs, 5 of them done before; results in {finished.results}"
    assert again.lines[1] == (
        "digits: 200 of 1,100 train, 100 validation (split from train), 597 test images of 8x8 pixels; "
        "10 classes: 0, 1, 2, 3, 4, ..."
    )
    assert not any("; dashboard" in line for line in again.lines)
    assert times == {name: path.stat().st_mtime_ns for name, path in before.items()}


def test_a_script_that_runs_a_finished_experiment_gets_its_report_and_keeps_its_handlers(
    finished: FinishedExperiments,
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    report = raykd.run(GOOD, results=finished.results)
    assert list(report.runs[report.runs["family"] == "small"]["state"]) == ["evaluated"] * 5
    assert "6 of 8 planned runs evaluated" in report._repr_html_()  # two of the broken family cannot be
    assert signal.getsignal(signal.SIGTERM) is handler


def test_ray_trains_own_files_are_removed_at_the_end(finished: FinishedExperiments) -> None:
    assert list((finished.results / ".ray").iterdir()) == []
