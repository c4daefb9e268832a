"""The packages of trackers: a missing one ends the command with the line that installs it."""

from pathlib import Path

import pytest
from bad_inputs.case import experiment_file

from raykd.cli import parser
from raykd.spec import trackers


@pytest.mark.parametrize(("tracker", "package"), [("mlflow", "mlflow-skinny"), ("wandb", "wandb")])
@pytest.mark.parametrize("command", ["plan", "tune", "run"])
def test_a_missing_package_is_one_line_with_the_install_command_and_nothing_is_written(
    tracker: str, package: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    file = experiment_file(tmp_path)
    if command == "tune":
        file.write_text(file.read_text().replace("KD, SGD", "KD, SGD, Search, uniform").rstrip().removesuffix(")")
                        + '    search=Search(space={"method.alpha": uniform(0.1, 0.9)}, trials=1))\n')  # fmt: skip
    code = parser.entry([command, str(file), "--set", f"tracker={tracker}", "--results", "results"])
    line = capsys.readouterr().err
    assert code == 2 and line.count("\n") == 1, line
    assert f"tracker = {tracker}: requires a package that is missing" in line and line.strip().endswith(
        f"pip install {package}"
    )
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["tiny.py"]


def test_a_folder_of_wandbs_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_a_folder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not trackers._is_installed("only_a_folder") and trackers._is_installed("json")
