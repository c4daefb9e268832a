"""The limits that fields declare: values at and beyond each end, messages, and the text of `raykd fields`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import inf
from typing import Annotated, Any, Literal, NamedTuple

import pytest

import raykd.methods
import raykd.spec.experiment  # noqa: F401 - defines the kinds
from raykd.config import Config, Interval, MaxLength, NonNegative, Positive, kinds, limits_of, options_of, type_hints
from raykd.config.field_text import field_texts
from raykd.errors import ConfigError
from raykd.spec.optimizers import Optimizer
from raykd.spec.search import uniform

# Numbers without an interval: all values are valid, other fields decide, or a library does.
WITHOUT_INTERVAL = {
    *("mean", "std", "stages", "randaugment", "low", "high"),
    *("Lamb.betas", "Lamb.eps", "Lamb.max_grad_norm", "RMSprop.alpha", "RMSprop.eps", "RMSprop.momentum"),
}
# The other fields of an object, by its class or field, so that a value at the end of the field's interval is valid.
BESIDE: dict[str, dict[str, Any]] = {
    "Experiment": {"family": "net"},
    "Search": {"space": {"method.alpha": uniform(0, 1)}},
    "Data.min_crop_area": {"crop_padding": 0, "image_size": 32},
    "Data.views_per_image": {"crop_padding": 0, "image_size": 32, "min_crop_area": 0.5},
    "Data.center_crop": {"crop_padding": 0, "image_size": 32, "min_crop_area": 0.5},
    "Recipe.gradient_accumulation": {"batch_size": 1_000_000},
    "ViT.width": {"heads": 1},
    "ViT.heads": {"width": 65_536},
    "ShuffleNetV1.width": {"groups": 1},
}
NO_DEFAULT = ("Run", "HuggingFace", "Network", "NamedOptimizer", "Choice")  # they require a file, a name, values
RANGE_BY_HAND = re.compile(
    r"\bor more\b|\bat least \d|\babove \d|\bgreater than \d|\bin [\[(]\d|, [\d.]+ to [\d.]+(?:;|$)|\bfrom \d+ to \d"
)
TINY = 1e-3


class End(NamedTuple):
    """A value at the end of a field's interval, or next to it. is_allowed: whether the interval includes it."""

    cls: type[Config]
    field: str
    value: float
    is_allowed: bool

    def make(self) -> Config:
        """Return an object whose field has this value, or a tuple that begins with it."""
        hint = type_hints(self.cls)[self.field]
        has_tuple = any(getattr(option, "__origin__", None) is tuple for option in options_of(hint))
        rest = {"blocks": (1, 1, 1), "class_weights": (1.0,)}.get(self.field, ())
        beside = BESIDE.get(self.cls.__name__, {}) | BESIDE.get(f"{self.cls.__name__}.{self.field}", {})
        return self.cls(**beside | {self.field: (self.value, *rest) if has_tuple else self.value})


def classes() -> list[type[Config]]:
    """Return the kinds of raykd with their defaults, and an optimizer of torch and one of timm."""
    found = [cls for cls in kinds(Config).values() if cls.__module__.startswith("raykd.")]
    found += [type(Optimizer(name)) for name in ("rmsprop", "timm:lamb")]
    return [cls for cls in found if cls.__name__ not in NO_DEFAULT]


def has_numbers(cls: type[Config], name: str) -> bool:
    """Return whether a field accepts integers or floats, alone or in a tuple."""
    options = options_of(type_hints(cls)[name])
    return bool({int, float} & {item for option in options for item in (option, *getattr(option, "__args__", ()))})


def ends() -> Iterator[End]:
    """Yield the ends of all intervals, each with the nearest value that is refused or allowed."""
    for cls in classes():
        for item in fields(cls):
            if (interval := limits_of(cls)[item.name].interval) is None:
                continue
            step = 1 if re.search(r"\bint\b", str(type_hints(cls)[item.name])) else TINY
            for end, outward, is_closed in (
                (interval.ends[0], -step, interval.interval.startswith("[")),
                (interval.ends[1], step, interval.interval.endswith("]")),
            ):
                if abs(end) < inf:
                    yield End(cls, item.name, end, is_closed)
                    yield End(cls, item.name, end + outward if is_closed else end - outward, not is_closed)


@pytest.mark.parametrize("end", list(ends()), ids=lambda end: f"{end.cls.__name__}.{end.field}={end.value:g}")
def test_the_interval_that_a_field_declares_is_the_one_that_is_accepted(end: End) -> None:
    if end.is_allowed:
        end.make()
        return
    with pytest.raises(ConfigError, match=rf"^{end.field} = .* in {end.cls.title()}: must (be|lie) .*\d"):
        end.make()


def test_every_number_declares_an_interval_unless_other_fields_decide() -> None:
    declared, missing = set(), set()
    for cls in classes():
        for item in fields(cls):
            names = {item.name, f"{cls.__name__}.{item.name}"}
            if has_numbers(cls, item.name) and limits_of(cls)[item.name].interval is not None:
                declared.add((cls, item.name))
            elif has_numbers(cls, item.name) and not names & WITHOUT_INTERVAL:
                missing.add(f"{cls.__name__}.{item.name}")
    assert not missing and len(declared) > 120


def test_no_description_states_a_range_by_hand() -> None:
    """`raykd fields` shows the declared one."""
    by_hand = {
        f"{cls.__name__}.{name}: {text}"
        for cls in classes()
        for name, text in field_texts(cls).items()
        if has_numbers(cls, name) and RANGE_BY_HAND.search(text)
    }
    assert not by_hand
    assert RANGE_BY_HAND.search("of the velocity, in [0, 1)") and RANGE_BY_HAND.search("weight, 0 or more")


@dataclass(frozen=True)
class Limited(Config):
    """Fields with limits of every form."""

    kind = "limited_in_a_test"
    share: Annotated[float, Interval("(0, 1]", "1 for all")] = 0.5
    norm: Positive | None = None
    count: Annotated[int | Literal["all"] | None, Interval("[1, 9]")] = None
    weights: Annotated[tuple[NonNegative, ...], MaxLength(2)] = ()
    name: Annotated[str, MaxLength(3)] = ""
    free: float = 0.0
    offset: Annotated[int, Interval("(-5, 5)")] = 0


@dataclass(frozen=True)
class Repeated(Limited):
    """A subclass that repeats two fields, one of them with another interval."""

    kind = "repeated_in_a_test"
    share: float = 0.25
    norm: Annotated[float | None, Interval("[2, inf)")] = None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 0}, "share = 0.0 in Limited: must lie in (0, 1]; 1 for all"),
        ({"share": 1.5}, "share = 1.5 in Limited: must lie in (0, 1]; 1 for all"),
        ({"norm": 0}, "norm = 0.0 in Limited: must be greater than 0, or none"),
        ({"norm": 2e12}, "norm = 2000000000000.0 in Limited: must be at most 1e+12"),
        ({"norm": 1e-13}, "norm = 1e-13 in Limited: must be 0, or have a magnitude of at least 1e-12"),
        ({"count": 0}, "count = 0 in Limited: must be at least 1, all, or none"),
        ({"count": 10}, "count = 10 in Limited: must be at most 9, all, or none"),
        ({"weights": (1, -1)}, "weights = (1.0, -1.0) in Limited: must be at least 0"),
        ({"weights": (1, 1, 1)}, "weights = (1.0, 1.0, 1.0) in Limited: must have at most 2 values"),
        ({"name": "long"}, "name = 'long' in Limited: must have at most 3 characters"),
        ({"free": -2e12}, "free = -2000000000000.0 in Limited: must be at least -1e+12"),
        ({"offset": -5}, "offset = -5 in Limited: must be greater than -5"),
        ({"offset": 5}, "offset = 5 in Limited: must be below 5"),
    ],
)
def test_a_message_has_the_field_its_value_and_what_is_accepted(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Limited(**changes)
    assert str(refused.value) == message


def test_a_subclass_that_repeats_a_field_without_limits_keeps_them() -> None:
    with pytest.raises(ConfigError, match=r"share = 2.0 in Repeated: must lie in \(0, 1\]; 1 for all"):
        Repeated(share=2)
    with pytest.raises(ConfigError, match=r"norm = 1.0 in Repeated: must be at least 2, or none"):
        Repeated(norm=1)
    assert Limited(norm=1).norm == 1


@pytest.mark.parametrize("text", ["0, 1", "[0; 1]", "[0, 1", "(low, high)", "[0,1]", ""])
def test_an_interval_in_another_notation_is_refused_where_it_is_declared(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no interval; write Interval\('\[0, 1\)'\)"):
        Interval(text)


def test_intervals_have_their_text() -> None:
    texts = {"[0, 1)": "in [0, 1)", "[2, inf)": "at least 2", "(1e-05, inf)": "greater than 1e-05"}
    assert {text: str(Interval(text)) for text in texts} == texts
    assert str(limits_of(Limited)["share"]) == "in (0, 1]; 1 for all" and str(limits_of(Limited)["free"]) == ""
