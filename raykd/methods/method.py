"""The base class of distillation methods: hyperparameters and loss terms in one frozen dataclass."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from numbers import Real
from sys import float_info
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from torch import Tensor, nn

from raykd.config import Config, Interval, custom_file, fingerprint, to_dict
from raykd.errors import ConfigError, errors_of, shown
from raykd.methods.custom_method import EXAMPLE, require_valid_class
from raykd.outputs import HISTORY_COLUMNS, Outputs, Targets

Adapter = nn.Module | None  # trained and checkpointed with the student, such as a regressor
Need = Literal["logits", "embedding", "features"]
Temperature = Annotated[float, Interval("(0, inf)", "1 to 8 are usual")]
# Names that no term may have: the other columns of history.parquet, and metrics that training logs beside the terms.
RESERVED_TERMS = (*HISTORY_COLUMNS, "top1")


class ParameterGroup(NamedTuple):
    """Parameters of an adapter with another learning rate or weight decay than the student's."""

    parameters: Iterable[nn.Parameter]
    lr_scale: float = 1.0  # factor of the learning rate, above 0
    weight_decay: float | None = None  # 0 or more; None: as for the student's parameters


@dataclass(frozen=True)
class Method(Config):
    """The terms of a student's loss and their weights.

    loss = sum over terms of weights(epoch)[term] * term. The term 'ce', the cross-entropy with the labels, is always
    there; a method adds others. Methods receive only tensors, never a model, a file or a rank.
    """

    paper: ClassVar[str] = ""  # the formula's source, if possible an arXiv id
    # The teacher's outputs that `terms` and `adapter` read. If there are none, students are trained without a teacher,
    # and `terms` and `adapter` receive empty logits [B, 0] in its place.
    needs: ClassVar[frozenset[Need]] = frozenset()
    student_needs: ClassVar[frozenset[Need] | None] = None  # the student's outputs that they read; None: as `needs`
    # Whether the teacher's feature maps are those before each stage's last ReLU, if its network has such maps: raykd's
    # ResNets, wide ResNets and VGGs. The feature maps of other networks, and of the student, are the usual ones.
    teacher_preactivations: ClassVar[bool] = False
    needs_distillation_token: ClassVar[bool] = False  # whether the student must have one
    # Whether a term depends on which images share a batch. `terms` then receives the images of all workers of a run.
    relates_images: ClassVar[bool] = False
    # Whether `terms` or `adapter` reads labels. If not, a student without a classifier trains without labels.
    reads_labels: ClassVar[bool] = True
    # The terms that depend on the student's or the teacher's logits; None if unknown. They are left out if one of the
    # models has no logits.
    logit_terms: ClassVar[frozenset[str] | None] = None
    # Whether the loss keeps its meaning with logits that a logit cache restored from the top classes. These have the
    # teacher's probabilities, and all other classes share the rest equally. See training/teacher/sparse_rows.py.
    works_with_top_classes: ClassVar[bool] = False
    min_batch_size: ClassVar[int] = 1  # the smallest batch, over all workers, for which the terms are defined
    drawn_per_worker: ClassVar[str] = ""  # a description of random numbers that each worker draws separately

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if custom_file.record_source(cls, "method"):
            cls._forget_inherited_claims()

    @classmethod
    def _forget_inherited_claims(cls) -> None:
        """Undo what a base class declares about `terms` and `adapter`, if this custom class replaces them."""
        replaces = bool({"terms", "adapter", "supervised_logits"} & vars(cls).keys())
        if replaces and "reads_labels" not in vars(cls):
            cls.reads_labels = True
        if replaces and "logit_terms" not in vars(cls):
            cls.logit_terms = None
        if replaces and "works_with_top_classes" not in vars(cls):
            cls.works_with_top_classes = False

    def __post_init__(self) -> None:
        require_valid_class(type(self), _subclasses(Method), get_args(Need))
        if not self.is_custom:
            super().__post_init__()
            return
        with self.errors_of("one of its fields, or its check(),"):
            super().__post_init__()
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
        method: Any = custom_file.load_class(text, "method", EXAMPLE)
        if not _is_method(method):
            file, _, name = text.rpartition(":")
            raise ConfigError(
                f"'{name}' in method file '{file}' is no method; derive it from raykd.Method, or from one of raykd's "
                "methods"
            )
        return custom_file.create(method, text, "method")

    def stored(self, results_only: bool) -> dict[str, Any]:
        """Return the values behind `to_dict`, with the hash of a custom method's file."""
        source = self.custom_source()
        return super().stored(results_only) | ({"source": source.to_entry(results_only)} if source else {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return custom_file.reduced(self) or super().__reduce_ex__(protocol)

    def weights(self, epoch: int) -> dict[str, float]:
        """Return the weights of 'ce' and of each term in `epoch`, counted from 0. Implement a warm-up here."""
        raise NotImplementedError

    @property
    def read_of_student(self) -> frozenset[Need]:
        """The student's outputs that `terms` and `adapter` read."""
        return self.needs if self.student_needs is None else self.student_needs

    @property
    def soft_temperature(self) -> float:
        """The temperature of the method's soft targets, 1 if it has none."""
        value = getattr(self, "temperature", None)
        return float(value) if isinstance(value, int | float) and value > 0 else 1.0

    def uses_logits(self, epochs: int) -> bool:
        """Return whether the teacher's logits affect the loss in one of `epochs`."""
        return "logits" in self.needs and (self.logit_terms is None or self._has_weight(self.logit_terms, epochs))

    @classmethod
    def works_without_logits(cls) -> bool:
        """Return whether the loss of this method's defaults reads other outputs of the teacher, and no logits."""
        return cls.custom_source() is None and bool(cls.needs - {"logits"}) and not cls().uses_logits(1)

    def trains_classifier(self, epochs: int) -> bool:
        """Return whether the student's logits affect the loss in one of `epochs`, or may do so."""
        return self.logit_terms is None or self._has_weight({"ce", *self.logit_terms}, epochs)

    def _has_weight(self, terms: Collection[str], epochs: int) -> bool:
        # raykd's methods with logit_terms have the same weights in all epochs.
        num_epochs = epochs if self.is_custom else min(epochs, 1)
        return any(self.weights(epoch).get(name) for epoch in range(num_epochs) for name in terms)

    def errors_of(self, part: str, remedy: str = "") -> AbstractContextManager[None]:
        """Return a context that turns any error in `part` of the method into a ConfigError with its line.

        remedy: how the message ends.
        """
        source = self.custom_source()
        return errors_of(f"method = {self.title()}: {part}", source.path if source else "", remedy)

    @property
    def received_outputs(self) -> str:
        """The outputs that `terms` and `adapter` receive, as the end of a message about an error in them."""
        teacher, student = (", ".join(sorted(needs)) or "none" for needs in (self.needs, self.read_of_student))
        if self.student_needs is None:
            return f"it receives the outputs in `needs`: {teacher}; list others of the student in `student_needs`"
        return (
            f"it receives the teacher's outputs in `needs`: {teacher}, and the student's in `student_needs`: {student}"
        )

    @property
    def is_custom(self) -> bool:
        """Whether a user defined the method."""
        return self.custom_source() is not None

    @classmethod
    def custom_source(cls) -> custom_file.ClassSource | None:
        """Return the user's file that defines the method; None for a method of raykd."""
        return custom_file.source_of(cls)

    def require_valid_weights(self, epochs: int) -> None:
        """Raise ConfigError unless weights(epoch) maps names of terms to finite numbers in each of `epochs`.

        A term must not have the name of another column of history.parquet.
        """
        for epoch in range(epochs) if self.is_custom else ():
            with self.errors_of("its weights(epoch)"):
                weights: Any = self.weights(epoch)
            subject = f"method = {self.title()}: weights({epoch})"
            if not isinstance(weights, Mapping) or not weights:
                raise ConfigError(f"{subject} is {shown(weights)}; it must return the weight of each term and of 'ce'")
            for name, weight in weights.items():
                is_number = isinstance(weight, Real) and not isinstance(weight, bool)
                if not (is_number and abs(weight) <= float_info.max):  # type: ignore[operator]
                    raise ConfigError(
                        f"{subject} weights {name!r} by {shown(weight)}; a weight must be a finite number"
                    )
                if name in RESERVED_TERMS:
                    raise ConfigError(
                        f"{subject} names a term '{name}', which is a column of history.parquet for something else "
                        f"({', '.join(RESERVED_TERMS)}); rename the term"
                    )

    def require_batch(self, size: int, passes: int) -> None:
        """Raise ConfigError if a batch of `size` images, over all workers, is too small for the terms.

        passes: the number of equal parts into which the batch is divided.
        """
        if size // passes < self.min_batch_size:
            least = passes * self.min_batch_size
            parts = f" in {passes} passes (gradient_accumulation)" if passes > 1 else ""
            raise ConfigError(
                f"student.batch_size = {size}{parts}: method '{self.kind}' compares the images of a batch with each "
                f"other and requires at least {least}; --set student.batch_size={least} or more"
            )

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> Adapter:
        """Return a module that is trained and checkpointed with the student, such as a regressor; None for none.

        student, teacher: outputs for some images, which show the shapes. images: all training images of the run, in
        ascending order of index. Initial weights come from torch's global generator. Raises ConfigError for shapes that
        the method cannot combine, and for a model without the outputs that it `needs`.
        """
        return None

    def parameter_groups(self, adapter: nn.Module) -> Sequence[ParameterGroup]:
        """Return the parameters of `adapter` that are not trained like the student's."""
        return ()

    def supervised_logits(self, student: Outputs) -> Tensor:
        """Return the logits [B, C] for the cross-entropy with the labels, 'ce'."""
        return student.logits

    def used(self, outputs: Outputs) -> Outputs:
        """Return the outputs that `terms` reads, which workers exchange if the method `relates_images`."""
        return outputs

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        """Return the method's unweighted terms, each a float32 scalar [], mean over the batch.

        The teacher's outputs carry no gradient.
        """
        raise NotImplementedError


class LinearWarmup:
    """Base of methods whose terms, except the cross-entropy and KD's, rise linearly to their weights."""

    warmup_epochs: float  # a field of the method; 0 for no warm-up

    def warmup(self, epoch: int) -> float:
        """Return the share of their weights that the terms have in `epoch`, counted from 0."""
        return min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0


class Memory(nn.Module):
    """An adapter, or a part of one, whose buffers store outputs of earlier passes, the same on all workers of a run."""

    def remember(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Store the last pass's outputs. All workers call it after each forward and backward pass of training.

        gather: returns the tensors of all W workers by rank, [*] -> [W, *].
        """
        raise NotImplementedError


def _is_method(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Method)


def _subclasses(cls: type[Method]) -> list[type[Method]]:
    return [method for child in cls.__subclasses__() for method in (child, *_subclasses(child))]
