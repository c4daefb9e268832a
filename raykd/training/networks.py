"""The networks of planned runs, each made once, and whether a method brings two of them together."""

import torch
from torch import nn

from raykd.data.dataset import Dataset
from raykd.errors import ConfigError, RaykdError
from raykd.methods import Method
from raykd.methods.feature_method import require_maps
from raykd.outputs import Outputs, Targets
from raykd.plan import Run
from raykd.training.adapters import NUM_SHOWN, make_adapter, outputs_of
from raykd.training.imported import load_imported
from raykd.training.rows import rows_of
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
        self._adapter(run, student, teacher)

    def require_batch_fits(self, run: Run, num_workers: int) -> None:
        """Raise ConfigError where a worker gets one image of each batch and a batch norm cannot train on one.

        Batch norm requires more than one value for each channel: places of a map, or images.
        """
        is_shared = num_workers > 1 and run.recipe.sync_batch_norm
        if run.imported is not None or is_shared or run.recipe.batch_size > num_workers:
            return
        who, images = ("teacher" if run.stage == "teacher" else "student"), self._dataset.train.images[:1]
        part = f"the model {run.model.label}"
        try:
            with torch.no_grad():
                make_model(run, self._dataset).train()(images)
                if run.stage == "distilled":
                    part = f"the method '{run.method.kind}'"
                    self._terms_of_one_image(run)
        except ValueError as error:
            if "per channel" not in str(error):
                raise
            raise ConfigError(
                f"{who}.batch_size = {run.recipe.batch_size}: batch norm of {part} cannot train on 1 image"
                f"{' a worker' if num_workers > 1 else ''}; --set {who}.batch_size={2 * num_workers} or more"
            ) from error

    def _terms_of_one_image(self, run: Run) -> None:
        """Compute the method's terms for one image, where an adapter with batch norm may take part in them."""
        assert run.teacher is not None
        with_features = "features" in run.method.needs
        student, teacher = (self.of(model, with_features) for model in (run, run.teacher))
        adapter = self._adapter(run, student, teacher)
        if adapter is not None:
            rows, _ = rows_of(run.data, self._dataset.train.labels)
            targets = Targets(self._dataset.train.labels[rows[:1]], rows[:1])
            run.method.terms(_first(student), _first(teacher), targets, adapter)

    def _adapter(self, run: Run, student: Outputs, teacher: Outputs) -> nn.Module | None:
        """Return the method's adapter for both models' outputs; raise ConfigError where it cannot be made."""
        method = run.method
        try:
            return make_adapter(run, self._dataset.train.labels, student, teacher)
        except RaykdError:
            raise
        except Exception as error:  # whatever a person's method may raise
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            raise ConfigError(
                f"method = {method.title()}: its adapter fails with {type(error).__name__}: {reason}. Of the teacher "
                f"it is given what `needs` names, {', '.join(sorted(method.needs))}"
            ) from error


def _first(outputs: Outputs) -> Outputs:
    """Return the outputs for the first image alone."""
    embedding = None if outputs.embedding is None else outputs.embedding[:1]
    return Outputs(outputs.logits[:1], embedding, *(tuple(x[:1] for x in part) for part in outputs[2:]))
