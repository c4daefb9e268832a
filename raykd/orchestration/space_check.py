"""Check before Ray starts that everything a search may draw can be trained, without trying every configuration.

    probes    each field separately, at the probe values of its space: sizes, images, batches
    methods   each value of `method` with its fields that determine shapes; fields of type float determine none
    students  each model with its fields, each optimizer, each schedule
    pairs     each of the methods with each of the student models: do they fit together, and the teacher?
    fields    values of each field with values of each other field: can a recipe and a method have both?

For methods, students and pairs, all other fields have the first probe value of their space, so that a method or an
optimizer without such a field is found. Every network is built once.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations, product
from math import prod
from operator import attrgetter
from typing import Any

from raykd.config import Config
from raykd.data.types import Dataset
from raykd.errors import ConfigError
from raykd.orchestration.experiment_plans import checked_plan
from raykd.orchestration.options import Options
from raykd.orchestration.search_identity import identity_of_search, require_same
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import value_at
from raykd.spec.plan import Plan
from raykd.spec.recipe import MultiStep, Recipe
from raykd.spec.search import Search, Space
from raykd.store.study import SearchFolder
from raykd.training.network_checks import NetworkChecks

MAX_TRIED = 2_000  # combinations of fields that determine shapes


def check_search(plan: Plan, dataset: Dataset, options: Options) -> dict[str, Any]:
    """Return the identity of the plan's search. Raises ConfigError if it cannot start; --plan checks the same.

    A resumed search skips the check of its space: a configuration that cannot be trained becomes a failed trial.
    """
    assert plan.experiment.search is not None
    folder = SearchFolder(options.results / plan.experiment.family / plan.experiment.search.name)
    identity = identity_of_search(plan, dataset)
    require_same(folder, identity)
    if folder.record() is None:
        check_space(plan, dataset, options)
    return identity


def early_comparison(search: Search, recipe: Recipe) -> str:
    """Return a warning if ASHA compares trials of different learning rates before these first decay, else ''.

    recipe: of the student, with the default of each field. A large learning rate looks worse than a small one until it
    decays, so ASHA would stop the trials that end best.
    """
    affecting = ("student.optimizer", "student.schedule", "student.batch_size")
    is_affected = any(path.startswith(affecting) for path in search.space)
    if not is_affected or search.scheduler != "asha" or not isinstance(recipe.schedule, MultiStep):
        return ""
    first_decay = recipe.schedule.epochs_of(recipe.epochs)[0]
    rungs = [str(rung) for rung in search.rungs_of(recipe.epochs) if rung <= first_decay]
    later = min(first_decay + max(1, recipe.epochs // 20), recipe.epochs)
    warning = (
        f"ASHA compares trials after epoch {' and '.join(rungs)}, and the learning rate first decays after epoch "
        f"{first_decay}, so trials with a large one may be stopped too early; --set search.grace_epochs={later}, a "
        "cosine schedule or search.scheduler=none avoids this"
    )
    return warning if rungs else ""


def check_space(plan: Plan, dataset: Dataset, options: Options) -> None:
    """Raise ConfigError if the search of `plan.experiment` can draw a configuration that cannot be trained."""
    experiment, checks = plan.experiment, NetworkChecks(dataset)
    assert experiment.search is not None
    space = experiment.search.space
    without_teachers = replace(options, stages=("baseline",))  # the teachers are the same for all configurations
    for part in ("method", "student"):
        _values_to_try(experiment, space, part)  # refuses a space that is too large before any network is built
    for path, values in space.items():
        for value in values.probe_values:
            try:
                checked_plan(experiment.with_configuration({path: value}), dataset, without_teachers, checks)
            except ConfigError as error:
                raise ConfigError(f"search.space: {path} in {values} cannot be {value}: {error}") from None
    teacher = next(run for run in plan.runs if run.stage == "teacher")
    methods = _distinct_configurations(experiment, space, "method", attrgetter("method"))
    models = _distinct_configurations(experiment, space, "student", attrgetter("student.model"))
    for method, model in product(methods, models):
        configuration = {path: (method | model)[path] for path in space}
        try:
            candidate = experiment.with_configuration(configuration)
            (student, *_) = checked_plan(candidate, dataset, without_teachers, checks).runs
            read_teacher = teacher if candidate.method.needs else None
            run = replace(student, stage="distilled", method=candidate.method, teacher=read_teacher)
            checks.require_method_fits(run)
        except ConfigError as error:
            raise _error_of_configuration(experiment, configuration, error) from None
    _require_compatible(experiment, space)


def _require_compatible(experiment: Experiment, space: Mapping[str, Space]) -> None:
    """Raise ConfigError if the experiment cannot have some value of a field, or some values of two fields together.

    This builds no network, so it tries every pair of fields.
    """
    tried = [[{path: value} for value in values.paired_values] for path, values in space.items()]
    pairs = (one | other for some, others in combinations(tried, 2) for one, other in product(some, others))
    for configuration in chain(chain.from_iterable(tried), pairs):
        try:
            experiment.with_configuration(configuration)
        except ConfigError as error:
            raise ConfigError(f"search.space: a trial could have {error}") from None


def _distinct_configurations(
    experiment: Experiment, space: Mapping[str, Space], part: str, key: Callable[[Experiment], Hashable]
) -> list[dict[str, Any]]:
    """Return configurations of the fields below `part`, one for each distinct `key`, in the order of the space."""
    tried = _values_to_try(experiment, space, part)
    configurations: dict[Hashable, dict[str, Any]] = {}
    for values in product(*tried.values()):
        configuration = dict(zip(tried, values, strict=True))
        try:
            configurations.setdefault(key(experiment.with_configuration(configuration)), configuration)
        except ConfigError as error:
            raise _error_of_configuration(experiment, configuration, error) from None
    return list(configurations.values())


def _values_to_try(experiment: Experiment, space: Mapping[str, Space], part: str) -> Mapping[str, Sequence[Any]]:
    """Return the values of each field below `part` that are combined with all others; for most fields only the first.

    Raises ConfigError if there are more combinations than can be checked.
    """
    probes = {path: values.probe_values for path, values in space.items() if path.split(".")[0] == part}
    tried = {
        path: values if _determines_shapes(experiment, path, values[0]) else values[:1]
        for path, values in probes.items()
    }
    if (count := prod(map(len, tried.values()))) > MAX_TRIED:
        several = ", ".join(path for path, values in tried.items() if len(values) > 1)
        raise ConfigError(
            f"search.space: {several} make {count:,} combinations, and each is checked before the search; at most "
            f"{MAX_TRIED:,} can be: list fewer values, or use integer(low, high)"
        )
    return tried


def _determines_shapes(experiment: Experiment, path: str, value: object) -> bool:
    """Return whether the field determines which other fields exist, or the shapes of a network or an adapter."""
    parsed = value_at(experiment.with_configuration({path: value}), path)
    if isinstance(parsed, Config) or path.startswith("student.model."):
        return True
    return path.startswith("method.") and not isinstance(parsed, float)


def _error_of_configuration(experiment: Experiment, configuration: dict[str, Any], error: ConfigError) -> ConfigError:
    """Return an error of one line that names the fields that determine shapes."""
    named = [f"{path} {value}" for path, value in configuration.items() if _determines_shapes(experiment, path, value)]
    together = " with ".join(named) or ", ".join(configuration)
    return ConfigError(f"search.space: {together} cannot be trained: {error}; leave one of its values out of the space")
