"""`raykd compare` sets results folders side by side, with differences paired by seed, and says where it cannot."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from small_runs import experiment, plan_of, recipe
from written_results import finish, finished

from raykd.cli import parser
from raykd.config.codec import write_record
from raykd.methods import DKD, KD
from raykd.models.four_stage_resnet import ResNet
from raykd.report.read.collect import collect
from raykd.report.stats.folders import FoldersRow, compare_folders
from raykd.report.stats.paired_interval import Spread
from raykd.spec.experiment import Experiment
from raykd.store.records import Metrics
from raykd.store.run_store import RunStore

SEEDS = (0, 1, 2)


def write(folder: Path, top1: Mapping[str, Sequence[float]], changed: Experiment | None = None) -> Path:
    """Write finished runs, and the test top-1 of each stage by seed. Other stages have 90.0 and one more per seed."""
    plan, store = finished(folder, changed or experiment(seeds=SEEDS)), RunStore(folder)
    for run in plan.runs:
        if run.stage in top1:
            weights = store.folder(run).require_record().weights_sha256
            write_record(store.folder(run).test, Metrics(top1[run.stage][run.seed], 0.5, 597, weights_sha256=weights))
    return folder


def rows_of(*folders: Path) -> dict[str, FoldersRow]:
    return {row.name: row for row in compare_folders({folder.name: collect(folder) for folder in folders})}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Folders a, b and c, whose distilled students differ by 1, 2, 3 points (b - a) and by 0.9, 1, 1.1 (c - a)."""
    a = write(tmp_path / "a", {"distilled": (80.0, 81.0, 82.0)})
    b = write(tmp_path / "b", {"distilled": (81.0, 83.0, 85.0)}, experiment(seeds=SEEDS, method=KD(temperature=2.0)))
    c = write(tmp_path / "c", {"distilled": (80.9, 82.0, 83.1)}, experiment(seeds=SEEDS, student=recipe(epochs=5)))
    return a, b, c


def test_a_difference_is_paired_by_seed_and_has_the_interval_of_students_t(folders: tuple[Path, Path, Path]) -> None:
    reference, other = rows_of(*folders[:2])["small distilled"].entries
    assert (reference.folder, reference.top1, reference.difference) == ("a", Spread(81.0, 1.0, 3), None)
    assert other.top1 == Spread(83.0, 2.0, 3)
    assert other.difference is not None
    # 2 +- 4.302653 * 1 / sqrt(3); p = 1 - t / sqrt(2 + t^2) with t = 2 sqrt(3), for 2 degrees of freedom.
    assert other.difference.spread == Spread(2.0, 1.0, 3)
    assert other.difference.interval == pytest.approx((-0.484138, 4.484138), abs=1e-6)
    assert other.difference.t_test_p == pytest.approx(0.0741799, abs=1e-7) and other.difference.p_holm is None
    assert other.changes == {"method.temperature": ("4.0", "2.0")}


def test_with_several_folders_p_is_corrected_for_their_differences(folders: tuple[Path, Path, Path]) -> None:
    row = rows_of(*folders)["small distilled"]
    b, c = (entry.difference for entry in row.entries[1:])
    assert b is not None and c is not None
    # c - a: t = 10 sqrt(3), p = 1 - t / sqrt(302) = 0.0033167, which Holm doubles; the larger p stays.
    assert c.t_test_p == pytest.approx(0.0033167, abs=1e-7) and c.p_holm == pytest.approx(0.0066335, abs=1e-7)
    assert b.p_holm == pytest.approx(0.0741799, abs=1e-7)


def test_the_same_runs_have_no_difference_and_other_teachers_are_named(tmp_path: Path, capsys) -> None:
    a = write(tmp_path / "a", {})
    wider = recipe(model=ResNet(blocks=(1, 1, 1, 1), width=24))
    b = write(tmp_path / "b", {"distilled": (92.0, 92.5, 94.0)}, experiment(seeds=SEEDS, teacher=wider))
    rows = rows_of(a, b)
    assert rows["small baseline"].entries[1].are_same and rows["small baseline"].entries[1].difference is None
    assert rows["small distilled"].entries[1].has_other_teacher and not rows["small distilled"].entries[1].are_same
    assert parser.entry(["compare", str(a), str(b)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"small baseline in {b}: the same runs as in {a}" in lines
    assert f"small teacher in {b}: teacher.model.width = 24, not 16" in lines
    assert any(line.endswith("another teacher, and the interval does not cover other teachers") for line in lines)


def test_runs_on_other_data_are_not_paired(tmp_path: Path, capsys) -> None:
    a, b = (write(tmp_path / name, {}) for name in "ab")
    for run in plan_of(experiment(seeds=SEEDS)).runs:
        folder = RunStore(b).folder(run)
        folder.update(config={**folder.require_record().config, "data_identity": "f" * 64}, fingerprint="ff")
    assert all(row.entries[1].difference is None for row in rows_of(a, b).values())
    assert parser.entry(["compare", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert f"small baseline in {b}: no difference: the data sets differ, so the test images may differ" in text
    assert "data.name = digits (its content differs), not digits (its content differs)" in text


def test_missing_results_and_seeds_in_one_folder_only_are_named(tmp_path: Path, capsys) -> None:
    a = write(tmp_path / "a", {})
    b = write(tmp_path / "b", {}, experiment(seeds=(5, 6), student=recipe(epochs=5)))
    RunStore(b).folder(plan_of(experiment(seeds=(5, 6), student=recipe(epochs=5))).runs[1]).test.unlink()
    assert parser.entry(["compare", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert f"small baseline in {b}: planned runs without a result: 1 of 2" in text
    assert f"small distilled in {b}: no difference: no seed has a result in both folders" in text


def test_compared_methods_have_rows_of_their_own(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {}, experiment(seeds=SEEDS, compare=(DKD(),)))
    b = write(tmp_path / "b", {}, experiment(seeds=SEEDS, compare=(DKD(beta=2.0),)))
    rows = rows_of(a, b)
    assert [*rows] == ["small teacher", "small baseline", "small distilled", "small dkd"]
    assert rows["small dkd"].entries[1].changes == {"method.beta": ("8.0", "2.0")}


def test_text_and_tables_have_the_same_numbers(folders: tuple[Path, Path, Path], tmp_path: Path, capsys) -> None:
    a, b, _ = folders
    assert parser.entry(["compare", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1].split()[:2] == ["|", "runs"]
    shown = ("83.00 ± 2.00", "+2.00 [\N{MINUS SIGN}0.48, +4.48]", "0.074")
    assert all(part in text for part in shown)
    assert f"small distilled in {b}: method.temperature = 2.0, not 4.0" in text
    file = tmp_path / "table.tex"
    assert parser.entry(["compare", str(a), str(b), "--format", "latex", "--output", str(file)]) == 0
    assert r"83.00 $\pm$ 2.00 & 3 & +2.00 [$-$0.48, +4.48] & 0.074 & 3" in file.read_text()
    assert parser.entry(["compare", str(a), str(b), "--format", "markdown"]) == 0
    assert "| 83.00 ± 2.00 | 3 | +2.00 \\[\N{MINUS SIGN}0.48, +4.48\\] | 0.074 | 3 |" in capsys.readouterr().out
    assert parser.entry(["compare", str(a), str(b), "--format", "csv"]) == 0
    found = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    (row,) = (one for one in found if one["stage"] == "distilled" and one["folder"] == str(b))
    assert float(row["gain_mean"]) == pytest.approx(2.0) and row["num_pairs"] == "3" and row["reference"] == str(a)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a",), "compare: {a} is one folder; name at least two results folders"),
        (("a", "a/../a"), "compare: {a}/../a is named twice; name different results folders"),
        (("a", "missing"), "no plan under '{missing}'"),
        (("a", "other"), "compare: no family is in two of the folders: {a} has small; {other} has mine; give "),
        (("a", "other", "--output", "x"), "--output x: requires tables; add --format"),
    ],
)
def test_folders_that_cannot_be_compared_are_refused_in_one_line(
    tmp_path: Path, capsys, names: tuple[str, ...], message: str
) -> None:
    write(tmp_path / "a", {})
    other = plan_of(experiment(family="mine", seeds=(0,)))
    RunStore(tmp_path / "other").make_folder()
    RunStore(tmp_path / "other").write_plan(other)
    finish(RunStore(tmp_path / "other"), other.runs[0])
    words = [str(tmp_path / name) if not name.startswith("-") and name != "x" else name for name in names]
    assert parser.entry(["compare", *words]) == 2
    error = capsys.readouterr().err
    expected = message.format(**{name: tmp_path / name for name in ("a", "missing", "other")})
    assert error.startswith(f"raykd: {expected}") and error.count("\n") == 1
