"""Experiments by name, `raykd experiments`, and `raykd init`: a project outside the repository."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.cli import parser
from raykd.errors import ConfigError
from raykd.spec.bundled import EXPERIMENTS, SLURM, experiment_files, find_experiment

ROOT = Path(__file__).parents[2]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_bundled_files_of_a_checkout_are_its_folders() -> None:
    assert (EXPERIMENTS, SLURM) == (ROOT / "experiments", ROOT / "slurm")


def test_a_name_is_the_projects_experiment_or_else_the_bundled_one(tmp_path: Path) -> None:
    assert find_experiment("digits", tmp_path) == EXPERIMENTS / "digits.py"
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "digits.py").touch()
    assert find_experiment("digits", tmp_path) == Path("experiments/digits.py")
    assert find_experiment("tune_cnn", tmp_path) == EXPERIMENTS / "tune_cnn.py"


def test_a_folder_with_the_name_of_an_experiment_does_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    assert find_experiment("digits", tmp_path) == EXPERIMENTS / "digits.py"


@pytest.mark.parametrize("path", ["mine.py", "a/b", "/x/y.py", "..", "no such file.py"])
def test_a_path_stays_as_it_is(path: str, tmp_path: Path) -> None:
    assert find_experiment(path, tmp_path) == Path(path)


def test_an_unknown_name_lists_the_projects_experiments_too(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "my_study.py").write_text("experiment = 1")
    with pytest.raises(ConfigError, match=r"known are .*digits.*my_study.*; did you mean 'my_study'\?"):
        find_experiment("my_studi", tmp_path)


def test_an_unknown_name_suggests_the_file_of_that_name_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").touch()
    with pytest.raises(ConfigError, match=r"unknown experiment 'tiny': .*; did you mean 'tiny\.py'\?"):
        find_experiment("tiny", tmp_path)


def test_a_network_in_the_experiments_folder_is_not_listed_as_an_experiment(tmp_path: Path, monkeypatch) -> None:
    """In a checkout, the folder of the bundled experiments is the project's."""
    monkeypatch.setattr("raykd.spec.bundled.EXPERIMENTS", tmp_path / "experiments")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "my_net.py").write_text("from digits import experiment as digits\nclass MyNet: ...\n")
    (tmp_path / "experiments" / "mine.py").write_text("experiments: tuple = ()\n")
    names = [path.stem for path in experiment_files(tmp_path)]
    assert "mine" in names and "my_net" not in names


def test_experiments_lists_each_name_with_the_first_line_of_its_docstring(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "digits.py").write_text('"""Mine.\n\nMore.\n"""\nexperiment = 1\n')
    (tmp_path / "experiments" / "broken.py").write_text("def")
    monkeypatch.chdir(tmp_path)
    assert parser.entry(["experiments"]) == 0
    in_project, bundled, _ = capsys.readouterr().out.split("\n\n")
    assert [line.split(maxsplit=1) for line in in_project.splitlines()[1:]] == [
        ["broken", "(not valid Python)"],
        ["digits", "Mine."],
    ]
    names = [line.split()[0] for line in bundled.splitlines()[1:]]
    assert names == sorted(path.stem for path in EXPERIMENTS.glob("*.py") if path.stem != "digits")
    assert "  distill_cnn         ResNet-18 -> ResNet-8 on CIFAR-10 with soft targets" in bundled


def test_init_copies_all_files_and_names_this_environment(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert parser.entry(["init", "new/project"]) == 0
    made = tmp_path / "new" / "project"
    copied = files(made)
    site = copied.pop("slurm/site.sh").decode()
    expected = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for folder in (EXPERIMENTS, SLURM)
        for path in folder.iterdir()
        if path.is_file() and path.name != "site.sh"
    }
    assert copied == expected
    assert f"\nRAYKD_DEFAULT_VENV={sys.prefix}\n" in site
    original = (SLURM / "site.sh").read_text()
    assert site == original.replace("RAYKD_DEFAULT_VENV=$HOME/.venvs/edl", f"RAYKD_DEFAULT_VENV={sys.prefix}")
    assert (made / "slurm" / "submit_best_gpu.sh").stat().st_mode & 0o111
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("made new/project/experiments (12 files) and new/project/slurm (5 files)")
    assert lines[1] == "    cd new/project" and len(lines) == 5


@pytest.mark.parametrize("existing", ["experiments", "slurm"])
def test_init_never_replaces_a_folder(existing, tmp_path, capsys) -> None:
    (tmp_path / existing).mkdir()
    (tmp_path / existing / "mine.py").write_text("x = 1\n")
    before = files(tmp_path)
    assert parser.entry(["init", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"raykd: init: '{tmp_path / existing}' exists and is not replaced" in error and error.count("\n") == 1
    assert files(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


def test_init_below_a_file_is_one_line(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert parser.entry(["init", str(tmp_path / "file" / "project")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("raykd: init: cannot write to") and error.count("\n") == 1


def test_a_failed_init_leaves_nothing_behind(tmp_path, monkeypatch, capsys) -> None:
    copy = shutil.copytree

    def full(source: Path, target: Path, **named: object) -> None:
        if target.name == "slurm":
            raise OSError(28, "No space left on device")
        copy(source, target, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "copytree", full)
    assert parser.entry(["init", str(tmp_path / "a" / "b")]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_run_takes_the_flags_of_an_experiment_file(tmp_path, capsys) -> None:
    arguments = ["--plan", "--results", str(tmp_path / "r"), "--set", "seeds=3", "--stage", "baseline"]
    assert parser.entry(["run", "digits", *arguments]) == 0
    named = capsys.readouterr().out
    assert "baseline-resnet8-w8-s3-" in named and "distilled" not in named
    assert parser.entry(["run", str(EXPERIMENTS / "digits.py"), *arguments]) == 0
    assert capsys.readouterr().out == named


def test_run_of_several_families_accepts_family(tmp_path, capsys) -> None:
    arguments = ["--plan", "--results", str(tmp_path / "r"), "--data-dir", str(tmp_path), "--family", "cnm"]
    with pytest.raises(SystemExit) as exit_info:
        parser.entry(["run", "cnn_and_vit", *arguments])
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and error.count("\n") == 1
    assert "argument --family: 'cnm' is not one of cnn, vit; did you mean 'cnn'? see '" in error
    assert "run cnn_and_vit --help'" in error


@pytest.mark.parametrize("command", [["plan"], ["tune"], ["fields"], ["prefetch"], ["train-teacher", "--experiment"]])
def test_every_command_accepts_a_name_and_suggests_the_nearest(command, capsys) -> None:
    assert parser.entry([*command, "tune_cnm"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("raykd: unknown experiment 'tune_cnm': known are ") and error.count("\n") == 1
    assert "did you mean 'tune_cnn'?" in error


def test_a_project_runs_in_another_folder_than_the_repository(tmp_path: Path) -> None:
    """Its experiments import raykd, and the name is that of the project's file."""
    assert parser.entry(["init", str(tmp_path)]) == 0
    file = tmp_path / "experiments" / "digits.py"
    file.write_text(file.read_text().replace('family="digits"', 'family="mine"'))
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "raykd", "plan", "digits"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout.splitlines()[0]
