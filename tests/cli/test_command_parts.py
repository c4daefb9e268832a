"""The report's command for the winner of a search runs, and trains the winner as the search configured it."""

import shlex
import sys
from pathlib import Path

import pytest

from raykd import KD
from raykd.cli import parser
from raykd.orchestration.options import Options
from raykd.orchestration.run_experiments import plan_of
from raykd.report.search_wording import training_command
from raykd.spec.experiment import Experiment
from raykd.store.records import CandidateRecord, CommandParts, read_plan
from raykd.store.run_store import RunStore

DIGITS = Path(__file__).parents[2] / "experiments" / "digits.py"
SEARCH = """
from dataclasses import replace
from raykd import Search, choice, main, uniform
from digits import experiment as digits
search = Search({"method.alpha": uniform(0, 1), "student.model": choice("resnet8", "resnet18")}, trials=7)
experiment = replace(digits, student=replace(digits.student, model="resnet8"), search=search)
if __name__ == "__main__":
    main(experiment)
"""
SEVERAL = """
from dataclasses import replace
from mine import experiment as one
experiments = (one, replace(one, family="other"))
"""
WINNER = {"method.alpha": 0.40625, "student.model": "resnet8"}
CONFLICTING = ("search.trials=4", "digits.search.confirm=1", "method.alpha=0.9", "student.model=resnet18")


class Started:
    """The experiments of commands, none of which starts Ray."""

    def __init__(self) -> None:
        self.searched: list[tuple[Experiment, Options]] = []
        self.trained: list[tuple[Experiment, Options]] = []

    def parts(self, family: str = "digits") -> CommandParts | None:
        """Write the plan of a family's search, and return what the report reads of its command."""
        ((experiment, options),) = [item for item in self.searched if item[0].family == family]
        RunStore(options.results).write_plan(plan_of(experiment, options)[0], options.command_parts.get(family))
        return read_plan(options.results / family / "plan.json").command_parts


@pytest.fixture
def started(tmp_path: Path, monkeypatch) -> Started:
    """Record what commands in the folder `tmp_path`, with experiments in mine.py and several.py, would start."""
    calls = Started()
    library = "raykd.orchestration.library"
    monkeypatch.setattr(
        f"{library}.search", lambda experiment, options, _: calls.searched.append((experiment, options))
    )
    monkeypatch.setattr(
        f"{library}.run_experiments",
        lambda experiments, options, _: calls.trained.extend((experiment, options) for experiment in experiments),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("digits.py").write_text(DIGITS.read_text())
    Path("mine.py").write_text(SEARCH)
    Path("several.py").write_text(SEVERAL)
    return calls


@pytest.mark.parametrize(
    "command",
    [
        "tune mine.py --trials=8 --results=r",
        "tune mine.py --set=search.trials=4 --set teacher_source=live",
        "run mine.py --set digits.search.trials=4 --results 'a folder'",
        "run mine.py --set=method.alpha=0.9 --set=method.temperature=2 --set 'seeds=0, 1'",
        "run mine.py --set method=feature_kd --set method.distance=cosine --set student.model.width=64",
        "run several.py --set student.epochs=5 --set digits.seeds=3 --set other.student.epochs=6",
        "run several.py --family digits --teacher-source live",
        "distill --experiment mine.py --alpha 0.7 --temperature 3 --feature-distill cosine",
        "train-student --experiment mine.py --model resnet18 --epochs 9",
        f"run mine.py {' '.join(f'--set={setting}' for setting in CONFLICTING)}",
    ],
)
def test_the_command_for_the_winner_of_a_search_trains_its_configuration(command: str, started: Started) -> None:
    assert parser.entry(shlex.split(command)) == 0
    parts = started.parts()
    experiment, options = next(item for item in started.searched if item[0].family == "digits")
    derived = shlex.split(training_command(parts, CandidateRecord(3, WINNER, (), ())))
    assert parser.entry(derived[derived.index("run") :]) == 0
    ((trained, options_of_winner),) = started.trained
    assert trained == experiment.with_configuration(WINNER)
    assert options_of_winner.results == options.results
    assert trained.search is None and isinstance(trained.method, KD) and trained.method.alpha == 0.40625


def test_the_command_of_a_script_keeps_its_python_options(started: Started, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["mine.py", "--set=search.trials=4", "--results", "r"])
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python3", "-u", *sys.argv])
    from mine import experiment  # pyright: ignore[reportMissingImports] - written by the fixture

    with pytest.raises(SystemExit, match="0"):
        parser.main(experiment)
    assert started.parts() == CommandParts(("python", "-u", "mine.py"), ("--results", "r"), {"search.trials": "4"})


@pytest.mark.parametrize("arguments", [["--results", "r"], ["--results", "line\nbreak"]])
def test_a_command_that_is_not_known_exactly_is_not_recorded_in_parts(started: Started, monkeypatch, arguments) -> None:
    monkeypatch.setattr("sys.argv", ["mine.py", *arguments])
    changed_by_other_code = ["pytest"] if arguments[-1] == "r" else sys.argv
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python3", *changed_by_other_code])
    from mine import experiment  # pyright: ignore[reportMissingImports] - written by the fixture

    with pytest.raises(SystemExit, match="0"):
        parser.main(experiment)
    assert started.parts() is None


def test_the_command_for_a_winner_names_the_family_of_the_file(started: Started) -> None:
    assert parser.entry(shlex.split("run several.py --results r --family other --set family=mine")) == 0
    parts = started.parts("mine")
    derived = shlex.split(training_command(parts, CandidateRecord(3, WINNER, (), ())))
    assert parser.entry(derived[derived.index("run") :]) == 0
    ((trained, _),) = started.trained
    assert trained.family == "mine"
