"""Whether all that a search may draw can be trained: asked before Ray starts, without trying every setting.

    ends      each field by itself, at the ends of its space: sizes, images, batches
    methods   each value of `method` with those of its fields that decide shapes; a field of type float decides none
    students  each model with its fields, each optimizer, each schedule
    pairs     each of the methods with each model that is among the students: do they go together, under the teacher?

Fields that are in none of these stand at the first end of their space, so that a method or an optimizer which has no
such field is found. Every network is made once.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from operator import attrgetter
from typing import Any

from raykd.config import Config
from raykd.data.types import Dataset
from raykd.errors import ConfigError
from raykd.orchestration.options import Options
from raykd.orchestration.run_experiments import checked_plan
from raykd.orchestration.search_identity import identity_of, require_same
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Plan
from raykd.spec.search import Space
from raykd.store.study import SearchFolder
from raykd.training.networks import Networks

MAX_TRIED = 2_000  # combinations of fields that decide shapes
Setting = dict[str, Any]


def check_search(experiment: Experiment, plan: Plan, dataset: Dataset, options: Options) -> dict[str, Any]:
    """The identity of the experiment's search. Raises ConfigError where it cannot start; --plan refuses the same.

    A search that was started before resumes without a check of its space: what cannot be trained is a failed trial.
    """
    assert experiment.search is not None
    folder = SearchFolder(options.results / experiment.family / experiment.search.name)
    identity = identity_of(experiment, plan, dataset)
    require_same(folder, identity)
    if folder.record() is None:
        check_space(experiment, plan, dataset, options)
    return identity


def check_space(experiment: Experiment, plan: Plan, dataset: Dataset, options: Options) -> None:
    """Raise ConfigError where the experiment's search can draw what cannot be trained on these images.

    plan: of the experiment, with its teachers.
    """
    assert experiment.search is not None
    space, networks = experiment.search.space, Networks(dataset)
    students = replace(options, stages=("baseline",))  # teachers are the same in all
    for whose in ("method", "student"):
        _tried(experiment, space, whose)  # a space that is too large is refused before the first network is built
    for path, values in space.items():
        for value in values.probe_values:
            try:
                checked_plan(experiment.with_setting({path: value}), dataset, students, networks)
            except ConfigError as error:
                raise ConfigError(f"search.space: {path} in {values} cannot be {value}: {error}") from None
    taught = next(run for run in plan.runs if run.stage == "distilled")
    methods = _distinct(experiment, space, "method", attrgetter("method"))
    models = _distinct(experiment, space, "student", attrgetter("student.model"))
    for method, model in product(methods, models):
        setting = {path: (method | model)[path] for path in space}
        try:
            made = experiment.with_setting(setting)
            (student, *_) = checked_plan(made, dataset, students, networks).runs
            run = replace(student, stage="distilled", method=made.method, teacher=taught.teacher)
            networks.require_method_fits(run)
        except ConfigError as error:
            raise _refusal(experiment, setting, error) from None


def _distinct(
    experiment: Experiment, space: Mapping[str, Space], whose: str, made: Callable[[Experiment], Hashable]
) -> list[Setting]:
    """Settings of the fields below `whose`, one for each that `made` finds in them; in the order of the space."""
    tried = _tried(experiment, space, whose)
    found: dict[Hashable, Setting] = {}
    for values in product(*tried.values()):
        setting = dict(zip(tried, values, strict=True))
        try:
            found.setdefault(made(experiment.with_setting(setting)), setting)
        except ConfigError as error:
            raise _refusal(experiment, setting, error) from None
    return list(found.values())


def _tried(experiment: Experiment, space: Mapping[str, Space], whose: str) -> Mapping[str, Sequence[Any]]:
    """The values of each field below `whose` that are tried with all others: of most fields the first alone.

    Raises ConfigError where they make more combinations than can be checked.
    """
    ends = {path: values.probe_values for path, values in space.items() if path.split(".")[0] == whose}
    tried = {path: values if _decides(experiment, path, values[0]) else values[:1] for path, values in ends.items()}
    if (count := prod(map(len, tried.values()))) > MAX_TRIED:
        several = ", ".join(path for path, values in tried.items() if len(values) > 1)
        raise ConfigError(
            f"search.space: {several} make {count:,} combinations, and each is checked before the search; at most "
            f"{MAX_TRIED:,} can be: list fewer values, or use integer(low, high)"
        )
    return tried


def _decides(experiment: Experiment, path: str, value: object) -> bool:
    """Whether the field decides which others there are, or a network's or an adapter's shapes."""
    found = attrgetter(path)(experiment.with_setting({path: value}))
    if isinstance(found, Config) or path.startswith("student.model."):
        return True
    return path.startswith("method.") and not isinstance(found, float)


def _refusal(experiment: Experiment, setting: Setting, error: ConfigError) -> ConfigError:
    """In one line, with the fields that decide."""
    named = [f"{path} {value}" for path, value in setting.items() if _decides(experiment, path, value)]
    together = " with ".join(named) or ", ".join(setting)
    return ConfigError(f"search.space: {together} cannot be trained: {error}; leave one of its values out of the space")
