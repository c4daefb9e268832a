"""The networks of planned runs, each made once, and whether a method brings two of them together."""

from raykd.data.dataset import Dataset
from raykd.errors import ConfigError, RaykdError
from raykd.methods import Method
from raykd.methods.feature_method import require_maps
from raykd.outputs import Outputs
from raykd.plan import Run
from raykd.training.adapters import NUM_SHOWN, make_adapter, outputs_of
from raykd.training.imported import load_imported
from raykd.training.training import make_model


class Networks:
    """What each run's network, untrained, says of the same images of `dataset`."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._outputs: dict[object, Outputs] = {}

    def of(self, run: Run, with_features: bool = False) -> Outputs:
        """On the CPU, with maps of its stages where they are asked for, as a training asks.

        Raises ConfigError for a network that cannot be made, or that does not take these images.
        """
        key = run.model, run.initial, run.imported, run.normalization, with_features
        if key not in self._outputs:
            imported = run.imported is not None
            model = load_imported(run, self._dataset).model if imported else make_model(run, self._dataset)
            model.require_size(self._dataset.image_size, run.model.label)
            model.with_features = with_features
            self._outputs[key] = outputs_of(model, self._dataset.train.images[:NUM_SHOWN])
        return self._outputs[key]

    def require_method_fits(self, run: Run) -> None:
        """Raise ConfigError where the method of a distilled run cannot bring its two models together."""
        assert run.teacher is not None
        method = run.method
        with_features = "features" in method.needs
        student, teacher = self.of(run, with_features), self.of(run.teacher, with_features)
        if with_features:
            require_maps(method, student=student, teacher=teacher)
        if type(method).adapter is Method.adapter:
            return
        try:
            make_adapter(run, self._dataset.train.labels, student, teacher)
        except RaykdError:
            raise
        except Exception as error:  # whatever a person's method may raise
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            raise ConfigError(
                f"method = {method.title()}: its adapter fails with {type(error).__name__}: {reason}. Of the teacher "
                f"it is given what `needs` names, {', '.join(sorted(method.needs))}"
            ) from error
