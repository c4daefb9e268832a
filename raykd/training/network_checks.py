"""Check that the networks of planned runs fit together, before anything is trained."""

from typing import Literal

import torch
from torch import nn

from raykd.data.memory import available_bytes
from raykd.data.types import Dataset
from raykd.errors import ConfigError, plural
from raykd.methods import Method
from raykd.methods.feature_method import require_feature_maps
from raykd.methods.method import Need
from raykd.models import ImageModel, num_parameters
from raykd.models.submodules import NUM_LISTED, HookedModel, SubmoduleModel, describe_candidates
from raykd.outputs import Outputs, Targets
from raykd.spec.plan import Run, train_val_indices
from raykd.training.adapters import (
    NUM_SHOWN,
    absent_teacher,
    classifier_of,
    evaluation_outputs,
    make_adapter,
    required_outputs,
)
from raykd.training.method_check import require_valid_terms
from raykd.training.model_file import images_of
from raykd.training.optim import groups_of_adapter, require_no_optimizer
from raykd.training.sync_batch_norm import require_synchronizable
from raykd.training.teacher.imported import load_imported_teacher
from raykd.training.training_step import make_model
from raykd.units import capacity

PARAMETER_BYTES = 4
OUTPUT_DESCRIPTIONS = {"embedding": "the embedding", "features": "feature maps"}


class NetworkChecks:
    """Checks of planned runs, on the outputs of their initial or imported networks for a few images of `dataset`."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._outputs: dict[object, Outputs] = {}

    def outputs_of(self, run: Run, with_features: bool = False, preactivations: bool = False) -> Outputs:
        """Return outputs for NUM_SHOWN images on the CPU, with feature maps if requested.

        preactivations: whether these are the maps before each stage's last ReLU, if the network has such maps.

        Raises ConfigError for a network that cannot be built, does not fit in memory, or does not accept these images.
        """
        key = run.model, run.initial, run.imported, with_features, preactivations
        if key not in self._outputs:
            require_memory(run, self._dataset)
            model = self._network_of(run)
            model.require_size(self._dataset.image_size, run.model.label)
            model.request({"embedding", "features"} if with_features else {"embedding"}, preactivations)
            self._outputs[key] = evaluation_outputs(model, self._dataset.train.images[:NUM_SHOWN])
        return self._outputs[key]

    def _network_of(self, run: Run) -> ImageModel:
        """Return the initial or imported network of `run`."""
        if run.imported:
            return load_imported_teacher(run, self._dataset).image_model
        return make_model(run, self._dataset)

    def require_method_fits(self, run: Run) -> None:
        """Raise ConfigError if the method of a distilled run does not fit student and teacher."""
        student, teacher, adapter = self._inputs_of_terms(run)
        if run.method.is_custom:
            require_valid_terms(run, self._dataset.train.labels, student, teacher, adapter)
        if not run.model.classifier:
            self._require_trained_embedding(run, teacher, adapter)

    def _require_trained_embedding(self, run: Run, teacher: Outputs, adapter: nn.Module | None) -> None:
        """Raise ConfigError if the loss does not depend on layers from which the embedding is computed.

        One-dimensional parameters may stay untrained, such as those of the norm between the last feature map and the
        embedding of a ViT.
        """
        method, num_images = run.method, max(run.method.min_batch_size, NUM_SHOWN)
        model = make_model(run, self._dataset).eval()
        model.request({*method.read_of_student, "embedding"})
        labels = self._dataset.train.labels[:num_images]
        repeated = required_outputs(method, teacher).map(lambda tensor: tensor[torch.arange(num_images) % len(tensor)])
        with torch.enable_grad():
            outputs = model(self._dataset.train.images[:num_images])
            targets = Targets(labels, torch.arange(num_images), progress=torch.zeros(()))
            terms = method.terms(outputs, repeated, targets, adapter)
            loss = torch.stack([weight * terms[name] for name, weight in method.weights(0).items() if name in terms])
        weights = {name: weight for name, weight in model.network.named_parameters() if weight.requires_grad}
        gradients = torch.autograd.grad(loss.sum(), [*weights.values()], allow_unused=True)
        pairs = zip(weights.items(), gradients, strict=True)
        untrained = [name for (name, weight), gradient in pairs if gradient is None and weight.dim() > 1]
        if untrained:
            others = f" and {plural(len(untrained) - 1, 'other layer')}" if len(untrained) > 1 else ""
            raise ConfigError(
                f"method = {method.title()}: without labels it does not train {untrained[-1]}{others}, which the "
                "embedding depends on; include the last stage, such as --set method.stages=-1, or set "
                "method.ce_weight above 0"
            )

    def require_valid_batch_norm(self, run: Run, num_workers: int) -> None:
        """Raise ConfigError for a batch norm that cannot train on the images of a worker, or cannot synchronize.

        With one image per worker a batch norm fails if it has one value per channel, over the images and the positions
        of a feature map. With several workers and `sync_batch_norm` it must be able to synchronize its statistics.
        """
        is_shared = num_workers > 1 and run.recipe.sync_batch_norm
        if is_shared and run.imported is None:
            require_synchronizable(make_model(run, self._dataset).network, run.role)
        if run.imported is not None or is_shared or run.recipe.images_per_pass > num_workers:
            return
        part = f"the model {run.model.label}"
        try:
            with torch.no_grad():
                make_model(run, self._dataset).train()(self._dataset.train.images[:1])
                if run.stage == "distilled":
                    part = f"the method '{run.method.kind}'"
                    self._terms_of_one_image(run)
        except ValueError as error:
            if "per channel" not in str(error):
                raise
            raise ConfigError(
                f"{run.role}.batch_size = {run.recipe.batch_size}{_passes_of(run)}: batch norm of {part} cannot train "
                f"on 1 image{' per worker' if num_workers > 1 else ''}; --set {run.role}.batch_size="
                f"{2 * num_workers * run.recipe.gradient_accumulation} or more"
            ) from error

    def _terms_of_one_image(self, run: Run) -> None:
        """Compute the method's terms for one image. Raises ValueError if its adapter's batch norm requires more."""
        student, teacher, adapter = self._inputs_of_terms(run)
        if adapter is not None:
            index = train_val_indices(run.data, self._dataset.train.labels)[0][:1]
            targets = Targets(self._dataset.train.labels[index], index, progress=torch.zeros(()))
            student, teacher = (outputs.map(lambda tensor: tensor[:1]) for outputs in (student, teacher))
            run.method.terms(student, teacher, targets, adapter)

    def _inputs_of_terms(self, run: Run) -> tuple[Outputs, Outputs, nn.Module | None]:
        """Return outputs of student and teacher, and the method's adapter or None. Raises ConfigError if one fails."""
        student = self._outputs_for(run.method, run, run.method.read_of_student)
        teacher = absent_teacher(student)
        if run.teacher is not None:
            teacher = self._outputs_for(run.method, run.teacher, run.method.needs)
        if type(run.method).adapter is Method.adapter:
            return student, teacher, None
        with run.method.errors_of("its adapter", run.method.received_outputs):
            labels = self._dataset.train.labels
            adapter = make_adapter(run, labels, student, teacher, lambda: self._classifier_of(run))
        require_no_optimizer(run.method, adapter)
        groups_of_adapter(run.method, adapter, run.recipe.optimizer)
        return student, teacher, adapter

    def _classifier_of(self, run: Run) -> nn.Linear:
        """Return the classifier of the teacher of `run`. Raises ConfigError if it is not one linear layer."""
        if run.teacher is None or len(run.teachers) > 1:
            return classifier_of(run, None)
        return classifier_of(run, self._network_of(run.teacher), self.outputs_of(run.teacher))

    def _outputs_for(self, method: Method, run: Run, needs: frozenset[Need]) -> Outputs:
        """Return the outputs of the network of `run`, of which `method` reads `needs`.

        Raises ConfigError if the network cannot return them.
        """
        preactivations = run.stage == "teacher" and method.teacher_preactivations
        outputs = self.outputs_of(run, "features" in needs, preactivations)
        self._require_named_submodules(method, run, needs, outputs)
        if "features" in needs:
            require_feature_maps(method, **{run.role: outputs})
        is_plain = isinstance(run.model, SubmoduleModel) and run.model.classifier  # returns nothing else unasked
        return outputs if needs - {"logits"} or not is_plain else outputs._replace(embedding=None)

    def _require_named_submodules(self, method: Method, run: Run, needs: frozenset[Need], outputs: Outputs) -> None:
        """Raise ConfigError if `needs` has outputs of a plain network that the user can name and has not named."""
        lacks = {"embedding": outputs.embedding is None, "features": not outputs.features}
        need: Literal["embedding", "features"]
        for need in ("embedding", "features"):
            model = make_model(run, self._dataset) if need in needs and lacks[need] else None
            if isinstance(model, HookedModel):
                names = describe_candidates(model.network, model.input_size or self._dataset.image_size, need)
                output, field = OUTPUT_DESCRIPTIONS[need], f"{run.role}.model.{need}"
                option = f"--set {field}=NAME, one of {', '.join(names[:NUM_LISTED])}"
                remedy = option if names else f"none of its submodules returns {output}; choose another method or model"
                raise ConfigError(
                    f"method = {method.title()}: requires {output} of the {run.role}, and {field} is not set; {remedy}"
                )


def _passes_of(run: Run) -> str:
    passes = run.recipe.gradient_accumulation
    return f" in {passes} passes (gradient_accumulation)" if passes > 1 else ""


def require_memory(run: Run, dataset: Dataset) -> None:
    """Raise ConfigError for a network whose weights are larger than the free memory."""
    count, free = num_parameters(run.model, images_of(dataset)), available_bytes()
    if count is None or free is None or count * PARAMETER_BYTES <= free:
        return
    raise ConfigError(
        f"{run.role}.model = {run.model.label}: its {count:,} weights take {capacity(count * PARAMETER_BYTES)} of "
        f"memory and only {capacity(free)} are free; choose a smaller model, or request more memory"
    )
