"""Numbers that are too large are refused before they cost time or memory."""

from dataclasses import fields, replace

import pytest
import torch
from small_runs import digits, experiment, recipe, run_of

from raykd import models
from raykd.config import Config, kinds
from raykd.config.limits import MAX_FLOAT, MAX_INT, MIN_FLOAT
from raykd.errors import ConfigError, did_you_mean, plural
from raykd.methods import KD
from raykd.models.four_stage_resnet import ResNet
from raykd.models.vit_cifar import ViT
from raykd.spec.experiment import Data, Experiment
from raykd.spec.search import Search, choice, integer
from raykd.training import network_checks
from raykd.training.model_file import images_of
from raykd.training.network_checks import NetworkChecks, require_memory


def test_every_number_of_every_kind_has_an_upper_limit() -> None:
    num_values = 0
    for cls in {cls for cls in kinds(Config).values() if cls.__module__.startswith("raykd.")}:
        for item in fields(cls):
            for huge in (10**26, -(10**26), 1e300, -1e300, (10**26,), (1e300,)):
                num_values += 1
                with pytest.raises(ConfigError):
                    cls(**{item.name: huge})
    assert num_values > 500


def test_a_limit_in_an_annotation_applies_to_each_value_of_a_tuple_and_not_to_none() -> None:
    with pytest.raises(ConfigError, match=r"blocks = \(1, 1, 1, 201\) in ResNet: must be at most 200"):
        ResNet(blocks=(1, 1, 1, 201))
    assert ResNet(blocks=(1, 1, 1, 200)).blocks[3] == 200
    assert Data(image_size=None).image_size is None and Data(image_size=1024).image_size == 1024


def test_numbers_without_a_limit_have_the_general_limit() -> None:
    assert Data(val_images=MAX_INT).val_images == MAX_INT
    assert KD(temperature=MAX_FLOAT).temperature == MAX_FLOAT and KD(temperature=MIN_FLOAT).temperature == MIN_FLOAT
    for changes in ({"temperature": 2 * MAX_FLOAT}, {"temperature": MIN_FLOAT / 2}):
        with pytest.raises(ConfigError, match="temperature = "):
            KD(**changes)


@pytest.mark.parametrize("model", [ResNet(), ResNet((1, 1, 1, 1), 16), ViT(), ViT(distillation_token=True)])
def test_weights_are_counted_without_drawing_random_numbers(model) -> None:
    images = images_of(digits())
    before = torch.random.get_rng_state()
    num_parameters = models.num_parameters(model, images)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert num_parameters == sum(weight.numel() for weight in models.build(model, images, 0).network.parameters())


def test_a_network_larger_than_memory_is_refused_and_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*arguments: object) -> None:
        raise AssertionError("the network was built")

    monkeypatch.setattr(network_checks, "make_model", make)
    for stage, role in (("teacher", "teacher"), ("distilled", "student")):
        run = run_of(stage, **{role: recipe(model=ResNet(width=60_000))})  # type: ignore[arg-type]
        with pytest.raises(
            ConfigError, match=rf"{role}.model = resnet18-w60000: its [\d,]+ weights take .* GB of memory"
        ):
            NetworkChecks(digits()).outputs_of(run)


def test_a_network_is_built_if_its_weights_just_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("baseline")
    size = 4 * (models.num_parameters(run.model, images_of(digits())) or 0)
    for free in (size, None):
        monkeypatch.setattr(network_checks, "available_bytes", lambda free=free: free)
        require_memory(run, digits())
    monkeypatch.setattr(network_checks, "available_bytes", lambda: size - 1)
    with pytest.raises(ConfigError, match="choose a smaller model"):
        require_memory(run, digits())


def test_a_range_of_whole_numbers_is_never_listed() -> None:
    space = integer(1, 10**12)
    assert len(space.points) == 10**12 and space.points[-1] == 10**12
    with pytest.raises(ConfigError, match="is a grid of 1,000,000,000,000 configurations"):
        Search({"student.batch_size": space}, sampler="grid")
    assert len(Search({"student.batch_size": integer(1, 3)}, sampler="grid").grid) == 3
    with pytest.raises(ConfigError, match="must have at most 1,000 values"):
        choice(*range(1001))


@pytest.mark.parametrize("name", ["resnet8x4", "resnet80", "resnet", "wresnet_8_4", "preact_resnet18", "vit12", "vit"])
def test_the_name_of_another_network_is_not_a_typing_mistake(name: str) -> None:
    assert did_you_mean(name, models.MODELS, numbered=True) == ""
    with pytest.raises(ConfigError, match=f"unknown model '{name}'; .*lists the names"):
        models.find(name)


@pytest.mark.parametrize(
    ("name", "nearest"), [("renset8", "resnet8"), ("resnett18", "resnet18"), ("vit_tinny", "vit_tiny")]
)
def test_a_typing_mistake_in_a_models_name_is_reported_with_the_nearest_name(name: str, nearest: str) -> None:
    assert did_you_mean(name, models.MODELS, numbered=True) == f"; did you mean '{nearest}'?"


def test_plurals() -> None:
    assert [plural(n, "epoch") for n in (0, 1, 2, 1200)] == ["0 epochs", "1 epoch", "2 epochs", "1,200 epochs"]
    assert [plural(n, "pass", "passes") for n in (1, 2)] == ["1 pass", "2 passes"]
    assert [plural(n, "GPU") for n in (0.5, 1.0, 2.0)] == ["0.5 GPUs", "1 GPU", "2 GPUs"]


def test_time_to_count_trials_is_linear_in_their_number() -> None:
    """With 200,000 trials of 1,000 seeds, a quadratic algorithm would not end."""
    from raykd.training.teacher.choose import _max_epochs_by_seed

    assert _max_epochs_by_seed([(trial % 1000, trial) for trial in range(200_000)])[999] == 199_999


@pytest.mark.parametrize("name", ["teachers", "report", "models_saved", "exported", "trials"])
def test_a_family_with_the_name_of_another_folder_of_the_results_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"family = '{name}' .*name of a folder that raykd makes below the results"):
        replace(experiment(), family=name)


def test_a_family_with_the_name_of_a_field_is_refused() -> None:
    for name in ("data", "method", "teacher_seed"):
        with pytest.raises(ConfigError, match=f"family = '{name}'"):
            replace(experiment(), family=name)
    assert "family" in {item.name for item in fields(Experiment)}
