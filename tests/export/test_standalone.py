"""The code of raykd's networks in an export: it imports no raykd, and computes the same logits."""

import ast
from typing import Any

import pytest
import torch
from nightly import nightly_except

from raykd import models
from raykd.export.standalone import standalone_source
from raykd.models import MODELS, ImageSpec
from raykd.models.model import BuiltInModel

IMAGES = ImageSpec(10, 32, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
NAMES = [
    "resnet8", "cifar_resnet20", "cifar_resnet8x4", "cifar_resnet50", "wrn_16_1", "vgg8", "mobilenet_v2",
    "shufflenet_v1", "shufflenet_v2",
]  # fmt: skip


def test_every_family_of_raykds_networks_has_a_case() -> None:
    built_in = {type(MODELS[name]()) for name in MODELS if name != "vit_tiny"}
    expected = {kind for kind in built_in if issubclass(kind, BuiltInModel)}
    assert {type(models.find(name)) for name in NAMES} == expected


@pytest.mark.parametrize("name", nightly_except(["wrn_16_1", "mobilenet_v2", "shufflenet_v2"], NAMES))
def test_the_code_of_a_network_imports_no_raykd_and_computes_its_logits(name: str) -> None:
    model = models.find(name)
    assert isinstance(model, BuiltInModel)
    network_class, arguments = model.construction(10)
    text = standalone_source(network_class)
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("raykd" in ast.unparse(node) for node in imported)
    namespace: dict[str, Any] = {"__name__": "network"}
    exec(compile(text, "network.py", "exec"), namespace)  # noqa: S102 - the test is about this code
    network = namespace[network_class.__name__](**arguments).eval()
    original = models.build(model, IMAGES, seed=0).network.eval()
    network.load_state_dict(original.state_dict())
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(pixels).logits, original(pixels).logits)
