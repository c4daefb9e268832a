"""The report's commands for the winners of searches run, and train the winners as the searches configured them."""

import shlex
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from search_folders import Outcome, make_search

from raykd import KD
from raykd.cli import parser
from raykd.config import to_dict
from raykd.orchestration.experiment_plans import plan_of
from raykd.orchestration.options import Options
from raykd.orchestration.search_identity import identity_of_search
from raykd.report.build import load
from raykd.report.read.search_summary import summarize_searches
from raykd.report.render.page import render_page
from raykd.report.render.terminal import render_text
from raykd.report.render.winners_command import winners_commands
from raykd.report.search_wording import training_command
from raykd.spec.experiment import Experiment
from raykd.store.records import CandidateRecord, CommandParts, read_plan
from raykd.store.run_store import RunStore
from raykd.store.study import SearchTrial

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
OF_METHODS = """
from dataclasses import replace
from raykd import DKD, FitNets, Search, loguniform, main, uniform
from digits import experiment as digits
options = {"trials": 2, "sampler": "random", "scheduler": "none", "confirm": 0}
untuned = replace(digits, seeds=(1, 3))
experiments = (
    replace(untuned, family="one", search=Search({"method.alpha": uniform(0, 1)}, **options)),
    replace(
        untuned,
        family="two",
        method=DKD(beta=3.0, warmup_epochs=1.0),
        search=Search({"method.temperature": loguniform(1, 20)}, **options),
    ),
    replace(
        untuned,
        family="six",
        method=FitNets(stages=(1, 2)),
        search=Search({"method.weight": loguniform(1, 20)}, **options),
    ),
)
if __name__ == "__main__":
    main(*experiments)
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
        f"{library}.search", lambda experiment, command: calls.searched.append((experiment, command.options))
    )
    monkeypatch.setattr(
        f"{library}.run_experiments",
        lambda experiments, command: calls.trained.extend((one, command.options) for one in experiments),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("digits.py").write_text(DIGITS.read_text())
    Path("mine.py").write_text(SEARCH)
    Path("several.py").write_text(SEVERAL)
    Path("methods.py").write_text(OF_METHODS)
    return calls


def finish(experiment: Experiment, options: Options) -> Experiment:
    """Write the search of `experiment` as if it had ended, and return the experiment as its winner has it."""
    assert experiment.search is not None
    plan, dataset = plan_of(experiment, options)
    configured: list[Experiment] = []

    def outcome_of(trial: SearchTrial) -> Outcome:
        configured.append(experiment.with_configuration(trial.configuration))
        (run, *_) = (run for run in plan_of(configured[-1], options)[0].runs if run.stage == "distilled")
        return Outcome("done", values=[50.0 + trial.number], run={"config": to_dict(run)})

    make_search(
        options.results,
        experiment.search,
        outcome_of,
        experiment.default_configuration(experiment.search),
        family=experiment.family,
        identity=identity_of_search(plan, dataset),
        seeds=experiment.seeds,
    )
    return configured[-1]


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


def test_the_command_for_the_winners_of_several_searches_compares_them_with_other_seeds(
    started: Started, capsys
) -> None:
    settings = "--set two.method.ce_weight=0.5 --set six.method.kd_weight=0.5 --set one.method.temperature=2"
    command = f"run methods.py --results r --set student.epochs=5 {settings}"
    assert parser.entry(shlex.split(command)) == 0
    winners = {}
    for experiment, options in started.searched:
        winners[experiment.family] = finish(experiment, options)
        started.parts(experiment.family)
    ((names, derived),) = winners_commands(summarize_searches(Path("r"))).items()
    assert parser.entry(["tune", "show", "--results", "r"]) == 0
    assert names == "one/search, six/search, two/search"
    line = f"\nto compare the winners of {names} with other seeds: {derived}\n"
    assert line in capsys.readouterr().out and line in render_text(report := load("r"))
    assert f'<pre class="name">{derived}</pre>' in unescape(render_page(report).decode())
    words = shlex.split(derived)
    assert parser.entry(words[words.index("run") :]) == 0
    ((trained, options_of_winners),) = started.trained
    compare = (winners["six"].method, winners["two"].method)
    assert trained == replace(winners["one"], family="tuned", seeds=(0, 2, 4, 5, 6), compare=compare)
    assert options_of_winners.results == Path("r")


@pytest.mark.parametrize(
    "other",
    ["two.student.epochs=6", "two.data.val_images=100", "two.teacher_seed=1", "two.method=kd", "two.search=none"],
)
def test_winners_of_searches_that_differ_in_more_than_the_method_are_not_compared(started: Started, other: str) -> None:
    command = f"run methods.py --results r --family one --family two --set {other}"
    if other.endswith("kd"):
        Path("methods.py").write_text(OF_METHODS.replace("method=DKD(beta=3.0, warmup_epochs=1.0),", ""))
        command = "run methods.py --results r --family one --family two"
    assert parser.entry(shlex.split(command)) == 0
    for experiment, options in started.searched:
        finish(experiment, options)
        started.parts(experiment.family)
    assert winners_commands(summarize_searches(Path("r"))) == {}


def test_the_command_for_a_winner_names_the_family_of_the_file(started: Started) -> None:
    assert parser.entry(shlex.split("run several.py --results r --family other --set family=mine")) == 0
    parts = started.parts("mine")
    derived = shlex.split(training_command(parts, CandidateRecord(3, WINNER, (), ())))
    assert parser.entry(derived[derived.index("run") :]) == 0
    ((trained, _),) = started.trained
    assert trained.family == "mine"
