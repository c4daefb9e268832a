"""How a search draws its settings: Optuna's samplers, each trial from a generator of its own."""

from typing import Any, Literal
from zlib import crc32

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

from raykd.errors import ConfigError
from raykd.search import Choice, Integer, Space, Uniform


class SeededByTrial(BaseSampler):
    """Draws each trial from a generator of its own, named by seed, trial number and, where drawn apart, field.

    A sampler's own generator moves with every draw, and begins again with every process: a search that is taken up
    would draw its first settings a second time. So a draw depends on its name and on what is known, and on no draw
    before it.
    """

    def __init__(self, name: Literal["tpe", "random", "grid"], seed: int) -> None:
        self._name, self._seed = name, seed
        self._sampler = self._make(0)
        self._shared = IntersectionSearchSpace()  # keeps count of the trials that it has looked at

    def _make(self, number: int, field: str = "") -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, number, crc32(field.encode())]).generate_state(1)[0])
        if self._name == "tpe":  # constant_liar: trials that run side by side keep away from each other
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler = self._make(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Fields that are drawn together: TPE's, where it has one metric to relate them to."""
        if self._name != "tpe" or len(study.directions) > 1:
            return {}
        return {name: space for name, space in self._shared.calculate(study).items() if not space.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        apart = self._make(trial.number, param_name)
        return apart.sample_independent(study, trial, param_name, param_distribution)


def draw(trial: optuna.Trial, path: str, space: Space) -> Any:
    """A value for `path`: the one that the trial has already, or a new one, which is in the journal then."""
    match space:
        case Uniform(low, high, log):
            return trial.suggest_float(path, low, high, log=log)
        case Integer(low, high, log):
            return trial.suggest_int(path, low, high, log=log)
        case Choice(values):
            return trial.suggest_categorical(path, values)
    raise ConfigError(f"a search cannot draw from {space.title()}")
