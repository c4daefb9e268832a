"""The best settings of a search trained again with seeds that no trial has seen, beside the experiment's own setting.

A search picks the luckiest of its trials as readily as the best. So its first few are trained with the experiment's
seeds, and the winner is the one whose mean is best there; its gain over the experiment's own setting and over the
baseline is paired by seed. All of it is of validation; the test set is read once, for the winner.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from raykd.atomic import write_json
from raykd.experiment import Experiment
from raykd.orchestration.lab import Options, bring_to_end, plan_of, raise_for
from raykd.orchestration.progress import plural, say
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
    experiment: Experiment,
    settings: Search,
    options: Options,
    folder: SearchFolder,
    best: Sequence[Trial],
    table: WantedTable | None,
    console: Console,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Train the first of `best` with the experiment's seeds, and give the winner's setting.

    Raises Interrupted when a signal said so, RunFailed when a run fails.
    """
    if not settings.confirm:
        return dict(best[0].setting)
    own = folder.record()["own"]
    found = {trial.number: dict(trial.setting) for trial in best if dict(trial.setting) != own}
    asked: list[tuple[int | None, dict[str, Any]]] = [(None, own), *list(found.items())[: settings.confirm]]
    candidates = [Candidate(setting, trial, _runs(experiment, setting, options)) for trial, setting in asked]
    distilled = [run for candidate in candidates for run in candidate.runs]
    baselines = _runs(experiment, own, options, "baseline")
    runs = list({run.name: run for run in (*baselines, *distilled)}.values())
    seeds = plural(len(experiment.seeds), "seed")
    say(console, f"{plural(len(candidates) - 1, 'setting')} and the experiment's own are confirmed with {seeds}")
    tables = [table] if table else []
    raise_for(bring_to_end(runs, tables, experiment.workers, options, console, should_stop, tests=False))
    return _settle(experiment, settings, candidates, baselines, RunStore(options.results), folder, console)


def _settle(
    experiment: Experiment,
    settings: Search,
    candidates: Sequence[Candidate],
    baselines: Sequence[Run],
    store: RunStore,
    folder: SearchFolder,
    console: Console,
) -> dict[str, Any]:
    """Write confirmed.json, and give the winner's setting."""
    metric = metric_of(settings)

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
        folder.confirmed,
        {
            "metric": metric,
            "asked": settings.confirm,
            "trials": num_ended(folder.trials()),
            "seeds": list(experiment.seeds),
            "candidates": rows,
            "baseline": {"runs": [run.name for run in baselines], "values": values(baselines)},
            "winner": winner,
        },
    )
    who = "the experiment's own setting" if rows[winner]["trial"] is None else f"trial {rows[winner]['trial']}"
    say(console, f"confirmed: {who}, {words(rows[winner]['setting'])}")
    return rows[winner]["setting"]


def is_confirmed(folder: SearchFolder, experiment: Experiment, settings: Search) -> bool:
    """Whether nothing is left to train for `confirm`."""
    if not settings.confirm:
        return True
    found = read_json(folder.confirmed)
    wanted = {"asked": settings.confirm, "seeds": list(experiment.seeds), "trials": num_ended(folder.trials())}
    if any(found.get(name) != value for name, value in wanted.items()):
        return False
    names = [name for row in (*found["candidates"], found["baseline"]) for name in row["runs"]]
    return all(RunFolder(folder.path.parent / name).status() == "done" for name in names)


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
