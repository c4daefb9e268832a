"""The commands and examples of docs/search.md work, among them the one that reads a study with plain Optuna."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from search_folders import finished_search

from raykd.cli import parser
from raykd.cli.commands import chosen_experiments
from raykd.cli.experiment_file import load_experiment, load_experiments
from raykd.cli.experiment_parser import parser_of
from raykd.config import to_dict
from raykd.spec.bundled import EXPERIMENTS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "search.md").read_text()


def example(part: str) -> str:
    """Return the only block of Python that contains `part`."""
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.S) if part in block)
    return block


def test_the_example_search_is_accepted(tmp_path, capsys) -> None:
    path = tmp_path / "wide.py"
    imports = "from dataclasses import replace\nfrom digits import experiment as digits\n"
    data = "data = replace(digits.data, student_images=None)\n"
    experiment = "experiment = replace(digits, search=search, data=data)\n"
    path.write_text(example("search = Search(") + imports + data + experiment)
    (tmp_path / "digits.py").write_text((ROOT / "experiments" / "digits.py").read_text())
    assert parser.entry(["plan", str(path), "--results", str(tmp_path / "results")]) == 0
    plan = capsys.readouterr().out
    assert "32 trials over method.temperature, student.optimizer.lr, student.model.width" in plan
    assert "with the experiment's seeds, and baselines with the winner's student recipe" in plan


def test_every_command_parses() -> None:
    """That its files exist is a test of test_documents.py."""
    commands = re.findall(r"^raykd .+$", TEXT, flags=re.M) + re.findall(r"`(raykd [^`]+)`", TEXT)
    assert len(commands) >= 6
    for command in commands:
        parser.make_parser().parse_args(shlex.split(command)[1:])


def test_plain_optuna_reads_a_study_and_leaves_its_journal_unchanged(tmp_path) -> None:
    example_search = finished_search(tmp_path / "ray_results")
    journal = example_search.path / "study.journal"
    before = journal.read_bytes()
    program = example("optuna.load_study(") + "print(len(trials), list(trials['user_attrs_reason'].dropna()))\n"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    best, importances, rows = done.stdout.splitlines()
    trial = example_search.summary().best_trial
    assert best == f"{trial.number} {trial.values[0]} {dict(trial.configuration)}"
    assert "'method.alpha': " in importances
    assert rows.startswith("12 ['NaN in <b>kd</b>")
    assert journal.read_bytes() == before


def test_the_bundled_searches_have_equal_budgets_and_other_seeds_than_the_comparison() -> None:
    experiments = load_experiments(EXPERIMENTS / "tune_methods.py")
    compared = load_experiment(EXPERIMENTS / "compare_methods.py")
    searches = [to_dict(experiment.search) for experiment in experiments]
    assert [search.pop("space").keys() for search in searches] == [
        {"student.optimizer.lr", "student.optimizer.weight_decay"},
        {"method.alpha", "method.temperature"},
        {"method.beta", "method.temperature"},
        {"method.beta", "method.gamma"},
    ]
    assert searches == searches[:1] * 4 and searches[0]["trials"] == 16
    for experiment in experiments:
        assert not {*experiment.seeds} & {*compared.seeds}
        assert (experiment.data, experiment.teacher, experiment.student) == (
            compared.data,
            compared.teacher,
            compared.student,
        )


def test_the_commands_that_tune_every_method_select_its_searches_and_the_comparison() -> None:
    section = TEXT.partition("## Tune every compared method")[2].partition("\n## ")[0].replace("\\\n", "")
    chosen = []
    for command in re.findall(r"^(?:sbatch|python) .+$", section, flags=re.M):
        words = shlex.split(command)
        file = next(word for word in words if word.startswith("experiments/"))
        experiments = load_experiments(ROOT / file)
        arguments = parser_of(experiments, "raykd").parse_args(words[words.index(file) + 1 :])
        chosen.append(chosen_experiments(experiments, arguments)[0])
    assert [[experiment.family for experiment in experiments] for experiments in chosen] == [
        ["tune_baseline"],
        ["tune_kd", "tune_dkd", "tune_dist"],
        ["tuned"],
    ]
    (tuned,) = chosen[-1]
    assert tuned.search is None and [method.kind for method in tuned.methods] == ["kd", "dkd", "dist"]
