"""The best settings of a search trained again with seeds that no trial has seen, beside the experiment's own setting.

A search picks the luckiest of its trials as readily as the best. So its first few distinct settings are trained with
the experiment's seeds, and the winner is the one whose mean is best there. Its gain over the experiment's own setting
and over the baseline is paired by seed. The baseline has the winner's student recipe: otherwise a searched learning
rate, say, would look like a gain of distillation. All of it is of validation; the test set is read once, for the
winner.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raykd.errors import Interrupted, RunFailed, plural
from raykd.orchestration.run_experiments import plan_of, raise_for, run_to_completion
from raykd.orchestration.run_queue import JobStatus, State
from raykd.orchestration.run_states import RunStates
from raykd.orchestration.search_identity import SearchCommand
from raykd.report.search_wording import setting_in_words
from raykd.spec.plan import Run
from raykd.spec.search import Search
from raykd.store.codec import Fields, is_number, write_record
from raykd.store.damage import damaged
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder, Trial, num_ended
from raykd.training.failure import is_configuration_failure
from raykd.training.teacher.choose import PlannedCache


@dataclass(frozen=True)
class Candidate:
    """A setting to confirm. trial: the first that found it; None for the experiment's own.

    runs: its distilled runs, one a seed. baselines: the same student recipe without a teacher, one a seed.
    """

    setting: dict[str, Any]
    trial: int | None
    runs: tuple[Run, ...]
    baselines: tuple[Run, ...]


def confirm(
    command: SearchCommand, best: Sequence[Trial], cache: PlannedCache | None, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Train the first distinct settings of `best` with the experiment's seeds, and return the winner's setting.

    The same workers then train the baselines of the winner's student recipe, where these were not known before, and
    evaluate the winner, its teacher and its baselines on the test set.

    A setting that fails for its own cause (NaN, out of memory) with one of the seeds cannot win.
    Raises Interrupted when a signal said so; RunFailed when a run fails for another cause, or every setting failed.
    """
    if not command.settings.confirm:
        return dict(best[0].setting)
    experiment, options, store = command.experiment, command.options, RunStore(command.options.results)
    candidates = candidates_of(command, best)
    distilled = [run for candidate in candidates for run in candidate.runs]
    known = _known_baselines(candidates, command)
    seeds = plural(len(experiment.seeds), "seed")
    command.log(f"{plural(len(candidates) - 1, 'setting')} and the experiment's own are confirmed with {seeds}")

    def last_runs(statuses: Sequence[JobStatus]) -> Sequence[Run]:
        """The winner's runs with its baselines and its teacher, once no other failure can change the winner."""
        if _unexplained(statuses, store):
            return ()
        winner = _winner(candidates, command)
        return () if winner is None else plan_of(experiment.with_setting(winner.setting), options)[0].runs

    runs = list({run.name: run for run in (*known, *distilled)}.values())
    states, caches = RunStates.read(runs, store), [cache] if cache else []
    ended = run_to_completion(
        runs, states, caches, experiment.workers, options, command.console, should_stop, last_runs
    )
    raise_for(_unexplained(ended, store))
    row = _write(command, candidates)
    who = "the experiment's own setting" if row["trial"] is None else f"trial {row['trial']}"
    command.log(f"confirmed: {who}, {setting_in_words(row['setting'])}")
    return row["setting"]


def candidates_of(command: SearchCommand, best: Sequence[Trial]) -> list[Candidate]:
    """The experiment's own setting, then the first `confirm` settings of `best` that train other runs.

    Two settings are the same where their runs are: 'kd' and 'KD' name one method, and TPE draws a choice repeatedly.
    """
    found, seen = [_candidate(command, command.own, None)], [command.own]
    for trial in best:
        if len(found) > command.settings.confirm:
            break
        setting = dict(trial.setting)
        if setting in seen:
            continue
        seen.append(setting)
        candidate = _candidate(command, setting, trial.number)
        if all(_names(candidate.runs) != _names(other.runs) for other in found):
            found.append(candidate)
    return found


def _candidate(command: SearchCommand, setting: dict[str, Any], trial: int | None) -> Candidate:
    options = replace(command.options, stages=("baseline", "distilled"))
    plan, _ = plan_of(command.experiment.with_setting(setting), options)
    distilled, baselines = (
        tuple(run for run in plan.runs if run.stage == stage) for stage in ("distilled", "baseline")
    )
    return Candidate(setting, trial, distilled, baselines)


def _names(runs: Sequence[Run]) -> list[str]:
    """The runs' names, which hold their fingerprints: runs of one name are one run."""
    return [run.name for run in runs]


def _known_baselines(candidates: Sequence[Candidate], command: SearchCommand) -> Sequence[Run]:
    """Baselines that can be trained beside the candidates: of the recipe that all share, or of a winner that is known.

    Those of the other recipes are never trained.
    """
    first, *others = candidates
    if all(_names(other.baselines) == _names(first.baselines) for other in others):
        return first.baselines
    store = RunStore(command.options.results)
    if any(store.status(run) != "done" for candidate in candidates for run in candidate.runs):
        return ()
    winner = _winner(candidates, command)
    return () if winner is None else winner.baselines


def _unexplained(statuses: Iterable[JobStatus], store: RunStore) -> list[JobStatus]:
    """Training that did not end: for a cause outside of the run's configuration, or because it was stopped.

    Evaluations that failed are left out: the experiment that follows evaluates again.
    """
    return [
        status
        for status in statuses
        if status.job.kind != "evaluate" and status.state is not State.DONE
        if status.state is not State.FAILED or not is_configuration_failure(store.folder(status.job.run).record())
    ]


def _winner(candidates: Sequence[Candidate], command: SearchCommand) -> Candidate | None:
    """The candidate whose mean over the seeds is best, the first of equal ones; None where all failed."""
    metric, store = metric_of(command.settings), RunStore(command.options.results)
    whole = [candidate for candidate in candidates if not _failure(candidate.runs, store)]
    sign = -1 if metric == "val_loss" else 1

    def total(candidate: Candidate) -> float:
        return sign * sum(value_of(store.folder(run), metric) for run in candidate.runs)

    return max(whole, key=total, default=None)


def _failure(runs: Sequence[Run], store: RunStore) -> str:
    """Why the first of `runs` that is not done is not, with its seed; '' where all are done."""
    for run in runs:
        if (status := store.status(run)) != "done":
            return f"seed {run.seed}: {store.folder(run).record().get('reason') or status}"
    return ""


def _write(command: SearchCommand, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Write confirmed.json, and return the winner's row. Raises RunFailed where every candidate failed."""
    metric, store = metric_of(command.settings), RunStore(command.options.results)
    winner = _winner(candidates, command)
    if winner is None:
        reason = _failure(candidates[0].runs, store)
        raise RunFailed(
            f"none of {plural(len(candidates), 'setting')} could be trained; the experiment's own: {reason}"
        )
    if any(store.status(run) not in ("done", "failed") for run in winner.baselines):
        raise Interrupted("stopped before the baselines were trained; rerun the same command to resume")

    def row(runs: Sequence[Run]) -> dict[str, Any]:
        failed = _failure(runs, store)
        values = [] if failed else [value_of(store.folder(run), metric) for run in runs]
        return {"runs": _names(runs), "values": values, "failed": failed or None}

    rows = [{"trial": candidate.trial, "setting": candidate.setting, **row(candidate.runs)} for candidate in candidates]
    recipe = {path: value for path, value in winner.setting.items() if path.startswith("student.")}
    index = candidates.index(winner)
    confirmed = {
        "metric": metric,
        **_asked(command),
        "candidates": rows,
        "baseline": {"setting": recipe, **row(winner.baselines)},
        "winner": index,
    }
    write_record(command.folder.confirmed, confirmed)
    return rows[index]


def is_confirmed(command: SearchCommand) -> bool:
    """Whether nothing is left to train for `confirm`. Raises ConfigError where confirmed.json is damaged."""
    if not command.settings.confirm:
        return True
    found = Fields.read_if_exists(command.folder.confirmed)
    if found is None or any(found.values.get(name) != value for name, value in _asked(command).items()):
        return False
    rows = [row for row in (*found.parts("candidates"), found.part("baseline")) if not row.optional_text("failed")]
    names = [name for row in rows for name in row.texts("runs")]
    return all(RunFolder(command.folder.path.parent / name).status() == "done" for name in names)


def _asked(command: SearchCommand) -> dict[str, Any]:
    """What a confirmation is of: another number of settings, more trials or other seeds ask for another."""
    return {
        "asked": command.settings.confirm,
        "trials": num_ended(command.folder.trials()),
        "seeds": list(command.experiment.seeds),
    }


def winner_of(folder: SearchFolder) -> dict[str, Any]:
    """Return the setting that `confirm` found the best, as confirmed.json has it. Raises DamagedFile."""
    found = Fields.read(folder.confirmed)
    candidates, winner = found.parts("candidates"), found.count("winner")
    if winner >= len(candidates):
        found.refuse(f"winner is {winner}, and there are {len(candidates)} candidates")
    return dict(candidates[winner].mapping("setting"))


def metric_of(settings: Search) -> str:
    """What settings are confirmed by: the search's first figure of validation."""
    return next((metric for metric in settings.metrics if metric.startswith("val_")), "val_top1")


def value_of(folder: RunFolder, metric: str) -> float:
    """Of a run that is done: validation top1 in percent, or loss, of the epoch whose weights it kept."""
    best = folder.fields().part("best")
    if metric == "val_top1":
        return best.number("val_top1")
    epoch = best.count("epoch")
    found = next((row.get("val_loss") for row in folder.history() if row.get("epoch") == epoch), None)
    if not is_number(found):
        raise damaged(folder.path / "history.parquet", f"it has no val_loss of epoch {epoch}")
    return found
