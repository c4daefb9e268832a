"""The base class of a user's callbacks, which a run calls at its start, after each epoch, and at its end.

    callbacks=("my_callbacks.py:Slack",)          --set callbacks=my_callbacks.py:Slack

The fields of a callback are its parameters, as those of a custom method. The file's text travels to the workers with
the run (config/custom_file.py). Callbacks do not affect results, so no fingerprint contains them.
"""

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from raykd.config import Config, custom_file
from raykd.config.signature import signature_of
from raykd.errors import ConfigError, did_you_mean, errors_of, shown
from raykd.spec.stages import Stage

if TYPE_CHECKING:
    from raykd.training.hooks import EpochReport

EXAMPLE = "my_callbacks.py:Slack"
_CALLED = {"on_run_start": 2, "on_epoch": 1, "on_run_end": 1}  # the arguments of each method that raykd calls


@dataclass(frozen=True)
class RunInfo:
    """A run that starts or resumes. name: of its folder, which contains the fingerprint."""

    name: str
    family: str
    stage: Stage
    seed: int
    folder: Path


@dataclass(frozen=True)
class RunOutcome:
    """How the training of a run ended. best_epoch, best_val_top1: of the epoch that the run keeps, in percent.

    Both are None without an epoch, and best_val_top1 also without validation images.
    reason: why the run failed or was interrupted, else ''.
    """

    run: str
    status: Literal["done", "failed", "interrupted"]
    best_epoch: int | None
    best_val_top1: float | None
    reason: str = ""


@dataclass(frozen=True)
class Callback(Config):
    """A user's code around the epochs of each run. Derive a class with @dataclass(frozen=True), and give it fields.

    The first worker of a run calls the methods in the process that trains, so the run waits for them. An exception in
    one is logged once and never fails the run.
    """

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        custom_file.record_source(cls, "callback")

    def __post_init__(self) -> None:
        _require_valid_class(type(self))
        object.__setattr__(self, "_state", {})
        with self.errors_of("one of its fields, or its check(),"):
            super().__post_init__()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the callback that 'my_callbacks.py:MyClass' names, with the defaults of its fields."""
        loaded: Any = custom_file.load_class(text, "callback", EXAMPLE)
        if not (isinstance(loaded, type) and issubclass(loaded, Callback)):
            file, _, name = text.rpartition(":")
            raise ConfigError(f"'{name}' in callback file '{file}' is no callback; derive it from raykd.Callback")
        return custom_file.create(loaded, text, "callback")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return custom_file.reduced(self) or super().__reduce_ex__(protocol)

    @property
    def state(self) -> dict[str, Any]:
        """A dictionary for values between calls, such as an open connection. It is empty at the start of each run."""
        return vars(self)["_state"]

    def errors_of(self, part: str) -> AbstractContextManager[None]:
        """Return a context that turns any error in `part` of the callback into a ConfigError with its line."""
        source = custom_file.source_of(type(self))
        path = source.path if source else ""
        return errors_of(f"callback {self.title()} in '{path}': {part}", path)

    def on_run_start(self, run: RunInfo, config: Mapping[str, str]) -> None:
        """Called before the first epoch of a run that starts or resumes. config: {path for --set: value as text}."""

    def on_epoch(self, report: "EpochReport") -> None:
        """Called after each epoch, with its loss terms, accuracies, learning rate and speed."""

    def on_run_end(self, outcome: RunOutcome) -> None:
        """Called when the run is done, failed or interrupted; not when its process is killed."""


def callbacks_named(value: Any) -> Any:
    """Return the callbacks that a text, a callback, or a tuple of these stands for; any other value unchanged."""
    if isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Callback):
        return (value,)
    if isinstance(value, tuple):
        return tuple(Callback.from_text(item) if isinstance(item, str) else item for item in value)
    return value


def _require_valid_class(cls: type[Callback]) -> None:
    """Raise ConfigError for a class whose text cannot be sent to workers, or whose methods raykd cannot call."""
    source, title = custom_file.source_of(cls), cls.__name__
    if source is None:
        raise custom_file.error_of_class_without_file(cls, "callback", EXAMPLE)
    where = f"callback {title} in '{source.path}'"
    custom_file.require_dataclass(cls, where)
    for name in (name for name in dir(cls) if name.startswith("on_")):
        _require_callable(getattr(cls, name), name, where)


def _require_callable(method: Any, name: str, where: str) -> None:
    """Raise ConfigError unless raykd calls methods of this name, and can call this one."""
    if name not in _CALLED:
        known = ", ".join(_CALLED)
        raise ConfigError(
            f"{where} has '{name}', which raykd never calls; it calls {known}{did_you_mean(name, _CALLED)}"
        )
    if not callable(method) or inspect.iscoroutinefunction(method):
        raise ConfigError(f"{where}: {name} is {shown(method)}; it must be a plain function")
    try:
        signature_of(method).bind(*range(1 + _CALLED[name]))
    except TypeError:
        expected = ", ".join(signature_of(getattr(Callback, name)).parameters)
        raise ConfigError(f"{where}: {name}{signature_of(method)} must accept ({expected})") from None
