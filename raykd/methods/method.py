"""What a method of distillation is: data and behaviour in one frozen object."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, fields
from math import isfinite
from numbers import Real
from typing import Any, ClassVar, Literal, Self, get_args

from torch import Tensor, nn

from raykd.config import Config, fingerprint, to_dict
from raykd.errors import ConfigError, errors_of, shown
from raykd.methods import custom_file
from raykd.outputs import HISTORY_COLUMNS, Outputs, Targets

Need = Literal["logits", "embedding", "features"]
# What no term may be called: the other columns of a run's history, and what training measures beside the terms.
RESERVED_TERMS = (*HISTORY_COLUMNS, "top1")


@dataclass(frozen=True)
class Method(Config):
    """The extra terms of a student's loss, and what each weighs.

    loss = sum over terms of weights(epoch)[term] * term. Every objective has the term 'ce', the labels'
    cross-entropy; a method adds its own. Methods see tensors: never a model, a file or a rank.
    """

    paper: ClassVar[str] = ""  # where the formula is from, an arXiv id where there is one
    needs: ClassVar[frozenset[Need]] = frozenset()
    needs_distillation_token: ClassVar[bool] = False  # of the student
    # Whether a term depends on which images share a batch. `terms` then gets the images of all workers of a run.
    relates_images: ClassVar[bool] = False
    min_batch_size: ClassVar[int] = 1  # the smallest batch, over all workers, of which the terms are defined
    drawn_per_worker: ClassVar[str] = ""  # what each of several workers draws at random for itself, in words

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        custom_file.note(cls)

    def __post_init__(self) -> None:
        custom_file.require_sound(type(self), _below(Method), get_args(Need))
        with self.errors_of("one of its fields, or its check(),") if self._source else nullcontext():
            super().__post_init__()
        if self._source:
            self._require_written()

    def _require_written(self) -> None:
        """Raise ConfigError where a field's value cannot be written into run.json, by which runs are known."""
        for item in fields(self):
            try:
                fingerprint(to_dict(getattr(self, item.name)))
            except (TypeError, ValueError, RecursionError):
                self._refuse(item.name, "cannot be written into run.json; give the field numbers or text")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """As for any field; a class of a person's own by its file too, 'my_method.py:MyMethod'."""
        if not custom_file.is_path(text):
            return super().from_text(text)
        found = custom_file.class_at(text, Method)
        if required := [item.name for item in fields(found) if item.default is MISSING is item.default_factory]:
            raise ConfigError(f"{text} cannot be made: its field '{required[0]}' has no default; give it one")
        source = custom_file.source_of(found)
        with errors_of(f"method {text}", source.path if source else ""):
            return found()

    def stored(self, results_only: bool) -> dict[str, Any]:
        """A person's own method is known by its file's hash too."""
        source = custom_file.source_of(type(self))
        return super().stored(results_only) | ({"source": source.stored(results_only)} if source else {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        source = custom_file.source_of(type(self))
        if source is None or not source.travels:
            return super().__reduce_ex__(protocol)
        return custom_file.restored, (source, {item.name: getattr(self, item.name) for item in fields(self)})

    def weights(self, epoch: int) -> dict[str, float]:
        """Weight of 'ce' and of each term of `terms` in `epoch`, counted from 0; warm-up belongs here."""
        raise NotImplementedError

    def errors_of(self, what: str) -> AbstractContextManager[None]:
        """A context that turns whatever `what`, a part of the method, raises into a ConfigError with its line."""
        return errors_of(f"method = {self.title()}: {what}", self._source.path if self._source else "")

    @property
    def is_custom(self) -> bool:
        """Whether a user wrote it."""
        return self._source is not None

    @property
    def _source(self) -> custom_file.Source | None:
        return custom_file.source_of(type(self))

    def require_sound_weights(self, epochs: int) -> None:
        """Raise ConfigError where weights(epoch) of one of `epochs` is no mapping of term names to finite numbers.

        A term must not be called like another column of the run's history.
        """
        if self.is_custom:
            _require_sound_weights(self, epochs)

    def require_batch(self, size: int) -> None:
        """Raise ConfigError where a batch of `size` images, over all workers, is too small for the terms."""
        if size < self.min_batch_size:
            raise ConfigError(
                f"student.batch_size = {size}: method '{self.kind}' compares the images of a batch with each other and "
                f"requires at least {self.min_batch_size}; --set student.batch_size={self.min_batch_size} or more"
            )

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        """A module trained and checkpointed with the student, such as a regressor where shapes differ; None for none.

        student, teacher: outputs for some images, to show the shapes. images: every image that the run trains on,
        index ascending. Fresh weights come from torch's global generator. Raises ConfigError for shapes, or models
        without what it `needs`, that it cannot bring together.
        """
        return None

    def labelled(self, student: Outputs) -> Tensor:
        """The logits [B, C] that learn the labels, in 'ce'."""
        return student.logits

    def used(self, outputs: Outputs) -> Outputs:
        """Return what `terms` reads of a model's outputs: what workers exchange where the method `relates_images`."""
        return outputs

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        """The method's terms, [] each, float32, mean over the batch, unweighted. The teacher's carry no gradient."""
        raise NotImplementedError


def _require_sound_weights(method: Method, epochs: int) -> None:
    for epoch in range(epochs):
        with method.errors_of("its weights(epoch)"):
            weights: Any = method.weights(epoch)
        given = f"method = {method.title()}: weights({epoch})"
        if not isinstance(weights, Mapping) or not weights:
            raise ConfigError(f"{given} is {shown(weights)}; it must return the weight of each term, 'ce' included")
        for name, weight in weights.items():
            if not isinstance(weight, Real) or isinstance(weight, bool) or not _is_finite(weight):
                raise ConfigError(f"{given} weighs {name!r} by {shown(weight)}; a weight must be a finite number")
            if name in RESERVED_TERMS:
                raise ConfigError(
                    f"{given} names a term '{name}', which is a column of history.parquet for something else "
                    f"({', '.join(RESERVED_TERMS)}); rename the term"
                )


def _is_finite(number: Real) -> bool:
    """Whether `number` is finite as a float; a whole number may be too large for one."""
    try:
        return isfinite(number)
    except OverflowError:
        return False


class Memory(nn.Module):
    """An adapter whose buffers keep what its steps have seen, alike on all workers of a run."""

    def remember(self, gather: Callable[[Tensor], Tensor]) -> None:
        """After each step. gather: [*] of this worker -> [W, *], of all W by rank; called alike by all."""
        raise NotImplementedError


def _below(cls: type[Method]) -> list[type[Method]]:
    """Every class under `cls`."""
    return [found for child in cls.__subclasses__() for found in (child, *_below(child))]
