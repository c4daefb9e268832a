"""The CIFAR-100 benchmark of the distillation papers: one experiment for each published pair of networks."""

from dataclasses import replace

from raykd.errors import ConfigError
from raykd.methods import Method
from raykd.spec.experiment import Experiment
from raykd.spec.published import PublishedPair, published_pairs
from raykd.spec.recipe import Recipe

# RepDistiller trains these with a smaller learning rate, because they diverge with that of the other networks.
LIGHT_NETWORKS = ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2")


def benchmark_experiments(base: Experiment, light_network_lr: float) -> tuple[Experiment, ...]:
    """Return `base` for each published pair, with its family and networks; the pair of `base` comes first.

    Methods with default fields have the hyperparameters that their authors set for the pair, such as DKD's beta.

    light_network_lr: the learning rate of MobileNets and ShuffleNets. Raises ConfigError if `base`
    names no published pair.
    """
    if not base.published:
        raise ConfigError(f"published = '' of {base.family}: must name a pair, such as 'resnet32x4:resnet8x4'")
    pairs = sorted(published_pairs().values(), key=lambda pair: pair.name != base.published)
    return tuple(_with_pair(base, pair, light_network_lr) for pair in pairs)


def _with_pair(base: Experiment, pair: PublishedPair, light_network_lr: float) -> Experiment:
    return replace(
        base,
        family=pair.family,
        published=pair.name,
        teacher=_with_model(base.teacher, pair.teacher_model, light_network_lr),
        student=_with_model(base.student, pair.student_model, light_network_lr),
        method=_with_pair_settings(base.method, pair),
        compare=tuple(_with_pair_settings(method, pair) for method in base.compare),
    )


def _with_pair_settings(method: Method, pair: PublishedPair) -> Method:
    settings = pair.pair_settings.get(method.kind)
    return replace(method, **settings) if settings and method == type(method)() else method


def _with_model(recipe: Recipe, model: str, light_network_lr: float) -> Recipe:
    is_light = model in LIGHT_NETWORKS
    optimizer = replace(recipe.optimizer, lr=light_network_lr) if is_light else recipe.optimizer
    return replace(recipe, model=model, optimizer=optimizer)
