"""Arguments of the constructors of timm, torchvision and transformers: passed, checked, identified and set by text."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face import CONFIGS
from small_runs import digits, recipe, run_of
from timm.layers.drop import DropPath
from torch import nn

from raykd import models
from raykd.config import FrozenDict, from_dict, to_dict
from raykd.errors import ConfigError
from raykd.models import ImageSpec, Model
from raykd.models.hf_model import HuggingFace
from raykd.models.library_model import LibraryModel
from raykd.models.registry import num_parameters
from raykd.models.timm_model import Timm
from raykd.models.torchvision_model import Torchvision
from raykd.models.vit_cifar import ViT
from raykd.spec.overrides import override, override_all
from raykd.spec.recipe import Recipe
from raykd.spec.set_paths import settings_of
from raykd.training.model_file import architecture

IMAGES = ImageSpec(10, 32, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
HF_VIT = json.dumps({"config": CONFIGS["vit"]}, sort_keys=True)


def timm(name: str = "test_vit", **arguments: Any) -> Timm:
    return Timm(name, input_size=32, arguments=arguments)


def torchvision(name: str, **arguments: Any) -> Torchvision:
    return Torchvision(name, input_size=32, arguments=arguments)


def hugging_face(**arguments: Any) -> HuggingFace:
    return HuggingFace(HF_VIT, arguments=arguments)


def network_of(model: Model) -> Any:
    return models.build(model, IMAGES, seed=0).network


def drop_paths(network: nn.Module) -> list[float]:
    return [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]


def test_arguments_reach_the_constructor() -> None:
    assert max(drop_paths(network_of(timm(drop_path_rate=0.2)))) == pytest.approx(0.2)
    assert network_of(timm(num_heads=4)).blocks[0].attn.num_heads == 4
    assert network_of(timm("test_resnet", drop_path_rate=0.2, drop_rate=0.3)).drop_rate == 0.3
    assert network_of(torchvision("squeezenet1_1", dropout=0.3)).classifier[0].p == 0.3
    assert network_of(hugging_face(hidden_dropout_prob=0.4)).config.hidden_dropout_prob == 0.4
    assert max(drop_paths(network_of(ViT(depth=2, width=24, heads=2, drop_path=0.2)))) == pytest.approx(0.2)


def test_arguments_change_neither_initial_weights_nor_the_number_of_parameters() -> None:
    """Stochastic depth has no weights."""
    plain, dropping = network_of(timm()).state_dict(), network_of(timm(drop_path_rate=0.2)).state_dict()
    assert all(torch.equal(plain[name], dropping[name]) for name in plain)
    assert num_parameters(timm(drop_path_rate=0.2), IMAGES) == num_parameters(timm(), IMAGES)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Timm("test_vit"), "baseline-test_vit-s0-5e300b273525"),
        (Torchvision("squeezenet1_1"), "baseline-torchvision-squeezenet1_1-s0-fb293814dd26"),
        (HuggingFace(HF_VIT), "baseline-hf-vit-s0-5214150f2221"),
        (ViT(depth=2, width=24, heads=2, patch=2), "baseline-vit2-w24-p2-s0-0253d36372f8"),
    ],
    ids=["timm", "torchvision", "hf", "vit"],
)
def test_runs_without_arguments_keep_the_names_that_they_had_before_there_were_any(model: Model, name: str) -> None:
    assert run_of("baseline", student=recipe(model=model)).name == name
    assert "arguments" not in to_dict(model)


def test_arguments_are_part_of_the_name_and_the_identity() -> None:
    names = {
        run_of("baseline", student=recipe(model=model)).name
        for model in (timm(), timm(drop_path_rate=0.1), timm(drop_path_rate=0.2), timm(drop_rate=0.1))
    }
    assert len(names) == 4
    assert timm(drop_path_rate=0.1).label == "test_vit-drop_path_rate0.1"
    assert torchvision("swin_t", norm=(1, 2)).label == "torchvision-swin_t-norm1_2"
    assert hugging_face(hidden_dropout_prob=0.4).label == "hf-vit-hidden_dropout_prob0.4"


def test_the_order_of_arguments_does_not_matter() -> None:
    one, other = timm(drop_rate=0.1, drop_path_rate=0.2), timm(drop_path_rate=0.2, drop_rate=0.1)
    assert one == other and hash(one) == hash(other)
    runs = [run_of("baseline", student=recipe(model=model)) for model in (one, other)]
    assert runs[0].fingerprint == runs[1].fingerprint and runs[0].name == runs[1].name


@pytest.mark.parametrize(
    "model",
    [
        timm(drop_path_rate=0.1, class_token=False, global_pool="avg", sizes=[2, 2]),
        torchvision("vgg11", dropout=0.1),
        hugging_face(hidden_dropout_prob=0.4),
    ],
    ids=["timm", "torchvision", "hf"],
)
def test_arguments_survive_json_pickle_and_a_copy(model: LibraryModel) -> None:
    assert from_dict(Model, json.loads(json.dumps(to_dict(model)))) == model
    loaded = pickle.loads(pickle.dumps(model))  # noqa: S301 - the test's own bytes
    assert loaded == copy.deepcopy(model) == model and isinstance(loaded.arguments, FrozenDict)


def test_arguments_cannot_be_changed_after_the_model_is_made() -> None:
    given = {"drop_path_rate": 0.1}
    model = Timm("test_vit", arguments=given)
    given["drop_path_rate"] = 0.2
    assert model.arguments == {"drop_path_rate": 0.1}
    for change in (lambda: model.arguments.update(a=1), lambda: model.arguments.pop("drop_path_rate")):  # type: ignore
        with pytest.raises(TypeError, match="cannot be changed"):
            change()


def test_pretrained_weights_do_not_depend_on_arguments() -> None:
    folder = Path("weights")
    assert timm(drop_path_rate=0.1).pretrained_file(folder) == timm().pretrained_file(folder)
    assert timm().pretrained_file(folder) == folder / "test_vit.safetensors"


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown": (
        lambda: network_of(timm(foo=1)),
        "arguments.foo = 1 in Timm: the constructor of VisionTransformer has no such argument; it has patch_size, "
        "global_pool,",
    ),
    "mistyped": (lambda: network_of(timm(drop_path_rat=0.1)), "; did you mean 'drop_path_rate'?"),
    "short": (lambda: network_of(timm(drop_path=0.1)), "; did you mean 'drop_path_rate'?"),
    "unknown to a constructor with **kwargs": (
        lambda: network_of(torchvision("mobilenet_v3_small", foo=1)),
        "arguments.foo = 1 in Torchvision: the constructor of MobileNetV3 has no such argument; it has",
    ),
    "unknown to a configuration, which keeps any": (
        lambda: network_of(hugging_face(drop=0.1)),
        "arguments.drop = 0.1 in HuggingFace: the configuration of vit has no such argument; did you mean "
        "'hidden_dropout_prob'?",
    ),
    "one of two": (lambda: network_of(timm(drop_path_rate=0.1, num_heads=5)), "arguments.num_heads = 5 in Timm: "),
    "of another type": (
        lambda: network_of(timm(drop_path_rate="a")),
        "arguments.drop_path_rate = 'a' in Timm: TypeError: ",
    ),
    "of a value that fails in training only": (
        lambda: network_of(timm(drop_path_rate=1.5)),
        "arguments = {'drop_path_rate': 1.5} in Timm: training fails with RuntimeError: bernoulli_ expects p",
    ),
    "without logits": (
        lambda: network_of(timm(global_pool="")),
        "arguments = {'global_pool': ''} in Timm: with these the network returns logits of shape [2, 5, 10] for 2 "
        "images, which must be [2, 10]; change them or leave them out",
    ),
    "set by the name": (
        lambda: network_of(torchvision("swin_t", num_heads=3)),
        "arguments.num_heads = 3 in Torchvision: torchvision.models.get_model sets it for this name; leave it out",
    ),
    "passed by raykd": (lambda: timm(img_size=64), "raykd passes the image size; leave it out, or set input_size"),
    "weights": (lambda: torchvision("vgg11", weights="x"), "raykd loads weights itself; set weights of the model"),
    "classes": (lambda: hugging_face(num_labels=3), "raykd passes the data's classes; leave it out"),
    "an object": (lambda: timm(norm_layer=nn.LayerNorm), "must be a mapping of names to numbers, text, true or false"),
    "not a number": (lambda: timm(drop_rate=float("nan")), "must be a mapping of names to numbers, text"),
    "no mapping": (lambda: Timm("test_vit", arguments=0.1), "arguments = 0.1 in Timm: must be a mapping of names"),  # type: ignore[arg-type]
    "as a field": (
        lambda: Timm("test_vit", drop_path_rate=0.1),  # type: ignore[call-arg]
        "drop_path_rate is no field of Timm: set an argument of timm.create_model as "
        "arguments.drop_path_rate=VALUE, in a file arguments={'drop_path_rate': VALUE}",
    ),
    "a mistyped field": (lambda: Timm("test_vit", input_sise=32), "did you mean 'input_size'?"),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_argument_that_cannot_be_passed_is_refused_in_one_line(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_error_that_no_argument_causes_is_the_usual_one() -> None:
    with pytest.raises(ConfigError, match=r"timm model 'resnet18\.no_tag' cannot be built"):
        network_of(timm("resnet18.no_tag", drop_rate=0.1))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_byobnet"])
def test_logits_in_training_are_those_of_the_library_for_the_same_random_numbers(name: str) -> None:
    model = models.build(timm(name, drop_rate=0.5, drop_path_rate=0.5), IMAGES, seed=0).train()
    pixels, logits = torch.randn(8, 3, 32, 32), []
    for run in (lambda: model.run(pixels).logits, lambda: model.network(pixels)):
        torch.manual_seed(3)
        logits.append(run())
    assert torch.equal(logits[0], logits[1])
    torch.manual_seed(4)
    assert not torch.equal(model.run(pixels).logits, logits[0])
    model.eval()
    assert torch.equal(model.run(pixels).logits, model.run(pixels).logits)


def test_text_sets_arguments_by_their_names() -> None:
    texts = {"drop_rate": "0.1", "depth": "3", "class_token": "false", "global_pool": "avg", "dims": "8,16", "act": ""}
    expected = {"drop_rate": 0.1, "depth": 3, "class_token": False, "global_pool": "avg", "dims": (8, 16), "act": ""}
    settings = [("model", "timm:test_vit"), *((f"model.arguments.{name}", text) for name, text in texts.items())]
    changed = override_all(Recipe(), settings)
    assert changed.model == Timm("test_vit", arguments=expected)
    without = override(changed, "model.arguments.depth", "none").model
    assert without == Timm("test_vit", arguments={name: expected[name] for name in expected if name != "depth"})


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        (
            "model.drop_path_rate",
            "0.1",
            "model.drop_path_rate is no field of Timm: set an argument of timm.create",
        ),
        ("model.arguments", "0.1", "model.arguments=0.1: it has no value as a whole; set a single one by its name"),
        ("model.arguments.a.b", "1", "unknown config field 'model.arguments.a.b': a has no fields"),
        ("model.arguments.num_classes", "3", "raykd passes the number of the data's classes; leave it out"),
    ],
)
def test_text_that_sets_no_argument_is_refused(path: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(Recipe("timm:test_vit"), path, text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_recorded_argument_has_the_path_that_sets_it() -> None:
    run = run_of("baseline", student=recipe(model=timm(drop_path_rate=0.1, dims=(8, 16))))
    settings = settings_of(to_dict(run), "baseline")
    assert settings["student.model.arguments.drop_path_rate"] == "0.1"
    text = settings["student.model.arguments.dims"]
    assert override(Recipe("timm:test_vit"), "model.arguments.dims", text).model.arguments == {"dims": (8, 16)}


def test_stochastic_depth_and_dropout_do_not_change_an_architecture_and_other_arguments_do() -> None:
    plain = architecture(timm())
    for name in ("drop_path_rate", "drop_rate", "attn_drop_rate"):
        assert architecture(timm(**{name: 0.1})) == plain
    assert architecture(torchvision("swin_t", stochastic_depth_prob=0.1)) == architecture(torchvision("swin_t"))
    assert architecture(timm(num_heads=4)) != plain
    assert architecture(ViT(drop_path=0.1)) == architecture(ViT())


def test_a_network_with_arguments_trains_on_images_of_the_data() -> None:
    model = models.build(timm(drop_path_rate=0.1), ImageSpec(10, 8, IMAGES.mean, IMAGES.std), seed=0)
    assert model.train()(digits().test.images[:4]).logits.shape == (4, 10)
