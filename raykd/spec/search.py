"""A hyperparameter search: the fields and their values, the number of trials, the metric.

Search(space={"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)}, trials=32)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import ceil, log, prod
from typing import Annotated, ClassVar, Literal

from raykd.config import Config, Interval, MaxLength, PositiveInt, Seed, not_fingerprinted
from raykd.errors import did_you_mean

# Metrics of a trial and their better direction. All come from validation or the model, never from the test split.
METRICS: dict[str, Literal["max", "min"]] = {
    "val_top1": "max",  # percent, of the best epoch so far, whose weights are kept
    "val_loss": "min",  # nats, of that epoch
    "parameters": "min",
    "latency_ms": "min",  # latency of the student for one image, on the trial's device
}
SEARCHABLE = ("method", "student")  # first parts of the paths that a search can vary
MAX_GRID = 10_000
MAX_TRIALS = 100_000
MAX_FIELDS = 100
PAIRED = 8  # values of a field that are combined with those of other fields before a search


@dataclass(frozen=True)
class Space(Config):
    """The values that one field may take."""

    @property
    def probe_values(self) -> tuple[str | int | float | bool, ...]:
        """Values to check: if the field accepts these, it accepts the whole space."""
        raise NotImplementedError

    @property
    def paired_values(self) -> tuple[str | int | float | bool, ...]:
        """A few values to combine with those of each other field, since two fields may exclude each other."""
        return _thinned(self.probe_values)

    @property
    def points(self) -> Sequence[str | int | float | bool] | None:
        """All values, without storing them; None if there are infinitely many."""
        return None

    def holds(self, value: object) -> bool:
        """Return whether a trial could draw `value`."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Range(Space):
    """All values from `low` to `high`, both included."""

    low: float = 0.0
    high: float = 1.0
    log: bool = False  # uniform in the logarithm; requires low above 0

    def check(self) -> None:
        self.require(self.low < self.high, "high", f"must exceed low = {self.low}")
        self.require(not self.log or self.low > 0, "low", "must be above 0 on a log scale")

    @property
    def probe_values(self) -> tuple[float, ...]:
        return self.low, self.high


@dataclass(frozen=True)
class Uniform(_Range):
    """A number from low to high."""

    kind: ClassVar[str] = "uniform"

    def holds(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{'log' if self.log else ''}uniform({self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class Integer(_Range):
    """An integer from low to high."""

    kind: ClassVar[str] = "integer"
    low: int = 0
    high: int = 1

    @property
    def paired_values(self) -> tuple[str | int | float | bool, ...]:
        """All integers if they are few, else some with neighbors: a field may have to divide another."""
        return _thinned(self.points)

    @property
    def points(self) -> range:
        return range(self.low, self.high + 1)

    def holds(self, value: object) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"integer({self.low}, {self.high}{', log' if self.log else ''})"


@dataclass(frozen=True)
class Choice(Space):
    """One of `values`: numbers, or text as in `--set`."""

    kind: ClassVar[str] = "choice"
    values: Annotated[tuple[str | int | float | bool, ...], MaxLength(1000)] = ()

    def check(self) -> None:
        self.require(len(self.values) >= 1, "values", "must have at least one value")
        self.require(len(set(map(str, self.values))) == len(self.values), "values", "repeats a value")

    @property
    def probe_values(self) -> tuple[str | int | float | bool, ...]:
        return self.values

    @property
    def points(self) -> tuple[str | int | float | bool, ...]:
        return self.values

    def holds(self, value: object) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return f"choice({', '.join(map(str, self.values))})"


def _thinned(values: Sequence[str | int | float | bool]) -> tuple[str | int | float | bool, ...]:
    """Return all values if they are few, else PAIRED of them or fewer, with the first and the last two."""
    if len(values) <= PAIRED:
        return tuple(values)
    inner = values[2:-2]
    return (*values[:2], *inner[:: ceil(len(inner) / (PAIRED - 4))], *values[-2:])


def uniform(low: float, high: float) -> Uniform:
    """Search a field between low and high."""
    return Uniform(low, high)


def loguniform(low: float, high: float) -> Uniform:
    """Search a field between low and high on a log scale."""
    return Uniform(low, high, log=True)


def integer(low: int, high: int, log: bool = False) -> Integer:
    """Search a field over the integers from low to high; log: on a log scale."""
    return Integer(low, high, log)


def choice(*values: str | int | float | bool) -> Choice:
    """Search a field over these values."""
    return Choice(values)


@dataclass(frozen=True)
class Search(Config):
    """A search over fields of the distilled student and its method. Validation selects, never the test split.

    Every trial trains with `trial_seed`: the same initial weights, and the same views in the same order, so trials
    differ in their configurations alone. The best `confirm` configurations and the experiment's default are then
    trained with the experiment's seeds, which no trial has used.
    """

    kind: ClassVar[str] = "search"
    space: Mapping[str, Space] = field(default_factory=dict)  # values by dotted path: 'method.alpha', 'student.epochs'
    trials: Annotated[int, Interval(f"[1, {MAX_TRIALS}]")] = not_fingerprinted(16)  # configurations to try
    # val_top1, val_loss, parameters or latency_ms; with several, the search returns the Pareto front
    metric: str | tuple[str, ...] = "val_top1"
    mode: str | tuple[str, ...] | None = None  # 'max' or 'min' of each metric; None for the metric's direction
    sampler: Literal["tpe", "random", "grid"] = "tpe"  # selects the configurations to try
    scheduler: Literal["asha", "median", "none"] = "asha"  # stops poor trials early
    grace_epochs: PositiveInt | None = None  # epochs before which no trial is stopped; None: a tenth of the student's
    reduction_factor: Annotated[int, Interval("[2, inf)")] = 3  # ASHA continues one trial in so many at each rung
    seed: Seed = 0  # seed of the sampler
    trial_seed: Seed = 1000  # seed of the trials' training; must not be one of the experiment's seeds
    confirm: Annotated[int, Interval("[0, 1000]")] = not_fingerprinted(3)  # configurations to train with other seeds
    # Trials side by side; None for as many as fit. With 1, each trial depends on the same earlier trials in every
    # repetition of the search, so the search is reproducible.
    max_concurrent: Annotated[int | None, Interval(f"[1, {MAX_TRIALS}]")] = not_fingerprinted(None)
    name: Annotated[str, MaxLength(64)] = not_fingerprinted("search")  # name of its folder; unique within a family

    def check(self) -> None:
        is_plain = re.fullmatch(r"[a-z][a-z0-9_-]*", self.name) is not None
        self.require(is_plain, "name", "must begin with a-z and have only a-z, 0-9, _ and -: it becomes a folder")
        example = "name at least one field, such as 'method.alpha': uniform(0, 1)"
        self.require(len(self.space) >= 1, "space", example)
        self.require(len(self.space) <= MAX_FIELDS, "space", f"must name at most {MAX_FIELDS} fields")
        for path in self.space:
            is_searchable = path.split(".")[0] in SEARCHABLE
            shared = f"names '{path}': trials share data and teacher, so only method.* and student.* can be searched"
            self.require(is_searchable, "space", shared)
        self._check_metrics()
        self._check_grid()

    def _check_metrics(self) -> None:
        for metric in self.metrics:
            known = f"known are {', '.join(METRICS)}{did_you_mean(metric, METRICS)}"
            self.require(metric in METRICS, "metric", known)
        self.require(len(set(self.metrics)) == len(self.metrics), "metric", "repeats a metric")
        is_known = self.mode is None or _parts(self.mode) == self.directions
        modes = ", ".join(self.directions)
        self.require(is_known, "mode", f"must be {modes} for {', '.join(self.metrics)}; leave it out")
        is_one_of_validation = len(self.metrics) == 1 and self.metrics[0].startswith("val_")
        early = "stops trials by a single validation metric; --set search.scheduler=none for these metrics"
        self.require(is_one_of_validation or self.scheduler == "none", "scheduler", early)

    def _check_grid(self) -> None:
        if self.sampler != "grid":
            return
        for path, space in self.space.items():
            listed = f"is a grid, and '{path}' is {space}; list its values: choice(0.1, 0.5, 0.9)"
            self.require(space.points is not None, "sampler", listed)
        size = prod(len(space.points or ()) for space in self.space.values())
        self.require(size <= MAX_GRID, "sampler", f"is a grid of {size:,} configurations; use random, or fewer values")

    @property
    def metrics(self) -> tuple[str, ...]:
        return _parts(self.metric)

    @property
    def directions(self) -> tuple[Literal["max", "min"], ...]:
        """The better direction of each metric."""
        return tuple(METRICS[metric] for metric in self.metrics)

    @property
    def grid(self) -> list[dict[str, str | int | float | bool]]:
        """Every configuration of a grid; the last field varies fastest."""
        points = [space.points or () for space in self.space.values()]
        return [dict(zip(self.space, values, strict=True)) for values in product(*points)]

    @property
    def num_trials(self) -> int:
        """Number of configurations to try, at most the size of a grid."""
        return min(self.trials, len(self.grid)) if self.sampler == "grid" else self.trials

    def grace_of(self, epochs: int) -> int:
        """Return the epochs before which no trial is stopped, for a student of `epochs`."""
        return min(self.grace_epochs or max(1, epochs // 10), epochs)

    def rungs_of(self, epochs: int) -> tuple[int, ...]:
        """Return the epochs after which ASHA compares trials, for a student of `epochs`."""
        first = self.grace_of(epochs)
        count = int(log(epochs / first) / log(self.reduction_factor) + 1e-9) + 1
        rungs = (first * self.reduction_factor**step for step in range(count))
        return tuple(rung for rung in rungs if rung < epochs)


def _parts(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Split 'val_top1,parameters', the form of the command line. A tuple is returned unchanged."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value
