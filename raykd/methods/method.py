"""The base class of distillation methods: hyperparameters and loss terms in one frozen dataclass."""

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
# Names that no term may have: the other columns of history.parquet, and metrics that training logs beside the terms.
RESERVED_TERMS = (*HISTORY_COLUMNS, "top1")


@dataclass(frozen=True)
class Method(Config):
    """The terms of a student's loss and their weights.

    loss = sum over terms of weights(epoch)[term] * term. The term 'ce', the cross-entropy with the labels, is always
    there; a method adds others. Methods see tensors alone, never a model, a file or a rank.
    """

    paper: ClassVar[str] = ""  # the formula's source, if possible an arXiv id
    needs: ClassVar[frozenset[Need]] = frozenset()  # the teacher's outputs that `terms` reads
    needs_distillation_token: ClassVar[bool] = False  # whether the student must have one
    # Whether a term depends on which images share a batch. `terms` then receives the images of all workers of a run.
    relates_images: ClassVar[bool] = False
    min_batch_size: ClassVar[int] = 1  # the smallest batch, over all workers, for which the terms are defined
    drawn_per_worker: ClassVar[str] = ""  # a description of random numbers that each worker draws separately

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        custom_file.record_source(cls)

    def __post_init__(self) -> None:
        custom_file.require_valid_class(type(self), _subclasses(Method), get_args(Need))
        with self.errors_of("one of its fields, or its check(),") if self._source else nullcontext():
            super().__post_init__()
        if self._source:
            self._require_json_fields()

    def _require_json_fields(self) -> None:
        """Raise ConfigError if a field's value cannot be written to run.json, and so not fingerprinted."""
        for item in fields(self):
            try:
                fingerprint(to_dict(getattr(self, item.name)))
            except (TypeError, ValueError, RecursionError):
                self._refuse(item.name, "cannot be written into run.json; give the field numbers or text")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the method that `text` names: a kind ('kd') or a class in a file ('my_method.py:MyMethod')."""
        if not custom_file.is_path(text):
            return super().from_text(text)
        method = custom_file.load_class(text, Method)
        if required := [item.name for item in fields(method) if item.default is MISSING is item.default_factory]:
            raise ConfigError(f"{text} cannot be made: its field '{required[0]}' has no default; give it one")
        source = custom_file.source_of(method)
        with errors_of(f"method {text}", source.path if source else ""):
            return method()

    def stored(self, results_only: bool) -> dict[str, Any]:
        """Return the values behind `to_dict`, with the hash of a custom method's file."""
        source = custom_file.source_of(type(self))
        return super().stored(results_only) | ({"source": source.stored(results_only)} if source else {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        source = custom_file.source_of(type(self))
        if source is None or not source.is_single_file:
            return super().__reduce_ex__(protocol)
        return custom_file.restore, (source, {item.name: getattr(self, item.name) for item in fields(self)})

    def weights(self, epoch: int) -> dict[str, float]:
        """Return the weights of 'ce' and of each term in `epoch`, counted from 0. Implement a warm-up here."""
        raise NotImplementedError

    def errors_of(self, part: str) -> AbstractContextManager[None]:
        """Return a context that turns any error in `part` of the method into a ConfigError with its line."""
        return errors_of(f"method = {self.title()}: {part}", self._source.path if self._source else "")

    @property
    def is_custom(self) -> bool:
        """Whether it is a user-defined method."""
        return self._source is not None

    @property
    def _source(self) -> custom_file.Source | None:
        return custom_file.source_of(type(self))

    def require_valid_weights(self, epochs: int) -> None:
        """Raise ConfigError unless weights(epoch) maps names of terms to finite numbers in each of `epochs`.

        A term must not have a reserved name, that of another column of history.parquet.
        """
        if self.is_custom:
            _require_valid_weights(self, epochs)

    def require_batch(self, size: int) -> None:
        """Raise ConfigError if a batch of `size` images, over all workers, is too small for the terms."""
        if size < self.min_batch_size:
            raise ConfigError(
                f"student.batch_size = {size}: method '{self.kind}' compares the images of a batch with each other and "
                f"requires at least {self.min_batch_size}; --set student.batch_size={self.min_batch_size} or more"
            )

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        """Return a module that is trained and checkpointed with the student, such as a regressor; None for none.

        student, teacher: outputs for some images, which show the shapes. images: all training images of the run, in
        ascending order of index. Initial weights come from torch's global generator. Raises ConfigError for shapes that
        the method cannot bring together, and for a model without the outputs that it `needs`.
        """
        return None

    def supervised_logits(self, student: Outputs) -> Tensor:
        """Return the logits [B, C] for the cross-entropy with the labels, 'ce'."""
        return student.logits

    def used(self, outputs: Outputs) -> Outputs:
        """Return the outputs that `terms` reads, which workers exchange if the method `relates_images`."""
        return outputs

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        """Return the method's unweighted terms, each a float32 scalar [], mean over the batch.

        The teacher's outputs carry no gradient.
        """
        raise NotImplementedError


def _require_valid_weights(method: Method, epochs: int) -> None:
    for epoch in range(epochs):
        with method.errors_of("its weights(epoch)"):
            weights: Any = method.weights(epoch)
        subject = f"method = {method.title()}: weights({epoch})"
        if not isinstance(weights, Mapping) or not weights:
            raise ConfigError(f"{subject} is {shown(weights)}; it must return the weight of each term, 'ce' included")
        for name, weight in weights.items():
            if not isinstance(weight, Real) or isinstance(weight, bool) or not _is_finite(weight):
                raise ConfigError(f"{subject} weighs {name!r} by {shown(weight)}; a weight must be a finite number")
            if name in RESERVED_TERMS:
                raise ConfigError(
                    f"{subject} names a term '{name}', which is a column of history.parquet for something else "
                    f"({', '.join(RESERVED_TERMS)}); rename the term"
                )


def _is_finite(number: Real) -> bool:
    """Whether `number` is finite as a float; a whole number may be too large for one."""
    try:
        return isfinite(number)
    except OverflowError:
        return False


class Memory(nn.Module):
    """An adapter whose buffers store outputs of earlier steps, the same on all workers of a run."""

    def remember(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Store the last step's outputs; called after each step by all workers.

        gather: returns the tensors of all W workers by rank, [*] -> [W, *].
        """
        raise NotImplementedError


def _subclasses(cls: type[Method]) -> list[type[Method]]:
    """Return all direct and indirect subclasses of `cls`."""
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]
