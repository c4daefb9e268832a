"""The networks of the CIFAR-100 tables are those of RepDistiller (github.com/HobbitLong/RepDistiller, models/).

cifar_networks.json holds what its implementation computes in float64 in evaluation mode, for 100 classes: each tensor
is given by its shape, sum, Euclidean norm and some values at flat indices. "features" begins with the stem's map and
ends with the embedding. Weights are a function of a tensor's name (`published_weights`); `sha256` is over the lines
"name shape" of the state dict, without batch counters.
"""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nightly import nightly_except
from torch import Tensor, nn

from raykd import models
from raykd.errors import ConfigError
from raykd.models import ImageSpec
from raykd.models.registry import without_values
from raykd.models.weights import load_weights

PUBLISHED: dict[str, Any] = json.loads(Path(__file__).with_name("cifar_networks.json").read_text())
CIFAR100 = ImageSpec(100, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
# The smallest network of each family. The ResNet-50 takes as long as all of them.
QUICK = ("cifar_resnet8", "cifar_resnet8x4", "wrn_16_2", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2")
TOLERANCE = 1e-9  # relative to the largest value: deep networks have large values under these weights


def network(name: str) -> nn.Module:
    return models.build(models.find(name), CIFAR100, seed=0).network.eval()


def on_meta(name: str) -> nn.Module:
    with without_values():
        return network(name)


def names_and_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    state = module.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def published_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    weights = {}
    for name, shape in shapes.items():
        random = np.random.RandomState(zlib.crc32(name.encode()))
        z = random.standard_normal(int(np.prod(shape))).reshape(shape)
        if name.endswith("running_var"):
            z = 1 + 0.1 * np.abs(z)
        elif name.endswith(("running_mean", "bias")):
            z = 0.1 * z
        elif len(shape) == 1:
            z = 1 + 0.1 * z
        else:
            z = z * np.sqrt(2 / np.prod(shape[1:]))
        weights[name] = torch.from_numpy(z)
    return weights


def require_equal(computed: Tensor, published: dict[str, Any]) -> None:
    assert list(computed.shape) == published["shape"]
    flat = computed.flatten()
    assert float(flat.sum()) == pytest.approx(published["sum"], rel=TOLERANCE)
    assert float(flat.norm()) == pytest.approx(published["l2"], rel=TOLERANCE)
    for index, value in published["at"].items():
        assert float(flat[int(index)]) == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE * float(flat.abs().max()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_has_the_published_names_and_shapes(name: str) -> None:
    shapes = names_and_shapes(on_meta(name))
    text = "\n".join(f"{tensor} {list(shape)}" for tensor, shape in shapes.items())
    assert len(shapes) == PUBLISHED[name]["tensors"]
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED[name]["sha256"]
    assert models.num_parameters(models.find(name), CIFAR100) == PUBLISHED[name]["parameters"]


@pytest.mark.parametrize("name", nightly_except(QUICK, PUBLISHED))
def test_logits_feature_maps_and_embedding_are_the_published_ones(name: str) -> None:
    computing = network(name).double()
    computing.load_state_dict(published_weights(names_and_shapes(computing)), strict=False)
    pixels = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, 32, 32)))
    with torch.no_grad():
        outputs = computing(pixels)
    _, *stages, embedding = PUBLISHED[name]["features"]
    require_equal(outputs.logits, PUBLISHED[name]["logits"])
    assert outputs.embedding is not None
    require_equal(outputs.embedding, embedding)
    for computed, published in zip(outputs.features, stages, strict=True):
        require_equal(computed, published)


@pytest.mark.parametrize("name", nightly_except(QUICK, PUBLISHED))
def test_a_published_checkpoint_loads(name: str, tmp_path: Path) -> None:
    shapes = names_and_shapes(on_meta(name))  # without batch counters, as in files of torch before 0.4.1
    stored = {tensor: value.float() for tensor, value in published_weights(shapes).items()}
    wrapped = {f"module.{tensor}": value for tensor, value in stored.items()}
    torch.save({"epoch": 240, "model": wrapped, "accuracy": 0.75}, tmp_path / "ckpt_epoch_240.pth")
    loaded = network(name)
    load_weights(loaded, tmp_path / "ckpt_epoch_240.pth")
    state = loaded.state_dict()
    assert all(torch.equal(state[tensor], value) for tensor, value in stored.items())


def test_a_checkpoint_of_another_width_is_refused_with_the_first_tensor_that_differs(tmp_path: Path) -> None:
    torch.save({"model": network("cifar_resnet8x4").state_dict()}, tmp_path / "resnet8x4.pth")
    with pytest.raises(ConfigError, match=r"has another architecture, width or stem: conv1\.weight is"):
        load_weights(network("cifar_resnet8"), tmp_path / "resnet8x4.pth")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_is_labeled_with_the_name_that_finds_it(name: str) -> None:
    assert models.find(name).label == name


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("name", QUICK)
def test_images_of_other_sizes_are_accepted(name: str, size: int) -> None:
    images = ImageSpec(10, size, CIFAR100.mean, CIFAR100.std)
    model = models.build(models.find(name), images, seed=0)
    model.require_size(size, name)
    assert model.eval()(torch.zeros(2, 3, size, size, dtype=torch.uint8)).logits.shape == (2, 10)
