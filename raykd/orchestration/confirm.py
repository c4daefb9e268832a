"""The best settings of a search trained again with seeds that no trial has seen, beside the experiment's own setting.

A search picks the luckiest of its trials as readily as the best. So its first few are trained with the experiment's
seeds, and the winner is the one whose mean is best there; its gain over the experiment's own setting and over the
baseline is paired by seed. All of it is of validation; the test set is read once, for the winner.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raykd.atomic import write_json
from raykd.experiment import Experiment
from raykd.messages import plural
from raykd.orchestration.lab import bring_to_end, plan_of, raise_for
from raykd.orchestration.options import Options
from raykd.orchestration.search_command import SearchCommand
from raykd.plan import Run
from raykd.run_folder import RunFolder, read_json
from raykd.runs import RunStore
from raykd.search import Search
from raykd.search_words import words
from raykd.study import SearchFolder, Trial, num_ended
from raykd.teaching import WantedTable


@dataclass(frozen=True)
class Candidate:
    """A setting and its runs, one a seed. trial: which found it; None for the experiment's own."""

    setting: dict[str, Any]
    trial: int | None
    runs: tuple[Run, ...]


def confirm(
    command: SearchCommand, best: Sequence[Trial], table: WantedTable | None, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Train the first of `best` with the experiment's seeds, and give the winner's setting.

    The same workers then evaluate the winner, and its teacher and baselines, on the test set.

    Raises Interrupted when a signal said so, RunFailed when a run fails.
    """
    experiment, options, num_confirmed = command.experiment, command.options, command.settings.confirm
    if not num_confirmed:
        return dict(best[0].setting)
    own = command.own
    found = {trial.number: dict(trial.setting) for trial in best if dict(trial.setting) != own}
    asked: list[tuple[int | None, dict[str, Any]]] = [(None, own), *list(found.items())[:num_confirmed]]
    candidates = [Candidate(setting, trial, _runs(experiment, setting, options)) for trial, setting in asked]
    distilled = [run for candidate in candidates for run in candidate.runs]
    baselines = _runs(experiment, own, options, "baseline")
    runs = list({run.name: run for run in (*baselines, *distilled)}.values())
    seeds = plural(len(experiment.seeds), "seed")
    command.say(f"{plural(len(candidates) - 1, 'setting')} and the experiment's own are confirmed with {seeds}")
    tables = [table] if table else []

    def of_winner() -> Sequence[Run]:
        winner = _settle(command, candidates, baselines)["setting"]
        return plan_of(experiment.with_setting(winner), options)[0].runs

    ended = bring_to_end(runs, tables, experiment.workers, options, command.console, should_stop, of_winner)
    raise_for([status for status in ended if status.job.kind == "train"])  # the lab that follows evaluates again
    winner = _settle(command, candidates, baselines)
    who = "the experiment's own setting" if winner["trial"] is None else f"trial {winner['trial']}"
    command.say(f"confirmed: {who}, {words(winner['setting'])}")
    return winner["setting"]


def _settle(command: SearchCommand, candidates: Sequence[Candidate], baselines: Sequence[Run]) -> dict[str, Any]:
    """Write confirmed.json, and give the winner's row."""
    metric, store = metric_of(command.settings), RunStore(command.options.results)

    def values(runs: Sequence[Run]) -> list[float]:
        return [value_of(store.folder(run), metric) for run in runs]

    rows = [
        {
            "trial": candidate.trial,
            "setting": candidate.setting,
            "runs": [run.name for run in candidate.runs],
            "values": values(candidate.runs),
        }
        for candidate in candidates
    ]
    sign = -1 if metric == "val_loss" else 1
    winner = max(range(len(rows)), key=lambda index: sign * sum(rows[index]["values"]))
    write_json(
        command.folder.confirmed,
        {
            "metric": metric,
            **_asked(command),
            "candidates": rows,
            "baseline": {"runs": [run.name for run in baselines], "values": values(baselines)},
            "winner": winner,
        },
    )
    return rows[winner]


def is_confirmed(command: SearchCommand) -> bool:
    """Whether nothing is left to train for `confirm`."""
    if not command.settings.confirm:
        return True
    found = read_json(command.folder.confirmed)
    if any(found.get(name) != value for name, value in _asked(command).items()):
        return False
    names = [name for row in (*found["candidates"], found["baseline"]) for name in row["runs"]]
    return all(RunFolder(command.folder.path.parent / name).status() == "done" for name in names)


def _asked(command: SearchCommand) -> dict[str, Any]:
    """What a confirmation is of: another number of settings, more trials or other seeds ask for another."""
    return {
        "asked": command.settings.confirm,
        "trials": num_ended(command.folder.trials()),
        "seeds": list(command.experiment.seeds),
    }


def winner_of(folder: SearchFolder) -> dict[str, Any]:
    """The setting that `confirm` found the best, as it was written down."""
    found = read_json(folder.confirmed)
    return found["candidates"][found["winner"]]["setting"]


def metric_of(settings: Search) -> str:
    """What settings are confirmed by: the search's first figure of validation."""
    return next((metric for metric in settings.metrics if metric.startswith("val_")), "val_top1")


def value_of(folder: RunFolder, metric: str) -> float:
    """Of a run that is done: validation top1 in percent, or loss, of the epoch whose weights it kept."""
    best = folder.record()["best"]
    if metric == "val_top1":
        return best["val_top1"]
    return next(row["val_loss"] for row in folder.history() if row["epoch"] == best["epoch"])


def _runs(
    experiment: Experiment, setting: dict[str, Any], options: Options, stage: Any = "distilled"
) -> tuple[Run, ...]:
    plan, _ = plan_of(experiment.with_setting(setting), replace(options, stages=(stage,)))
    return tuple(run for run in plan.runs if run.stage == stage)
