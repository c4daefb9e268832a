"""How each compared method and the baseline were tuned: by which searches of the results folder, with how many trials.

A search tuned a method if the method's runs have the hyperparameters of the search's winner, and the searched fields of
the recipe, on the same data. A search over the recipe of KD with alpha 1, which trains on the labels alone, tuned the
baseline if the baselines have the winner's values. Searches of all families count, since each method has its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from raykd.errors import flattened, plural
from raykd.report.read.provenance import distilled_runs
from raykd.report.read.run_results import Family, RunResult
from raykd.report.read.search_results import SearchSummary
from raykd.spec.set_paths import settings_of
from raykd.spec.stages import Stage
from raykd.store.run_differences import differing_fields

THE_BASELINE = "the baseline"
ROUNDING = 0.005  # a user may type the winner's values with three digits
_OF_STUDENT = ("data", "data_identity", "recipe", "initial")  # of a configuration: what baselines have too


@dataclass(frozen=True)
class Tuning:
    """How one compared method, or the baseline, was tuned. num_trials: the ended trials of `searches`, 0 without any.

    num_epochs: the epochs that these searches trained in all, fewer if they pruned trials. fields: those searched.
    searches: as 'family/name'. differing: other fields in which the winner's trial differs from the compared runs.
    unused: searches of the method whose winner has other values than the runs. seeds: those of the compared runs that
    also selected the values.
    """

    name: str
    num_trials: int = 0
    num_epochs: int = 0
    searches: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


def tunings_of(family: Family, searches: Iterable[SearchSummary]) -> tuple[Tuning, ...]:
    """Return the tuning of each compared method whose runs have started, then of the baseline; () if none is compared.

    searches: all of the results folder.
    """
    if not family.compared:
        return ()
    configs = {name: config for name, runs in family.compared.items() if (config := _config_of(runs))}
    kinds = [config["method"]["kind"] for config in configs.values()]
    of_baseline, of_methods = [], []
    for search in searches:
        if _has_method(search.winner_config):
            (of_baseline if tunes_baseline(search) else of_methods).append((search, search.winner_config))
    tunings = []
    for name, config in configs.items():
        kind = config["method"]["kind"]
        same = [(search, winner) for search, winner in of_methods if winner["method"]["kind"] == kind]
        tunings.append(_tuning(flattened(name), family.compared[name], config, same, kinds.count(kind) == 1))
    if config := _config_of(family.stage("baseline")):
        same = [(search, config | {name: winner.get(name) for name in _OF_STUDENT}) for search, winner in of_baseline]
        tunings.append(_tuning(THE_BASELINE, family.stage("baseline"), config, same, is_only=True))
    return tuple(tunings)


def tunes_baseline(search: SearchSummary) -> bool:
    """Return whether the search has only fields of the student's recipe, with KD on the labels alone."""
    method = search.winner_config.get("method")
    is_of_labels = isinstance(method, Mapping) and method.get("kind") == "kd" and method.get("alpha") == 1
    return is_of_labels and all(path.startswith("student.") for path in search.search.space)


def warnings_of_tuning(tunings: Sequence[Tuning]) -> list[str]:
    """Return a warning if methods were tuned with different numbers of trials, and one about seeds that selected."""
    names: dict[int, list[str]] = {}
    for tuning in tunings:
        names.setdefault(tuning.num_trials, []).append(tuning.name)
    lines = []
    if len(names) > 1:
        parts = (f"{plural(count, 'trial') if count else 'none'} for {', '.join(of)}" for count, of in names.items())
        lines.append(f"searches in this results folder had different numbers of trials: {'; '.join(parts)}")
    if seeds := sorted({seed for tuning in tunings for seed in tuning.seeds}):
        selected = ", ".join(tuning.name for tuning in tunings if tuning.seeds)
        listed = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
        lines.append(
            f"a search of another family selected the hyperparameters of {selected} with {listed} too, which favors "
            "these; compare with other seeds (--set seeds=...)"
        )
    return lines


def warnings_of_selection(family: Family, searches: Iterable[SearchSummary]) -> list[str]:
    """Return a warning for each distilled configuration that was selected with the same seeds that its gain uses."""
    return [
        f"the {name} configuration was selected from {len(confirmation.candidates)} by validation with these same "
        f"seeds (search {search.name}), which the gain's interval does not account for"
        for search in searches
        if search.family == family.name and (confirmation := search.confirmation) is not None
        if len(confirmation.candidates) > 1
        for name, runs in distilled_runs(family).items()
        if {run.name for run in runs} & {*confirmation.best_candidate.runs}
    ]


def _config_of(runs: Sequence[RunResult]) -> dict[str, Any]:
    """Return the recorded configuration of the first run that has started; {} without one."""
    return next((dict(run.record.config) for run in runs if run.record and _has_method(run.record.config)), {})


def _has_method(config: Mapping[str, Any]) -> bool:
    method = config.get("method")
    return isinstance(method, Mapping) and isinstance(method.get("kind"), str)


def _tuning(
    name: str,
    runs: Sequence[RunResult],
    config: Mapping[str, Any],
    same: Sequence[tuple[SearchSummary, Mapping[str, Any]]],
    is_only: bool,
) -> Tuning:
    """Return the tuning of `runs`, all with `config` but for the seed.

    same: the searches of their method, with the winner's configuration. is_only: whether no other compared method has
    this method's kind, so that all trials of searches like the winner's count.
    """
    found = []  # (search, fields that it tuned and that differ from the winner's, other fields that differ)
    for search, winner in same:
        if config.get("data_identity") == winner.get("data_identity"):
            differing = _differing(config, winner)
            tuned = {path for path in differing if _is_tuned(path, search)}
            found.append((search, tuned, [path for path in differing if path not in tuned]))
    used = [(search, others) for search, tuned, others in found if not tuned]
    if not used:
        return Tuning(name, unused=tuple(search.full_name for search, _, others in found if not others))
    _, best_others = min(used, key=lambda pair: len(pair[1]))
    counted = [search for search, tuned, others in found if {*others} <= {*best_others} and (is_only or not tuned)]
    selecting = {seed for search, _ in used for seed in _selecting_seeds(search, runs)}
    return Tuning(
        name,
        sum(search.num_ended for search in counted),
        sum(search.cost.epochs_trained for search in counted),
        tuple(search.full_name for search in counted),
        tuple(dict.fromkeys(path for search in counted for path in search.search.space)),
        tuple(best_others),
        seeds=tuple(sorted(selecting & {run.seed for run in runs if run.seed is not None})),
    )


def _differing(config: Mapping[str, Any], winner: Mapping[str, Any]) -> list[str]:
    """Return the fields of student, method, teacher and data with different values, by the paths of --set."""
    stage: Stage = "distilled"  # of a baseline too: without a teacher, the paths are the same
    one, other = settings_of(config, stage), settings_of(winner, stage)
    changed = differing_fields(config, stage, [winner])
    return [path for path in changed if not _is_close(one.get(path, ""), other.get(path, ""))]


def _is_tuned(path: str, search: SearchSummary) -> bool:
    """Return whether the field is one of the method, or was searched."""
    return any(path == name or path.startswith(f"{name}.") for name in ("method", *search.search.space))


def _is_close(value: str, other: str) -> bool:
    """Return whether both numbers are equal up to ROUNDING. Integers, such as epochs and seeds, are exact."""
    if value.isdecimal() and other.isdecimal():
        return False
    try:
        return isclose(float(value), float(other), rel_tol=ROUNDING)
    except ValueError:
        return False


def _selecting_seeds(search: SearchSummary, runs: Sequence[RunResult]) -> tuple[int, ...]:
    """Return the seeds of the trials and of the confirmation; () for a search of the runs' own family.

    There, runs with these seeds are those that confirmed the configuration, and another warning names them.
    """
    if any(run.record and run.record.family == search.family for run in runs):
        return ()
    return (search.search.trial_seed, *(search.confirmation.seeds if search.confirmation else ()))
