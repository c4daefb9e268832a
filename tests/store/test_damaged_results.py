"""Tests that damage to a file of a finished results folder never changes a number of the report.

After each mutation the report either has the same report.json and names the damaged file, or fails with an error in one
line. The mutations are seeded.
"""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import finished_results as finished
import pytest
from nightly import nightly_except
from rich.console import Console
from small_runs import CPU, train
from written_records import record_of

from raykd.config.codec import read_checked_json
from raykd.disk.atomic import write_bytes
from raykd.errors import ConfigError, RunFailed
from raykd.orchestration.command import Command
from raykd.orchestration.options import Options
from raykd.orchestration.run_experiments import run_experiments, train_experiments
from raykd.report.content import ReportContent
from raykd.report.read.collect import collect
from raykd.report.render import files
from raykd.report.stats.summary import summarize
from raykd.store.records import ComputeRecord
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training import final_evaluation
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test, is_tested
from raykd.training.train_one import train_one


def flip_bit(path: Path, seed: int) -> None:
    content, random_numbers = bytearray(path.read_bytes()), random.Random(seed)
    content[random_numbers.randrange(len(content))] ^= 1 << random_numbers.randrange(8)
    path.write_bytes(content)


def move_bytes(path: Path, seed: int) -> None:
    content, random_numbers = path.read_bytes(), random.Random(seed)
    first, middle, last = sorted(random_numbers.sample(range(len(content)), 3))
    path.write_bytes(content[:first] + content[middle:last] + content[first:middle] + content[last:])


FILES = ("run.json", "test.json", "val.json", "costs.json", "usage/0.json", "history.parquet", "best.safetensors")
MUTATIONS: dict[str, Callable[[Path, int], None]] = {
    "one bit": flip_bit,
    "two bytes": finished.flip,
    "truncated": finished.truncate,
    "second half zeroed": finished.zero_half,
    "moved bytes": move_bytes,
}
SEEDS = range(6)


def report_outcome(results: Path) -> tuple[bytes | None, str]:
    """Return the content of report.json and all warnings and missing results, or None and the error."""
    try:
        (summary,) = (summarize(family) for family in collect(results))
    except ConfigError as error:
        assert "\n" not in str(error)
        return None, str(error)
    content = files.report_json(ReportContent((summary,), results / "index.html"))
    return content, "\n".join((*summary.warnings, *summary.missing))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return finished.copy_to(tmp_path)


@pytest.mark.parametrize("mutation", nightly_except(["one bit", "truncated"], MUTATIONS))
@pytest.mark.parametrize("file", [*FILES, "plan.json"])
def test_a_damaged_file_changes_no_number_of_the_report(file: str, mutation: str, results: Path) -> None:
    expected, _ = report_outcome(results)
    assert expected is not None
    num_noticed = 0
    for seed in SEEDS:
        stage = ("teacher", "baseline", "distilled")[seed % 3]
        path = results / "tiny" / "plan.json" if file == "plan.json" else finished.run_in(results, stage).path / file
        before = path.read_bytes()
        MUTATIONS[mutation](path, seed)
        assert path.read_bytes() != before
        content, messages = report_outcome(results)
        assert content in (None, expected), f"a number has changed, seed {seed}: {messages}"
        if content is None:
            assert str(path) in messages, messages
        is_noticed = str(path) in messages
        assert is_noticed or _is_equal_json(path, before), f"damage not noticed, seed {seed}"
        num_noticed += is_noticed
        path.write_bytes(before)
    assert num_noticed >= len(SEEDS) - 2, "nearly all mutations change the content of the file"


def _is_equal_json(path: Path, before: bytes) -> bool:
    """Return whether only white space has changed, which does not damage JSON."""
    return path.suffix == ".json" and json.loads(path.read_bytes()) == json.loads(before)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("stage", "other"), [("distilled", "baseline"), ("baseline", "teacher")])
def test_a_file_of_another_run_changes_no_number_of_the_report(
    file: str, stage: str, other: str, results: Path
) -> None:
    expected, _ = report_outcome(results)
    path = finished.run_in(results, stage).path / file
    finished.exchange(path, finished.run_in(results, other, seed=int(other != "teacher")).path / file)
    content, messages = report_outcome(results)
    if file == "costs.json":  # all models are equal here and have the same costs
        assert content == expected and str(path) not in messages
        return
    assert str(path) in messages, messages
    if file == "test.json":
        assert f"{path.parent.name}: not evaluated" in messages
    else:
        assert content in (None, expected)


def test_exchanged_weights_are_noticed_and_not_evaluated_on_the_test_set(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = report_outcome(results)
    store, plan = RunStore(results), finished.plan_of(results.parent)
    distilled = [run for run in plan.runs if run.stage == "distilled"]
    for run in distilled:
        finished.exchange(store.folder(run).best, finished.run_in(results, "baseline", run.seed).best)
    monkeypatch.setattr(final_evaluation, "compute_metrics", lambda *_: pytest.fail("the test split was evaluated"))
    for run in distilled:
        assert store.status(run) == "damaged" and is_tested(store.folder(run))
        evaluate_on_test(run, store.folder(run), finished.dataset(), choose_compute(CPU, "fp32"))
        store.folder(run).test.unlink()
        with pytest.raises(ConfigError, match=r"best\.safetensors' is damaged: .*belongs to another run"):
            evaluate_on_test(run, store.folder(run), finished.dataset(), choose_compute(CPU, "fp32"))
    assert expected is not None


@pytest.mark.parametrize("damage", [finished.flip, Path.unlink])
def test_rerun_restores_damaged_weights_from_the_checkpoint_to_the_byte(
    damage: Callable[[Path], None], results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = report_outcome(results)
    path = finished.run_in(results, "teacher").best
    before, record = path.read_bytes(), read_checked_json(path.parent / "run.json")
    damage(path)
    monkeypatch.setattr(
        "raykd.orchestration.run_experiments.ray_session",
        lambda: pytest.fail("Ray was started although every run is trained"),
    )
    command = Command(Options(results, Path("no-data")), Console())
    train_experiments([finished.plan_of(results.parent).experiment], command)
    assert path.read_bytes() == before and read_checked_json(path.parent / "run.json") == record
    output = capsys.readouterr().out
    assert f"'{path}' was damaged" in output and "restored from the run's checkpoint" in output
    assert report_outcome(results) == expected


@pytest.mark.parametrize("stage", ["teacher", "distilled"])
def test_a_finished_run_without_weights_and_checkpoint_keeps_its_numbers_and_is_named(
    stage: str, results: Path
) -> None:
    expected, _ = report_outcome(results)
    folder = finished.run_in(results, stage)
    folder.best.unlink()
    folder.checkpoint.unlink()
    content, messages = report_outcome(results)
    assert content == expected and f"'{folder.best}' is damaged: it is missing; rerun the experiment" in messages


def test_damaged_teacher_is_not_distilled(results: Path) -> None:
    store, plan = RunStore(results), finished.plan_of(results.parent, seeds=(0, 1, 2), teacher_source="live")
    finished.flip(finished.run_in(results, "teacher").best)
    with pytest.raises(ConfigError, match=r"teacher.*best\.safetensors' is damaged: .*restores it from the run's"):
        train_one(plan.runs[-1], store.folder(plan.runs[-1]), finished.dataset(), CPU, store, cache=None)


@pytest.mark.parametrize("mutation", [name for name in MUTATIONS if name != "truncated"])
def test_a_damaged_checkpoint_is_never_resumed(mutation: str, results: Path) -> None:
    """Missing weights are restored from an intact checkpoint only."""
    folder = finished.run_in(results, "baseline")
    (run,) = [run for run in finished.plan_of(results.parent).runs if run.name == folder.path.name]
    content, weights = folder.checkpoint.read_bytes(), folder.best.read_bytes()
    for seed in SEEDS:
        folder.checkpoint.write_bytes(content)
        MUTATIONS[mutation](folder.checkpoint, seed)
        folder.best.unlink(missing_ok=True)
        with pytest.raises(RunFailed, match=r"checkpoint '.*last\.safetensors' is damaged .*remove it to train"):
            fit_run(run, folder)
    folder.checkpoint.write_bytes(content)
    fit_run(run, folder)
    assert folder.best.read_bytes() == weights


def test_the_checkpoint_of_another_seed_is_never_resumed(results: Path) -> None:
    folder, other = finished.run_in(results, "baseline", 0), finished.run_in(results, "baseline", 1)
    (run,) = [run for run in finished.plan_of(results.parent).runs if run.name == folder.path.name]
    finished.exchange(folder.checkpoint, other.checkpoint)
    folder.best.unlink()
    with pytest.raises(RunFailed, match=r"last\.safetensors' belongs to another run; remove it to train from"):
        fit_run(run, folder)


def fit_run(run, folder: RunFolder) -> None:
    from raykd.training.loop import fit

    fit(run, finished.dataset(), folder, CPU)


def test_weights_are_hashed_once_in_a_command(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raykd import provenance

    hashed: list[Path] = []
    monkeypatch.setattr(provenance, "AT_REST_S", 0.0)
    read = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, by: (hashed.append(Path(file.name)), read(file, by))[1])
    best = finished.run_in(results, "teacher").best
    for _ in range(5):
        assert RunFolder(best.parent).status() == "done"
    assert hashed.count(best) == 1


def test_saved_models_that_are_damaged_are_refused(results: Path, tmp_path: Path) -> None:
    from raykd.training.model_file import load_model

    path = tmp_path / "cnn_teacher.safetensors"
    content = bytearray(finished.run_in(results, "teacher").best.read_bytes())
    content[-1000] ^= 64
    write_bytes(path, bytes(content))
    with pytest.raises(ConfigError, match=r"cnn_teacher\.safetensors' is damaged: .*checksum; copy it again"):
        load_model(path)


def test_a_run_that_failed_before_its_first_checkpoint_computes_as_this_machine_does(run_folder: RunFolder) -> None:
    """An attempt that ran out of GPU memory recorded bfloat16 and 64 threads, but has no checkpoint."""
    from small_runs import run_of

    run = run_of("baseline")
    run_folder.write_record(record_of(run, status="failed", compute=ComputeRecord("cuda", "bf16", 64)))
    train(run, run_folder)
    compute = run_folder.require_record().compute
    assert compute.precision == "fp32" and compute.threads < 64


def test_damaged_weights_without_a_checkpoint_end_the_command_with_one_line_and_change_nothing(results: Path) -> None:
    """A finished run has no checkpoint any more unless keep_checkpoints=true; it is not trained again by itself."""
    folder = finished.run_in(results, "teacher")
    with folder.lock():
        folder.remove_checkpoint()
    finished.flip(folder.best)
    before = folder.best.read_bytes()
    with pytest.raises(ConfigError, match=r"best\.safetensors' is damaged.*keep_checkpoints=true.*move the folder"):
        command = Command(Options(results, Path("no-data")), Console())
        run_experiments([finished.plan_of(results.parent).experiment], command)
    assert folder.best.read_bytes() == before and folder.status() == "damaged"
