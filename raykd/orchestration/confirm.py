"""Confirm a search: train its best configurations and the default one again, with seeds that no trial has used.

The best trial may be the best by chance. So the first few distinct configurations are trained with the experiment's
seeds, and the winner has the best mean over them. Its gains over the default configuration and over the baseline are
paired by seed. The baseline has the winner's student recipe, since otherwise the gain of a searched learning rate, for
example, would look like one of distillation. All of this uses validation data; the test split is read once, for the
winner.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from raykd.config.codec import is_number, read_record, require_record, write_record
from raykd.disk.damage import damaged
from raykd.errors import Interrupted, RunFailed, plural
from raykd.orchestration.command import SearchCommand
from raykd.orchestration.experiment_plans import plan_of
from raykd.orchestration.options import Options
from raykd.orchestration.run_experiments import raise_for, restore_damaged, run_to_completion
from raykd.orchestration.run_queue import JobStatus, State, names_of
from raykd.orchestration.run_states import RunStates
from raykd.orchestration.runs_left import RunsLeft
from raykd.report.search_wording import configuration_in_words
from raykd.spec.plan import Run
from raykd.spec.search import Search
from raykd.store.records import CandidateRecord, ConfirmationRecord
from raykd.store.run_folder import RunFolder
from raykd.store.study import SearchFolder, SearchTrial, num_ended
from raykd.training.teacher.choose import PlannedCache


@dataclass(frozen=True)
class Candidate:
    """A configuration to confirm, and its runs, one per seed."""

    configuration: dict[str, Any]
    trial: int | None  # the number of the first trial with the configuration; None for the default configuration
    runs: tuple[Run, ...]  # distilled
    baselines: tuple[Run, ...]  # runs of the same student recipe without a teacher


def confirm(
    command: SearchCommand,
    best: Sequence[SearchTrial],
    cache: PlannedCache | None,
    should_stop: Callable[[], bool],
    track: Callable[[Sequence[Run]], None] = lambda runs: None,
) -> dict[str, Any]:
    """Confirm the first distinct configurations of `best` and the default one, and return the winning configuration.

    Each configuration is trained with the experiment's seeds. The same workers then train the baselines of the winner's
    student recipe, unless they were trained before, and evaluate the winner, its teacher and its baselines on the test
    split. `track` receives the runs before they start.

    A configuration that fails by itself (NaN, out of memory) with one of the seeds cannot win. Raises Interrupted after
    a signal, RunFailed if a run fails for another reason or every configuration fails, and DamagedFile if the weights
    of a finished run cannot be restored.
    """
    if not command.search.confirm:
        return dict(best[0].configuration)
    experiment, options = command.experiment, command.options
    candidates = make_candidates(command, best)
    seeds = plural(len(experiment.seeds), "seed")
    command.log(
        f"{plural(len(candidates) - 1, 'configuration')} and the default configuration are confirmed with {seeds}"
    )

    @functools.cache  # it is called only when the candidates' runs have ended, and hashes their weights
    def results() -> list[CandidateRecord]:
        return [_result(command, candidate.trial, candidate.configuration, candidate.runs) for candidate in candidates]

    def runs_of_winner(statuses: Sequence[JobStatus]) -> Sequence[Run]:
        """Return the winner's runs with its baselines and teacher, () while an unfinished run can change the winner."""
        index = None if _unfinished(statuses, options) else _best_index(command, results())
        if index is None:
            return ()
        return plan_of(experiment.with_configuration(candidates[index].configuration), options)[0].runs

    every = {run.name: run for each in candidates for run in (*each.baselines, *each.runs)}
    states = restore_damaged([*every.values()], command)
    baselines = _baselines_to_train(command, candidates, states, results)
    runs = list({run.name: run for run in (*baselines, *(run for each in candidates for run in each.runs))}.values())
    track(runs)
    left = RunsLeft(runs, states, [cache] if cache else [], options.store, runs_of_winner)
    ended = run_to_completion(left, experiment.workers, command, should_stop)
    raise_for(_unfinished(ended, options))
    winner = _write_confirmed(command, candidates, results())
    name = "the default configuration" if winner.trial is None else f"trial {winner.trial}"
    command.log(f"confirmed: {name}, {configuration_in_words(winner.configuration)}")
    return winner.configuration


def make_candidates(command: SearchCommand, best: Sequence[SearchTrial]) -> list[Candidate]:
    """Return the default configuration, then the first `confirm` configurations of `best` with distinct runs.

    Configurations with the same runs are duplicates: 'kd' and 'KD' name one method, and TPE may draw a choice
    repeatedly.
    """
    candidates, seen = [_candidate(command, command.default_configuration, None)], [command.default_configuration]
    for trial in best:
        if len(candidates) > command.search.confirm:
            break
        configuration = dict(trial.configuration)
        if configuration in seen:
            continue
        seen.append(configuration)
        candidate = _candidate(command, configuration, trial.number)
        if all(names_of(candidate.runs) != names_of(other.runs) for other in candidates):
            candidates.append(candidate)
    return candidates


def _candidate(command: SearchCommand, configuration: dict[str, Any], trial: int | None) -> Candidate:
    options = replace(command.options, stages=("baseline", "distilled"))
    runs = plan_of(command.experiment.with_configuration(configuration), options)[0].runs
    distilled, baselines = (tuple(run for run in runs if run.stage == stage) for stage in ("distilled", "baseline"))
    return Candidate(configuration, trial, distilled, baselines)


def _baselines_to_train(
    command: SearchCommand,
    candidates: Sequence[Candidate],
    states: RunStates,
    results: Callable[[], Sequence[CandidateRecord]],
) -> Sequence[Run]:
    """Return baselines to train with the candidates: those that all share, or those of a winner already known.

    Baselines of other recipes are never trained.
    """
    if len({names_of(candidate.baselines) for candidate in candidates}) == 1:
        return candidates[0].baselines
    if not all(run.name in states.trained for candidate in candidates for run in candidate.runs):
        return ()
    index = _best_index(command, results())
    return () if index is None else candidates[index].baselines


def _unfinished(statuses: Iterable[JobStatus], options: Options) -> list[JobStatus]:
    """Return training jobs that were stopped, or that failed for a reason outside of their configuration.

    Failed evaluations are left out, since the experiment that follows evaluates again.
    """
    left = [status for status in statuses if status.job.kind != "evaluate" and status.state is not State.DONE]
    records = [options.store.folder(status.job.run).record() for status in left]
    return [
        status
        for status, record in zip(left, records, strict=True)
        if not (status.state is State.FAILED and record is not None and record.fails_by_configuration)
    ]


def _result(
    command: SearchCommand, trial: int | None, configuration: dict[str, Any], runs: Sequence[Run]
) -> CandidateRecord:
    """Return a record with the metric of each run, or with the reason, and no values, if a run is not done."""
    metric, store, values = metric_of(command.search), command.options.store, []
    for run in runs:
        if (status := store.status(run)) != "done":
            record = store.folder(run).record()
            failure = f"seed {run.seed}: {(record.reason if record else None) or status}"
            return CandidateRecord(trial, configuration, names_of(runs), (), failure)
        values.append(value_of(store.folder(run), metric))
    return CandidateRecord(trial, configuration, names_of(runs), tuple(values), None)


def _best_index(command: SearchCommand, results: Sequence[CandidateRecord]) -> int | None:
    """Return the index of the best mean over the seeds, the first of equal ones; None if all failed."""
    sign = -1 if metric_of(command.search) == "val_loss" else 1
    complete = [index for index, result in enumerate(results) if not result.failed]
    return max(complete, key=lambda index: sign * sum(results[index].values), default=None)


def _write_confirmed(
    command: SearchCommand, candidates: Sequence[Candidate], results: Sequence[CandidateRecord]
) -> Candidate:
    """Write confirmed.json, and return the winner. Raises RunFailed if every candidate failed."""
    index = _best_index(command, results)
    if index is None:
        raise RunFailed(
            f"none of {plural(len(candidates), 'configuration')} could be trained; "
            f"the default configuration failed with: {results[0].failed}"
        )
    winner, store = candidates[index], command.options.store
    if any(store.status(run) not in ("done", "failed") for run in winner.baselines):
        raise Interrupted("stopped before the baselines were trained; rerun the same command to resume")
    recipe = {path: value for path, value in winner.configuration.items() if path.startswith("student.")}
    record = ConfirmationRecord(
        metric=metric_of(command.search),
        num_requested=command.search.confirm,
        num_trials=num_ended(command.folder.trials()),
        seeds=command.experiment.seeds,
        candidates=tuple(results),
        baseline=_result(command, None, recipe, winner.baselines),
        winner=index,
    )
    write_record(command.folder.confirmed, record)
    return winner


def is_confirmed(command: SearchCommand) -> bool:
    """Return whether `confirm` has nothing left to train. Raises DamagedFile for a damaged confirmed.json."""
    search, folder = command.search, command.folder
    if not search.confirm:
        return True
    record = read_record(ConfirmationRecord, folder.confirmed)
    expected = search.confirm, num_ended(folder.trials()), command.experiment.seeds
    if record is None or (record.num_requested, record.num_trials, record.seeds) != expected:
        return False
    records = (*record.candidates, record.baseline)
    names = [name for each in records if not each.failed for name in each.runs]
    return all(RunFolder(folder.path.parent / name).status() == "done" for name in names)


def winner_of(folder: SearchFolder) -> dict[str, Any]:
    """Return the winning configuration from confirmed.json. Raises DamagedFile."""
    record = require_record(ConfirmationRecord, folder.confirmed)
    return dict(record.best_candidate.configuration)


def metric_of(search: Search) -> Literal["val_top1", "val_loss"]:
    """Return the metric by which configurations are confirmed: the search's first validation metric."""
    first = next((metric for metric in search.metrics if metric.startswith("val_")), "val_top1")
    return "val_loss" if first == "val_loss" else "val_top1"


def value_of(folder: RunFolder, metric: str) -> float:
    """Return validation top-1 in percent, or validation loss, at the epoch whose weights a finished run kept."""
    best = folder.require_record().best
    assert best is not None
    if metric == "val_top1":
        assert best.val_top1 is not None  # a search requires validation images
        return best.val_top1
    value = next((row.get("val_loss") for row in folder.history() if row.get("epoch") == best.epoch), None)
    if not is_number(value):
        raise damaged(folder.history_path, f"it has no val_loss of epoch {best.epoch}")
    return value
