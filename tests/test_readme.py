"""The commands, settings and examples in README.md, and the commands of docs/cluster.md and docs/results.md, work."""

import re
import runpy
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from raykd.cli import parser
from raykd.spec.bundled import find_experiment

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/cluster.md", "docs/results.md")


def _commands(documents: Sequence[str] = DOCUMENTS) -> list[list[str]]:
    """Return the arguments of every command in the documents' code blocks, split like a shell, without comments."""
    text = "".join((ROOT / document).read_text() for document in documents)
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M)
    lines = (
        "\n".join(block for language, block in fenced if not language and not block.startswith("["))
        .replace("\\\n", " ")
        .replace(" && ", "\n")
        .splitlines()
    )
    return [arguments for line in lines if (arguments := shlex.split(line, comments=True))]


def _commands_of(program: str) -> list[list[str]]:
    return [arguments for arguments in _commands() if arguments[0] == program]


def test_readme_opens_with_one_sentence_a_table_and_three_commands():
    text = (ROOT / "README.md").read_text()
    sentence, table = text.index("raykd runs knowledge-distillation"), text.index("\n|")
    assert sentence < table < text.index("make demo") < text.index("\n## ")
    assert len(_commands(["README.md"])[:3]) == 3


def test_every_make_target_in_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


@pytest.mark.parametrize("arguments", _commands_of("python"), ids=" ".join)
def test_every_python_command_parses(arguments, monkeypatch):
    _parse_script(arguments[1:], monkeypatch)


@pytest.mark.parametrize("arguments", _commands_of("raykd"), ids=" ".join)
def test_every_command_of_raykd_parses_and_names_an_experiment_that_exists(arguments, capsys):
    if arguments[1:] == ["--version"]:
        with pytest.raises(SystemExit, match="0"):
            parser.entry(arguments[1:])
        return
    parsed = parser.make_parser().parse_args(arguments[1:])
    files = getattr(parsed, "file", None) or getattr(parsed, "experiment", None) or []
    for file in [files] if isinstance(files, str) else files[:1]:
        assert file == "show" or (ROOT / find_experiment(file)).is_file()


@pytest.mark.parametrize("arguments", _commands_of("sbatch"), ids=" ".join)
def test_every_submitted_experiment_parses(arguments, monkeypatch):
    script = next(position for position, word in enumerate(arguments) if word.endswith(".slurm"))
    assert (ROOT / arguments[script]).is_file()
    if arguments[script + 1 :]:  # without an experiment the job keeps its Ray cluster
        _parse_script(arguments[script + 1 :], monkeypatch)


def _parse_script(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Require that the experiment file exists and accepts the flags; --help ends it before data is read."""
    assert (ROOT / arguments[0]).is_file()
    monkeypatch.setattr(sys, "argv", [*arguments, "--help"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which a running experiment file replaces
    monkeypatch.syspath_prepend(ROOT / "experiments")
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    assert exit_info.value.code == 0


def test_the_settings_in_readme_are_accepted():
    from raykd.cli.experiment_file import apply_settings, load_experiments

    for arguments in [*_commands_of("python"), *_commands_of("sbatch"), *_commands_of("raykd")]:
        settings = [value for flag, value in pairwise(arguments) if flag == "--set"]
        files = [word for word in arguments if word.startswith("experiments/")]
        if settings:
            assert apply_settings(load_experiments(ROOT / files[0]), settings)


def test_the_example_experiment_is_accepted(tmp_path, capsys):
    path = tmp_path / "tiny.py"
    path.write_text(_example("experiment = Experiment("))
    assert parser.entry(["plan", str(path), "--results", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.count("not started") == 7


def _example(part: str) -> str:
    """Return the only block of Python in README that contains `part`."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    (example,) = (block for block in blocks if part in block)
    return example
