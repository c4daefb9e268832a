"""What README.md shows is what works: commands parse, settings and the example are accepted, links lead somewhere."""

import re
import runpy
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from raykd.cli import parser

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "ray_results" / "README.md"]


def _commands() -> list[list[str]]:
    """Every command of README's code blocks, words split as a shell would, comments and continuations taken care of."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.S | re.M)
    lines = (
        "\n".join(block for language, block in fenced if not language and not block.startswith("["))
        .replace("\\\n", " ")
        .splitlines()
    )
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _of(program: str) -> list[list[str]]:
    return [words for words in _commands() if words[0] == program]


def test_readme_opens_with_one_sentence_a_table_and_three_commands():
    text = (ROOT / "README.md").read_text()
    sentence, table = text.index("raykd runs knowledge-distillation"), text.index("\n|")
    assert sentence < table < text.index("make demo") < text.index("\n## ")
    assert len(_commands()[:3]) == 3


def test_every_make_target_that_readme_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert named
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


@pytest.mark.parametrize("words", _of("python"), ids=" ".join)
def test_every_python_command_parses(words, monkeypatch):
    if words[1] == "-m":
        assert words[2] == "raykd"
        parser.make_parser().parse_args(words[3:])
    else:
        _parse_script(words[1:], monkeypatch)


@pytest.mark.parametrize("words", _of("sbatch"), ids=" ".join)
def test_every_submitted_experiment_parses(words, monkeypatch):
    script = next(position for position, word in enumerate(words) if word.endswith(".slurm"))
    assert (ROOT / words[script]).is_file()
    if words[script + 1 :]:  # without an experiment the job keeps its Ray
        _parse_script(words[script + 1 :], monkeypatch)


def _parse_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment file exists, and its flags are accepted; --help ends before data is looked for."""
    assert (ROOT / words[0]).is_file()
    monkeypatch.setattr(sys, "argv", [*words, "--help"])
    monkeypatch.syspath_prepend(ROOT / "experiments")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    assert ended.value.code == 0


def test_the_settings_that_readme_shows_are_accepted():
    from raykd.cli.experiment_file import apply_settings, load_experiments

    for words in [*_of("python"), *_of("sbatch")]:
        settings = [value for flag, value in pairwise(words) if flag == "--set"]
        files = [word for word in words if word.startswith("experiments/")]
        if settings:
            assert apply_settings(load_experiments(ROOT / files[0]), settings)


def test_the_example_experiment_is_accepted(tmp_path, capsys):
    path = tmp_path / "tiny.py"
    path.write_text(_example("experiment = Experiment("))
    assert parser.entry(["plan", str(path), "--results", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.count("not started") == 7


def test_the_example_search_is_accepted(tmp_path, capsys):
    path = tmp_path / "wide.py"
    imports = "from dataclasses import replace\nfrom digits import experiment as digits\n"
    data = "data = replace(digits.data, student_images=None)\n"
    experiment = "experiment = replace(digits, search=search, data=data)\n"
    path.write_text(_example("search = Search(") + imports + data + experiment)
    (tmp_path / "digits.py").write_text((ROOT / "experiments" / "digits.py").read_text())
    assert parser.entry(["plan", str(path), "--results", str(tmp_path / "results")]) == 0
    planned = capsys.readouterr().out
    assert "32 trials over method.temperature, student.optimizer.lr, student.model.width" in planned
    assert "with the experiment's seeds, and baselines with the winner's student recipe" in planned


def _example(part: str) -> str:
    """The one block of Python in the README with `part` in it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    (found,) = (block for block in blocks if part in block)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(document):
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target
