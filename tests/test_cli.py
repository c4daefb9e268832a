"""The command line: quick to explain itself, and the same words for the same runs."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.cli import parser

ROOT = Path(__file__).parent.parent
COMMANDS = ("train-teacher", "train-student", "distill", "tune", "plan", "report", "prefetch", "export", "doctor")
DIGITS = ("--experiment", str(ROOT / "experiments" / "digits.py"))


def _help(*words: str) -> str:
    environment = {**os.environ, "COLUMNS": "100"}
    command = [sys.executable, "-m", "raykd", *words, "--help"]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_help_is_what_it_was():
    """A snapshot: UPDATE_SNAPSHOTS=1 writes it anew; read the difference before you commit it."""
    shown = "\n".join(_help(*words) for words in ((), *((command,) for command in COMMANDS)))
    snapshot = Path(__file__).parent / "help.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.write_text(shown)
    assert shown == snapshot.read_text()


def test_help_imports_neither_torch_nor_ray_nor_numpy():
    code = "import sys, raykd.cli.parser as c; c._parser(); "
    code += "print(sorted({'torch', 'ray', 'numpy', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    import raykd

    for name in raykd.__all__:
        assert getattr(raykd, name) is not None
    with pytest.raises(AttributeError, match="no name 'KDD'"):
        raykd.KDD  # noqa: B018


def _plan(capsys, *words: str) -> list[str]:
    assert parser.entry(list(words)) == 0
    return [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]


def test_plan_shows_every_run_once_and_writes_nothing(tmp_path, capsys):
    names = _plan(capsys, "plan", str(ROOT / "experiments" / "digits.py"), "--results", str(tmp_path / "r"))
    assert len(names) == len(set(names)) == 11
    assert [name.split("-")[0] for name in names] == ["teacher"] + ["baseline"] * 5 + ["distilled"] * 5
    assert not (tmp_path / "r").exists()


def test_plan_shows_the_images_of_each_split_and_the_classes(tmp_path, capsys):
    assert parser.entry(["plan", str(ROOT / "experiments" / "digits.py"), "--results", str(tmp_path / "r")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        "digits: 1,000 train (students train on 100), 200 validation (held out of train), "
        "597 test images of 16x16 pixels; 10 classes: 0, 1, 2, 3, 4, ..."
    )


def test_a_setting_names_other_runs_only_where_it_decides_something(tmp_path, capsys):
    words = ["plan", str(ROOT / "experiments" / "digits.py"), "--results", str(tmp_path / "r")]
    before = _plan(capsys, *words)
    hotter = _plan(capsys, *words, "--set", "method.temperature=2")
    assert hotter[:6] == before[:6] and not set(hotter[6:]) & set(before)
    assert _plan(capsys, *words, "--set", "workers.cpus=2") == before
    assert _plan(capsys, *words, "--set", "digits.method.temperature=4") == before


def test_the_single_stages_share_the_experiments_runs(tmp_path, capsys, monkeypatch):
    """train-teacher, train-student and distill plan the very runs that the experiment file plans."""
    planned = []
    monkeypatch.setattr(
        "raykd.orchestration.run_experiments.run_experiments",
        lambda experiments, options, console: planned.append((experiments, options)),
    )
    words = ("--results", str(tmp_path / "r"))
    assert parser.entry(["train-teacher", "--epochs", "12", *DIGITS, *words]) == 0
    assert parser.entry(["train-student", "--epochs", "60", *DIGITS, *words]) == 0
    assert parser.entry(["distill", "--alpha", "0.5", "--temperature", "4.0", *DIGITS, *words]) == 0
    from raykd.orchestration.run_experiments import plan_of

    stages = [{run.name for run in plan_of(experiments[0], options)[0].runs} for experiments, options in planned]
    whole = set(_plan(capsys, "plan", str(DIGITS[1]), "--results", str(tmp_path / "r")))
    assert [len(names) for names in stages] == [1, 5, 6]
    assert set.union(*stages) == whole


def test_feature_distill_keeps_alpha_and_temperature(tmp_path, capsys, monkeypatch):
    planned = []
    monkeypatch.setattr(
        "raykd.orchestration.run_experiments.run_experiments",
        lambda experiments, options, console: planned.append(experiments[0]),
    )
    words = ["distill", "--feature-distill", "cosine", "--alpha", "0.3", "--results", str(tmp_path), *DIGITS]
    assert parser.entry(words) == 0
    from raykd import FeatureKD

    assert planned[0].method == FeatureKD(alpha=0.3, temperature=4.0, distance="cosine")


def test_prefetch_says_what_is_there_and_downloads_nothing_then(tmp_path, capsys):
    """Data and weights in place: no network is asked. (Where they are not, it needs one.)"""
    assert parser.entry(["prefetch", str(DIGITS[1]), "--data-dir", str(tmp_path / "data")]) == 0
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["digits", "distill_cnn", "distill_vit", "cnn_and_vit", "tune_cnn", "tune_vit"])
def test_every_experiment_file_defines_what_it_runs(name):
    from raykd.cli.experiment_file import load_experiments

    experiments = load_experiments(ROOT / "experiments" / f"{name}.py")
    assert [experiment.family for experiment in experiments] == {
        "digits": ["digits"], "cnn_and_vit": ["cnn", "vit"],
    }.get(name, [name.split("_")[-1]])  # fmt: skip


def test_a_full_disk_is_one_line_and_no_traceback(capsys):
    def write():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "ray_results/cnn/plan.json")

    assert parser.guarded(write) == 1
    said = capsys.readouterr().err
    assert "No space left on device: 'ray_results/cnn/plan.json'" in said and said.count("\n") == 1


def test_a_reader_that_has_enough_is_no_error():
    """As `... --plan | head -1` has."""
    command = f"{sys.executable} experiments/digits.py --plan"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 1; echo ${{PIPESTATUS[0]}} >&2"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr.strip() in ("0", "141"), done.stderr


def test_a_search_has_no_stages_and_its_plan_says_how_many_trials(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "import sys\nsys.path.insert(0, 'experiments')\nfrom dataclasses import replace\n"
        "from digits import experiment\nfrom raykd import Search, main, uniform\n"
        "experiment = replace(experiment, search=Search({'method.alpha': uniform(0, 1)}, trials=7))\n"
        "if __name__ == '__main__':\n    main(experiment)\n"
    )
    assert parser.entry(["plan", str(path), "--results", str(tmp_path / "r")]) == 0
    _, _, trials, confirmed, run, teacher = capsys.readouterr().out.splitlines()
    assert "7 trials over method.alpha, 0 ended" in trials and "best 3 and the experiment's own" in confirmed
    assert run.startswith("  teacher-")
    assert (
        teacher == "teacher of digits: logit cache with all 9 views per image instead of 1,620 teacher passes (211 KiB)"
    )
    done = subprocess.run(
        [sys.executable, str(path), "--stage", "teacher", "--results", str(tmp_path / "r")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "--stage teacher: an experiment that searches" in done.stderr


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.ESTALE, errno.ENOSPC])
def test_what_a_disk_does_is_one_line_that_names_the_path(number, tmp_path, capsys):
    from raykd.atomic import replacing

    def write():
        with replacing(tmp_path / "run.json"):
            raise OSError(number, os.strerror(number))  # as a failed write has it, which names no file

    assert parser.guarded(write) == 1
    said = capsys.readouterr().err
    assert f"{os.strerror(number)}: '{tmp_path / 'run.json'}'; what was saved is kept; rerun" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone", "x"), OSError(errno.EBADF, "bad file")])
def test_a_mistake_in_the_code_keeps_its_traceback(error):
    def run():
        raise error

    with pytest.raises(OSError, match=str(error.strerror)):
        parser.guarded(run)
