"""Networks in a user's file: loaded by path or class, set by field, pickled as text, fingerprinted; and refusals."""

import copy
import hashlib
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from small_runs import digits, experiment, plan_of, run_of
from torch import Tensor, nn
from user_network import UserNet

from raykd import models
from raykd.cli.experiment_file import apply_settings
from raykd.config import from_dict, to_dict
from raykd.errors import CodeNotLoaded, ConfigError
from raykd.methods import FeatureKD, FitNets
from raykd.models import ImageModel, ImageSpec, Model, submodules
from raykd.models.custom_network import Network
from raykd.models.submodules import HookedModel
from raykd.models.weights import load_weights, save_weights
from raykd.orchestration.experiment_plans import warning_lines
from raykd.spec.experiment import Experiment
from raykd.spec.recipe import Recipe
from raykd.training.network_checks import NetworkChecks
from raykd.training.training_step import make_model

IMAGES = ImageSpec(10, 16, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
TEXT = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, num_classes, width: int = {width}):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.layers(x))
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return mine.py in the working directory. Its text names the test, so that no other test has loaded it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(f"# {tmp_path}\n{TEXT.format(width=16)}")
    return path


def built(model: Model, *needs: str, images: ImageSpec = IMAGES) -> ImageModel:
    model_of = models.build(model, images, seed=0).eval()
    model_of.request(needs)
    return model_of


def pixels(size: int = 16, num_images: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8, generator=generator)


def with_model(*settings: str) -> Experiment:
    (changed,) = apply_settings([experiment()], [f"student.{setting}" for setting in settings])
    return changed


@pytest.mark.parametrize("order", [1, -1])
def test_an_object_is_checked_with_the_fields_that_are_set_with_it(order: int) -> None:
    tower = f"teacher.model={Path(__file__).parent.parent / 'user_network.py'}:UserTower"  # without num_classes
    settings = [tower, "teacher.model.classifier=false", "teacher.model.width=12", "method=embedding"]
    (changed,) = apply_settings([experiment()], settings[::order])
    model: Any = changed.teacher.model
    assert (model.title(), model.width, model.classifier) == ("UserTower", 12, False)
    for invalid in ([tower], [tower, "teacher.model.width=12"][::order]):
        with pytest.raises(ConfigError, match="its __init__ has no parameter num_classes"):
            apply_settings([experiment()], invalid)


def test_the_check_in_training_mode_leaves_the_network_and_the_generator_as_they_are(file: Path) -> None:
    file.write_text(
        f"# {file}\nfrom torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.norm, self.drop, self.head = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(3, num_classes)\n"
        "        self.steps = 0\n"
        "    def forward(self, x):\n"
        "        self.steps += self.training\n"
        "        if self.training and len(x) % 4:\n"
        "            raise ValueError('batches must be multiples of 4')\n"
        "        return self.head(self.drop(self.norm(x).mean((2, 3))))\n"
    )
    torch.manual_seed(3)
    network: Any = Network("mine.py:Mine").make(IMAGES).network
    state = torch.get_rng_state()
    torch.manual_seed(3)
    type(network)(num_classes=10)
    assert torch.equal(state, torch.get_rng_state()) and network.training
    assert (network.steps, network.norm.num_batches_tracked.item()) == (0, 0)


@pytest.mark.parametrize(
    ("end", "is_warned"), [(".softmax(1)", True), (".log_softmax(1)", False), (".relu()", False), (".sigmoid()", False)]
)
def test_the_plan_warns_of_a_network_that_returns_probabilities(end: str, is_warned: bool, file: Path) -> None:
    file.write_text(f"{file.read_text().replace('(x))', f'(x)){end}')}")
    plan = plan_of(with_model("model=mine.py:Mine"))
    make_model(next(run for run in plan.runs if run.stage == "baseline"), digits())
    warnings = [line for line in warning_lines(plan) if "probabilities" in line]
    assert len(warnings) == is_warned
    for line in warnings:
        assert line.startswith("warning: student.model = mine: its outputs are probabilities") and "logits" in line


# ---- fields ----


def test_parameters_of_init_are_typed_fields_that_settings_change(file: Path) -> None:
    changed = with_model("model.width=32", "model=mine.py:Mine")
    assert isinstance(changed.student.model, Network)
    assert changed.student.model == Network("mine.py:Mine", width=32)
    with pytest.raises(ConfigError, match=r"student\.model\.width=wide: 'wide' is not an integer"):
        with_model("model=mine.py:Mine", "model.width=wide")
    with pytest.raises(ConfigError, match=r"unknown config field 'student\.model\.widht': .*did you mean 'width'\?"):
        with_model("model=mine.py:Mine", "model.widht=3")


def test_a_class_stands_for_itself_in_a_recipe_and_a_network_object_is_refused() -> None:
    assert Recipe(UserNet).model == Network(UserNet) == Recipe(Network(UserNet)).model  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"model = an object of class UserNet: .*Network\('my_net\.py:UserNet'"):
        Recipe(UserNet(10))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"Network\(UserNet\(\.\.\.\)\): give the class and its fields"):
        Network(UserNet(10))  # pyright: ignore[reportArgumentType]


def test_num_classes_is_named_as_no_field_because_raykd_passes_it(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_classes is no field of UserNet: raykd passes .* to __init__; leave it"):
        Network(UserNet, num_classes=5)
    with pytest.raises(ConfigError, match=r"student\.model\.num_classes is no field of Mine: raykd passes"):
        with_model("model=mine.py:Mine", "model.num_classes=5")
    with pytest.raises(ConfigError, match="unknown field 'image_size': UserNet has"):  # no parameter of its __init__
        Network(UserNet, image_size=5)


def test_a_class_of_a_notebook_is_refused_with_the_magic_that_writes_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # a notebook's has no __file__
    cell = type("Cell", (nn.Module,), {"__module__": "__main__"})
    with pytest.raises(
        ConfigError, match=r"network Cell is defined in a notebook .* %%writefile my_net\.py as its first"
    ):
        Network(cell)


@pytest.mark.parametrize(
    "model",
    [Network(UserNet), models.find("torchvision:resnet18"), models.find("timm:test_vit")],
    ids=lambda m: m.label,
)
def test_parameters_are_counted_although_an_older_torch_hides_the_device_of_the_context(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sum(weight.numel() for weight in built(model).network.parameters())
    monkeypatch.setattr(submodules, "_located_before", {})
    monkeypatch.setattr(torch, "get_default_device", lambda: torch.device("cpu"))  # as torch 2.7 does in the context
    assert models.num_parameters(model, IMAGES) == expected


def test_init_receives_the_classes_the_size_and_lists_as_lists(tmp_path: Path) -> None:
    received: dict[str, Any] = {}
    (tmp_path / "noting.py").write_text(
        "from torch import nn\n"
        "class Noting(nn.Module):\n"
        "    def __init__(self, num_classes, image_size, depths=[1], sizes: tuple[int, int] = (1, 2), *,\n"
        "                 norm=nn.BatchNorm2d, rate: float | None = None):\n"
        "        super().__init__()\n"
        "        received.update(num_classes=num_classes, image_size=image_size)\n"
        "        received.update(depths=depths, sizes=sizes, rate=rate)\n"
        "        self.head = nn.Linear(3, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(x.mean((2, 3)))\n"
        "received = None\n"
    )
    model = Network(f"{tmp_path}/noting.py:Noting", depths=[2, 3], rate=0.5, input_size=24)
    sys.modules[model.network_class.__module__].received = received  # type: ignore[attr-defined]
    built(model)
    assert received == {"num_classes": 10, "image_size": 24, "depths": [2, 3], "sizes": (1, 2), "rate": 0.5}
    with pytest.raises(ConfigError, match="unknown field 'norm'"):  # its type cannot be set from text
        Network(f"{tmp_path}/noting.py:Noting", norm=3)


def test_a_parameter_may_declare_the_interval_of_its_field(tmp_path: Path) -> None:
    (tmp_path / "limited.py").write_text(
        "from typing import Annotated\n"
        "from torch import nn\n"
        "from raykd import Interval, PositiveInt\n"
        "class Limited(nn.Module):\n"
        "    def __init__(self, num_classes, width: PositiveInt = 8, sizes: tuple[PositiveInt, ...] = (1,),\n"
        "                 drop: Annotated[float | None, Interval('[0, 1)')] = None):\n"
        "        super().__init__()\n"
    )
    for changes, message in (
        ({"width": 0}, "width = 0 in Limited: must be at least 1"),
        ({"drop": 1.0}, r"drop = 1.0 in Limited: must lie in \[0, 1\), or none"),
        ({"sizes": (2, 0)}, r"sizes = \(2, 0\) in Limited: must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Network(f"{tmp_path}/limited.py:Limited", **changes)
    assert Network(f"{tmp_path}/limited.py:Limited", width=1, drop=0).drop == 0  # pyright: ignore


def test_label_names_the_class_and_the_changed_fields() -> None:
    assert Network(UserNet).label == "user_net"
    assert Network(UserNet, width=16, act="silu", features=("stage1",)).label == "user_net-width16-actsilu"


# ---- identity ----


def test_run_json_has_the_file_and_fingerprints_depend_on_its_text_alone(file: Path) -> None:
    model = Network("mine.py:Mine")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert to_dict(model)["source"] == {"file": "mine.py", "class": "Mine", "sha256": sha256}
    assert from_dict(Model, json.loads(json.dumps(to_dict(model)))) == model
    run = replace(run_of("baseline"), recipe=replace(run_of("baseline").recipe, model=model))
    file.rename("renamed.py")
    same = replace(run, recipe=replace(run.recipe, model=Network("renamed.py:Mine")))
    assert same.fingerprint == run.fingerprint
    Path("renamed.py").write_text(Path("renamed.py").read_text() + "# edited\n")
    edited = replace(run, recipe=replace(run.recipe, model=Network("renamed.py:Mine")))
    assert edited.fingerprint != run.fingerprint and edited.model != model


@pytest.mark.nightly
def test_pickles_and_copies_are_equal_also_in_a_process_without_the_file(file: Path) -> None:
    model = Network("mine.py:Mine", width=24)
    assert pickle.loads(pickle.dumps(model)) == model == copy.deepcopy(model)  # noqa: S301 - pickled here
    content = pickle.dumps(model)
    file.unlink()
    program = (
        "import pickle, sys\n"
        "from raykd import models\n"
        "model = pickle.loads(sys.stdin.buffer.read())\n"
        "images = models.ImageSpec(10, 8, (0.5,) * 3, (0.5,) * 3)\n"
        "print(model.width, models.build(model, images, 0).network.head.weight.sum().item())"
    )
    ended = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=True, timeout=120)
    head = built(model, images=replace(IMAGES, size=8)).network.head
    assert ended.stdout.decode().split() == ["24", str(head.weight.sum().item())]  # type: ignore[union-attr]


def test_reading_an_entry_executes_no_code(file: Path) -> None:
    entry = to_dict(Network("mine.py:Mine"))
    entry["source"]["sha256"] = "0" * 64
    with pytest.raises(CodeNotLoaded, match=r"its network is Mine of mine\.py, SHA-256 000000000000"):
        from_dict(Model, entry)


# ---- embedding and feature maps ----


def test_the_embedding_is_the_input_of_the_last_linear_layer() -> None:
    model = built(Network(UserNet), "embedding")
    outputs, network = model(pixels()), model.network
    assert outputs.embedding is not None and outputs.embedding.shape == (3, 16)
    assert torch.equal(network.classifier(outputs.embedding), outputs.logits)  # type: ignore[operator]


def test_named_submodules_give_embedding_and_feature_maps() -> None:
    named = Network(UserNet, embedding="pool", features=("stage1", "stage2"))
    model, plain = built(named, "embedding", "features"), built(Network(UserNet), "embedding")
    outputs, expected = model(pixels()), plain(pixels())
    assert torch.equal(outputs.logits, expected.logits)
    assert outputs.embedding is not None and torch.equal(outputs.embedding, expected.embedding)  # type: ignore[arg-type]
    assert [tuple(maps.shape) for maps in outputs.features] == [(3, 8, 16, 16), (3, 16, 8, 8)]
    assert outputs.features[1].requires_grad


SPLIT = """
from torch import nn

class Split(nn.Module):
    def __init__(self, num_classes, bias: float = 0.0):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.norm, self.drop, self.head = nn.LayerNorm(16), nn.Dropout(0.5), nn.Linear(16, num_classes)
        self.bias = bias

    def forward_intermediates(self, x, indices=None):
        maps = [self.stem(x)]
        maps.append(self.body(maps[0]))
        return maps[-1], [maps[index] for index in indices or (0, 1)]

    def forward_features(self, x):
        return self.body(self.stem(x))

    def forward_head(self, x, pre_logits: bool = False):
        x = self.drop(self.norm(x.mean((2, 3))))
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x)) + self.bias
"""


def test_a_network_with_the_methods_of_timm_needs_no_names(tmp_path: Path) -> None:
    (tmp_path / "split.py").write_text(f"# {tmp_path}\n{SPLIT}")
    model = built(Network(f"{tmp_path}/split.py:Split"), "embedding", "features")
    outputs, network = model(pixels()), model.network
    hidden, maps = network.forward_intermediates((pixels().float() - model.mean) / model.std)  # type: ignore[operator]
    assert torch.equal(outputs.logits, network.forward_head(hidden))  # type: ignore[operator]
    assert outputs.embedding is not None
    assert torch.equal(outputs.embedding, network.forward_head(hidden, pre_logits=True))  # type: ignore[operator]
    assert len(outputs.features) == 2 and all(map(torch.equal, outputs.features, maps))
    assert not any(module._forward_hooks for module in network.modules())
    trained = model.train()(pixels())  # dropout before the head draws once for embedding and logits
    assert torch.equal(network.head(trained.embedding), trained.logits)  # type: ignore[operator]


def test_named_submodules_come_before_the_methods_of_timm(tmp_path: Path) -> None:
    (tmp_path / "split.py").write_text(f"# {tmp_path}\n{SPLIT}")
    named = Network(f"{tmp_path}/split.py:Split", embedding="norm", features=("stem",))
    model, plain = (built(network, "embedding", "features") for network in (named, replace(named, features=())))
    for outputs, sizes in ((model(pixels()), [8]), (plain(pixels()), [8, 4])):
        assert [maps.shape[-1] for maps in outputs.features] == sizes
        assert outputs.embedding is not None and outputs.embedding.shape == (3, 16)


def test_methods_that_are_not_the_parts_of_forward_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "split.py").write_text(f"# {tmp_path}\n{SPLIT}")
    outputs = built(Network(f"{tmp_path}/split.py:Split", bias=1.0), "embedding", "features")(pixels())
    assert outputs.embedding is None and outputs.features == ()


def test_hooks_are_registered_only_for_outputs_that_a_method_needs() -> None:
    named = Network(UserNet, features=("stage1", "stage2"))

    def num_hooks(*needs: str) -> int:
        network = built(named, *needs).network
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())

    assert (num_hooks(), num_hooks("logits"), num_hooks("embedding"), num_hooks("features")) == (0, 0, 1, 2)
    outputs = built(named)(pixels())
    assert outputs.embedding is None and outputs.features == ()


def test_no_activation_outlives_its_step_and_a_copy_reads_its_own() -> None:
    model = built(Network(UserNet, features=("stage1",)), "features")
    assert isinstance(model, HookedModel)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.network.stem[0].weight.zero_()  # type: ignore[index,operator]
    assert not torch.equal(model(pixels()).features[0], twin(pixels()).features[0])
    assert not model._captured and not twin._captured


@pytest.mark.nightly
def test_a_compiled_network_is_one_graph_with_its_hooks() -> None:
    model = built(Network(UserNet, features=("stage1", "stage2")), "embedding", "features")
    outputs, compiled = model(pixels()), torch.compile(model, fullgraph=True)(pixels())
    for computed, expected in zip(
        (compiled.logits, *compiled.features), (outputs.logits, *outputs.features), strict=True
    ):
        assert torch.allclose(computed, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("self.register_buffer('mask', torch.ones(1).expand(8))", r"'mask' is the result of expand\(\)"),
        (
            "type(self).get_extra_state = lambda self: {'n': 3}",
            r"its state '_extra_state' is of type dict, and only tensors",
        ),
    ],
)
def test_a_network_whose_state_cannot_be_loaded_is_refused_before_it_is_trained(
    line: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch" + TEXT.format(width=8).replace("self.head", f"{line}\n        self.head", 1)
    )
    with pytest.raises(ConfigError, match=message):
        built(Network(f"{tmp_path}/mine.py:Mine"), images=ImageSpec(10, 8, (0.5,) * 3, (0.5,) * 3))


def test_a_network_sees_its_own_normalization_and_size() -> None:
    model = built(Network(UserNet, mean=(0.0,) * 3, std=(1.0,) * 3, input_size=8))
    expected = nn.functional.interpolate(pixels().float() / 255, size=(8, 8), mode="bicubic")
    assert torch.allclose(model(pixels()).logits, model.network(expected), atol=1e-5)


def test_weights_of_other_classes_keep_a_new_head(tmp_path: Path) -> None:
    other = built(Network(UserNet), images=replace(IMAGES, num_classes=100))
    save_weights(tmp_path / "other.safetensors", other.network.state_dict())
    model = built(Network(UserNet))
    before = model.network.classifier.weight.clone()  # type: ignore[union-attr,operator]
    load_weights(model.network, tmp_path / "other.safetensors", new_head=True, heads=model.heads())
    assert torch.equal(model.network.stem[0].weight, other.network.stem[0].weight)  # type: ignore[index,union-attr]
    assert torch.equal(model.network.classifier.weight, before)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "need"), [(FitNets(), "features"), (FeatureKD(), "embedding")], ids=["maps", "vector"]
)
def test_a_method_without_the_outputs_it_needs_is_refused_with_submodules_that_could_serve(
    method: Any, need: str, tmp_path: Path
) -> None:
    (tmp_path / "conv.py").write_text(
        "from torch import nn\n"
        "class Conv(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.first = nn.Conv2d(3, 6, 3)\n"
        "        self.last = nn.Conv2d(6, num_classes, 1)\n"
        "        self.pool = nn.AdaptiveAvgPool2d(1)\n"
        "    def forward(self, x):\n"
        "        return self.pool(self.last(self.first(x))).flatten(1)\n"
    )
    student = replace(experiment().student, model=Network(f"{tmp_path}/conv.py:Conv"))
    run = run_of("distilled", student=student, method=method)
    with pytest.raises(ConfigError) as caught:
        NetworkChecks(digits()).require_method_fits(run)
    serving = {"features": "first [6, 6, 6], last [10, 6, 6]", "embedding": "pool [10, 1, 1]"}[need]
    assert f"--set student.model.{need}=NAME, one of {serving}" in str(caught.value)
