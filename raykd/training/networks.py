"""The networks of planned runs, each built once, and whether a method brings two of them together."""

from pathlib import Path

from raykd.data.dataset import Dataset
from raykd.data.memory import available_bytes
from raykd.errors import ConfigError
from raykd.methods import Method
from raykd.methods.feature_method import require_maps
from raykd.models import num_parameters
from raykd.models.weights import load_weights
from raykd.outputs import Outputs
from raykd.plan import Run
from raykd.training.adapters import NUM_SHOWN, make_adapter, outputs_of
from raykd.training.method_check import require_sound_terms
from raykd.training.trained import images_of
from raykd.training.training import make_model

PARAMETER_BYTES = 4
_GB = 1e9


class Networks:
    """What each run's network, untrained, gives for the same images of `dataset`."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._outputs: dict[object, Outputs] = {}

    def of(self, run: Run, with_features: bool = False) -> Outputs:
        """Outputs of NUM_SHOWN images on the CPU, with feature maps where they are asked for, as a training asks.

        Raises ConfigError for a network that cannot be built or does not fit in memory, or that does not take these
        images.
        """
        key = run.model, run.initial, run.imported, with_features
        if key not in self._outputs:
            require_memory(run, self._dataset)
            model = make_model(run, self._dataset)
            model.require_size(self._dataset.image_size, run.model.label)
            model.with_features = with_features
            if run.imported is not None:
                load_weights(model.network, Path(run.imported.path))
            self._outputs[key] = outputs_of(model, self._dataset.train.images[:NUM_SHOWN])
        return self._outputs[key]

    def require_method_fits(self, run: Run) -> None:
        """Raise ConfigError where the method of a distilled run cannot bring its two models together."""
        assert run.teacher is not None
        method, labels = run.method, self._dataset.train.labels
        with_features = "features" in method.needs
        student, teacher = self.of(run, with_features), self.of(run.teacher, with_features)
        if with_features:
            require_maps(method, student=student, teacher=teacher)
        adapter = None
        if type(method).adapter is not Method.adapter:
            given = f"of the teacher it is given what `needs` names, {', '.join(sorted(method.needs))}"
            with method.errors_of(f"its adapter ({given})"):
                adapter = make_adapter(run, labels, student, teacher)
        if method.is_custom:
            require_sound_terms(run, labels, student, teacher, adapter)


def require_memory(run: Run, dataset: Dataset) -> None:
    """Raise ConfigError, with the numbers, for a network whose weights are larger than the memory that is free."""
    count, free = num_parameters(run.model, images_of(dataset)), available_bytes()
    if count is None or free is None or count * PARAMETER_BYTES <= free:
        return
    who = "teacher" if run.stage == "teacher" else "student"
    raise ConfigError(
        f"{who}.model = {run.model.label}: its {count:,} weights take {count * PARAMETER_BYTES / _GB:.1f} GB of memory "
        f"and only {free / _GB:.1f} GB are free; choose a smaller model, or ask for more memory"
    )
