"""Typed configuration: overrides by dotted path, refused values, conversion to and from JSON, fingerprints."""

import json
import re
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import pytest
from hugging_face import CONFIGS, PREPROCESSOR
from small_runs import experiment, recipe, run_of
from user_network import UserNet

from raykd.config import Config, dotted, fingerprint, from_dict, kinds, not_fingerprinted, to_dict
from raykd.data.augmentation import Augmentation
from raykd.errors import ConfigError
from raykd.methods import (
    CRD,
    DIST,
    DKD,
    KD,
    NST,
    PKT,
    RKD,
    SRRL,
    VID,
    AttentionTransfer,
    CorrelationCongruence,
    CrossEntropy,
    DeiT,
    EmbeddingRegression,
    FeatureKD,
    FitNets,
    HardLabels,
    LogitStandardization,
    Method,
    ReviewKD,
    SimilarityPreserving,
    StandardizedDKD,
)
from raykd.models import Model
from raykd.models.cifar_resnet50 import BottleneckResNet
from raykd.models.custom_network import Network
from raykd.models.four_stage_resnet import ResNet
from raykd.models.hf_model import HuggingFace
from raykd.models.mobilenet_cifar import MobileNetV2
from raykd.models.shufflenet_cifar import ShuffleNetV1, ShuffleNetV2
from raykd.models.three_stage_resnet import CifarResNet
from raykd.models.timm_model import Timm
from raykd.models.torchvision_model import Torchvision
from raykd.models.vgg_cifar import VGG
from raykd.models.vit_cifar import ViT
from raykd.models.wide_resnet import WideResNet
from raykd.spec.experiment import Data, Experiment, Workers
from raykd.spec.optimizers import SGD, AdamW, Optimizer
from raykd.spec.overrides import override, override_all, parse
from raykd.spec.plan import Run, WeightsFile
from raykd.spec.recipe import Constant, Cosine, MultiStep, Recipe
from raykd.spec.search import Choice, Integer, Search, Uniform

# One of each kind, every field unlike its default.
SEARCH = Search(
    {"method.alpha": Uniform(0.1, 0.9)},
    8,
    ("val_loss",),
    ("min",),
    "random",
    "median",
    5,
    4,
    7,
    2000,
    2,
    1,
    "mine",
)
EXAMPLES: tuple[Config, ...] = (
    SGD(lr=0.3, momentum=0.5, weight_decay=1e-4, nesterov=True),
    AdamW(lr=3e-4, weight_decay=0.1, beta1=0.8, beta2=0.95),
    Optimizer("rmsprop", lr=0.3, alpha=0.9, eps=1e-6, weight_decay=1e-4, momentum=0.5, centered=True),
    Constant(),
    MultiStep(milestones=(0.25, 3.0), gamma=0.2),
    Cosine(warmup_epochs=2.5, floor=0.01),
    ResNet(blocks=(1, 2, 3, 4), width=8, weights="a.pth"),
    ViT(depth=2, width=24, heads=2, patch=2, dropout=0.1, weights="b.pth", distillation_token=True, drop_path=0.2),
    Timm("resnet18", input_size=64, weights="c.safetensors", arguments={"drop_rate": 0.1, "layers": (2, 2)}),
    Torchvision(
        "vgg11", input_size=64, weights="c.pth", embedding="pool", features=("layer1",), arguments={"dropout": 0.1}
    ),
    CifarResNet(depth=8, width=64, stem=32, weights="d.pth"),
    BottleneckResNet(blocks=(1, 1, 1, 1), width=8, weights="e.pth"),
    WideResNet(depth=40, factor=1, dropout=0.1, weights="f.pth"),
    VGG(depth=13, weights="g.pth"),
    MobileNetV2(width=1.0, expansion=4, weights="h.pth"),
    ShuffleNetV1(width=48, groups=2, weights="i.pth"),
    ShuffleNetV2(size="2x", weights="j.pth"),
    Network(
        UserNet,
        width=16,
        depths=[2, 2],
        act="silu",
        weights="k.pth",
        embedding="pool",
        features=("stage1", "stage2"),
        input_size=64,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        classifier=False,
    ),
    HuggingFace(
        json.dumps({"name": "me/vit", "config": CONFIGS["vit"], "preprocessing": PREPROCESSOR}, sort_keys=True),
        weights="l.pth",
        embedding="pool",
        features=("stage1",),
        input_size=64,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        classifier=False,
        arguments={"hidden_act": "relu"},
    ),
    CrossEntropy(),
    KD(alpha=0.1, temperature=2.0),
    DeiT(alpha=0.2, temperature=3.0),
    FeatureKD(alpha=0.2, temperature=3.0, distance="cosine", feature_weight=0.7),
    EmbeddingRegression(0.1, 0.9, 2.0, 10.0, "mse"),
    DKD(alpha=0.5, beta=2.0, temperature=3.0, warmup_epochs=10.0, ce_weight=0.5),
    StandardizedDKD(alpha=0.5, beta=2.0, temperature=3.0, warmup_epochs=10.0, ce_weight=0.5, weight=3.0),
    LogitStandardization(temperature=3.0, weight=5.0, ce_weight=1.0),
    DIST(beta=3.0, gamma=4.0, temperature=2.0, ce_weight=0.5),
    HardLabels(alpha=0.3),
    FitNets(0.1, 0.9, 2.0, (0, 2), 10.0),
    AttentionTransfer(0.1, 0.9, 2.0, (0, 2), 10.0, 4.0),
    SimilarityPreserving(0.1, 0.9, 2.0, (0, 2), 10.0),
    NST(0.1, 0.9, 2.0, (0, 2), 10.0),
    VID(0.1, 0.9, 2.0, (0, 2), 10.0, 2.0),
    ReviewKD(0.1, 0.9, 2.0, (0, 2), 10.0, 5.0, 256),
    RKD(0.1, 0.9, 2.0, 10.0, 20.0),
    PKT(0.1, 0.9, 2.0, 10.0),
    CorrelationCongruence(0.1, 0.9, 2.0, 10.0, 64),
    CRD(0.1, 0.9, 2.0, 10.0, 64, 100, 0.1, 0.9),
    SRRL(0.1, 0.9, 2.0, 10.0, 20.0),
    Data("digits", 10, 500, 100, 8, 0, False, 3, 0.25, 30, 0.875, "disk"),
    Workers(cpus=4, gpus=2.0, count=4, min_count=2, loaders=6),
    Uniform(0.1, 10.0, log=True),
    Integer(2, 8, log=True),
    Choice((1, 2.5, "kd", True)),
    SEARCH,
    WeightsFile("ab" * 32, "/somewhere/a.pth", key="model"),
    Augmentation(0.3, (2, 9), 8, 0.8, 1.0, erasing=0.25, erasing_fill="mean"),
    Recipe(
        *(ViT(), 7, AdamW(), Cosine(), 16, 0.1, 1.5, "bf16", False, True, "graph", True, Augmentation(cutout=8)),
        ema_decay=0.99,
        gradient_accumulation=4,
        class_weights=(0.5, 1.0),
        sampling="balanced",
        patience=3,
    ),
    Recipe(keep="last", repeats=3),  # the first excludes a patience, the second a balanced sampling
)


@dataclass(frozen=True)
class Knobs(Config):
    """A field of every type."""

    kind: ClassVar[str] = "test-knobs"
    whole: int = 1
    number: float = 1.0
    text: str = ""
    switch: bool = False
    choice: Literal["mse", "cosine"] = "mse"
    wholes: tuple[int, ...] = ()
    numbers: tuple[float, ...] = ()
    maybe: int | None = None
    inner: SGD | AdamW = SGD()
    cpus: int = not_fingerprinted(1)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("whole", "12_000", 12_000),
        ("number", "1e-3", 0.001),
        ("number", "2", 2.0),
        ("text", "none", "none"),
        ("text", "", ""),
        ("switch", "true", True),
        ("switch", "No", False),
        ("choice", "cosine", "cosine"),
        ("wholes", "0,1,2", (0, 1, 2)),
        ("wholes", "(3, )", (3,)),
        ("wholes", "", ()),
        ("numbers", "0.5, 3", (0.5, 3.0)),
        ("maybe", "none", None),
        ("maybe", "7", 7),
        ("inner", "adamw", AdamW()),
        ("inner", "AdamW", AdamW()),
        ("inner.lr", "0.2", SGD(lr=0.2)),
    ],
)
def test_override_reads_text_by_the_fields_type(path: str, text: str, value: Any) -> None:
    changed = override(Knobs(), path, text)
    parsed = getattr(changed, path.split(".")[0])
    assert parsed == value and type(parsed) is type(value)


def test_nested_values_have_dotted_paths() -> None:
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}}
    assert dict(dotted(nested)) == {"a.b": 1, "a.c.d": [1, 2], "e": None, "f": {}}


def test_override_changes_no_other_field() -> None:
    before = experiment()
    after = override(before, "student.optimizer.lr", "0.2")
    assert after == replace(before, student=replace(before.student, optimizer=SGD(lr=0.2)))
    assert before == experiment()


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("whole", "1.5", "'1.5' is not an integer"),
        ("number", "fast", "'fast' is not a number"),
        ("switch", "2", "'2' is not true or false"),
        ("choice", "l2", "'l2' is not one of mse, cosine"),
        ("wholes", "1,x", "each an integer"),
        ("maybe", "few", "'few' is not an integer or none"),
        ("inner", "adam", "'adam' is not one of sgd, adamw; did you mean 'adamw'?"),
        ("inner.lr", "-1", "lr = -1.0 in SGD: must be greater than 0"),
        ("inner.rl", "1", "unknown config field 'inner.rl': SGD has lr, momentum, weight_decay, nesterov"),
        ("number.more", "1", "unknown config field 'number.more': float has no fields"),
        ("nmber", "1", "did you mean 'number'?"),
        ("inner.", "1", "unknown config field 'inner.': SGD has lr"),
    ],
)
def test_override_refuses_invalid_text_in_one_line(path: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(Knobs(), path, text)
    assert message in str(caught.value) and path in str(caught.value)
    assert "\n" not in str(caught.value)


COMPARED = replace(experiment(), compare=(DKD(), FitNets(), SimilarityPreserving(), SimilarityPreserving(weight=9.0)))


def test_paths_with_a_kind_change_one_of_several_methods() -> None:
    changed = override_all(COMPARED, [("compare.dkd.beta", "2"), ("compare.fitnets.stages", "2"), ("seeds", "1")])
    assert changed == replace(
        COMPARED, compare=(DKD(beta=2.0), FitNets(stages=(2,)), *COMPARED.compare[2:]), seeds=(1,)
    )


@pytest.mark.parametrize("order", [1, -1])
def test_methods_that_are_set_together_take_the_fields_that_are_set(order: int) -> None:
    settings = [("compare", "dist,dkd"), ("compare.dkd.warmup_epochs", "3")][::order]
    assert override_all(experiment(), settings).compare == (DIST(), DKD(warmup_epochs=3.0))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "compare.dk.beta",
            "unknown config field 'compare.dk.beta': compare has dkd, fitnets, sp, sp; did you mean 'dkd'",
        ),
        ("compare.dkd.bta", "unknown config field 'compare.dkd.bta': DKD has alpha, beta, "),
        ("compare.dkd", "config field 'compare.dkd' takes no value; set its fields, or all of compare"),
        (
            "compare.sp.weight",
            "config field 'compare.sp.weight': compare has 2 of sp; change their fields in the exper",
        ),
        ("compare.0.beta", "unknown config field 'compare.0.beta': compare has dkd, fitnets, sp, sp"),
        ("compare.dkd.beta", "compare.dkd.beta=-1: beta = -1.0 in DKD: must be at least 0"),
    ],
)
def test_a_wrong_path_in_several_methods_is_one_line(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(message)}[^\n]*$"):
        override(COMPARED, path, "-1")


def test_paths_below_values_without_fields_are_unknown() -> None:
    for path, owner in (("compare.dkd.beta", "compare"), ("seeds.0", "seeds")):
        with pytest.raises(ConfigError, match=f"unknown config field '{path}': {owner} has no fields"):
            override(experiment(), path, "2")


def test_unknown_field_of_a_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        override(experiment(), "method.temprature", "2")
    message = "unknown config field 'method.temprature': KD has alpha, temperature; did you mean 'temperature'?"
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["feature_kd", "FeatureKD", "featurekd", "Feature_KD"])
def test_method_can_be_named_by_its_kind_or_its_class(text: str) -> None:
    assert override(experiment(), "method", text).method == FeatureKD()


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'feature_dk'.*did you mean 'feature_kd'"):
        override(experiment(), "method", "feature_dk")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"whole": 1.0}, "whole = 1.0 in Knobs: must be an integer"),
        ({"whole": True}, "whole = True in Knobs: must be an integer"),
        ({"number": "1"}, "number = '1' in Knobs: must be a number"),
        ({"number": False}, "number = False in Knobs: must be a number"),
        ({"text": None}, "text = None in Knobs: must be text"),
        ({"switch": 1}, "switch = 1 in Knobs: must be true or false"),
        ({"choice": "MSE"}, "choice = 'MSE' in Knobs: must be one of mse, cosine"),
        ({"wholes": (1, 2.5)}, "wholes = (1, 2.5) in Knobs: must be values separated by commas, each an integer"),
        (
            {"wholes": 3},
            "wholes = 3 in Knobs: must be values separated by commas, each an integer; write (3,) for a single one",
        ),
        ({"maybe": "none"}, "maybe = 'none' in Knobs: must be an integer or none"),
        ({"inner": KD()}, "must be SGD or AdamW"),
    ],
)
def test_wrong_types_are_refused_when_the_object_is_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Knobs(**changes)
    assert message in str(caught.value)


def test_lists_become_tuples_and_whole_numbers_floats() -> None:
    knobs = Knobs(wholes=[1, 2], numbers=[1, 2.5], number=3)  # pyright: ignore[reportArgumentType]
    assert knobs.wholes == (1, 2) and knobs.numbers == (1.0, 2.5) and type(knobs.number) is float
    assert type(knobs.numbers[0]) is float
    assert hash(knobs) == hash(Knobs(wholes=(1, 2), numbers=(1.0, 2.5), number=3.0))


def test_examples_show_every_field_of_every_kind_away_from_its_default() -> None:
    example_types = {type(example) for example in EXAMPLES} | {Experiment, Run}
    known = {kind for kind, cls in kinds(Config).items() if cls.__module__.startswith("raykd.")}
    assert {cls.kind for cls in example_types} == known
    for kind in {type(example) for example in EXAMPLES}:
        examples = [example for example in EXAMPLES if type(example) is kind]
        # One example of the fields of all models suffices.
        shared = {item.name for item in fields(Model)} if issubclass(kind, Model) and kind is not Network else set()
        shown = [item for item in fields(kind) if item.name not in shared]
        at_default = [item.name for item in shown if all(getattr(one, item.name) == item.default for one in examples)]
        assert not at_default, f"{kind.title()}: {at_default}"


def test_no_two_kinds_share_a_name() -> None:
    def below(cls: type[Config]) -> list[type[Config]]:
        return [cls, *(descendant for child in cls.__subclasses__() for descendant in below(child))]

    abstract = (Config, Method, *(cls for cls in below(Config) if cls.kind == "config"))
    ours = {cls for cls in below(Config) if cls.__module__.startswith("raykd.")}  # one of two bases is found twice
    concrete = [cls for cls in ours if cls not in abstract]
    assert len({cls.kind for cls in concrete}) == len(concrete)


@pytest.mark.parametrize(
    "example",
    [*EXAMPLES, experiment(), run_of("distilled"), run_of("distilled", teacher_seeds=(0, 1))],
    ids=lambda e: e.kind,
)
def test_to_dict_and_from_dict_are_inverse_through_json(example: Config) -> None:
    text = json.dumps(to_dict(example), allow_nan=False)
    assert from_dict(Config, json.loads(text)) == example


def test_from_dict_refuses_fields_and_kinds_of_another_version() -> None:
    with pytest.raises(ConfigError, match="KD has no field flavour: written by another version"):
        from_dict(Method, to_dict(KD()) | {"flavour": "mint"})
    with pytest.raises(ConfigError, match=r"kind 'telepathy' is not one of .*kd.*: written by another version"):
        from_dict(Method, {"kind": "telepathy"})


def test_from_dict_fills_missing_fields_with_their_defaults() -> None:
    assert from_dict(Method, {"kind": "kd", "alpha": 0.1}) == KD(alpha=0.1)


def test_results_only_excludes_fields_that_are_not_fingerprinted() -> None:
    assert "cpus" in to_dict(Knobs()) and "cpus" not in to_dict(Knobs(), results_only=True)
    assert to_dict(WeightsFile("ab", "/x"), results_only=True) == {"kind": "weights_file", "sha256": "ab", "key": ""}


def test_fingerprint_depends_on_content_and_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": [2.5, None]}) == fingerprint({"b": [2.5, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_every_value_that_a_field_accepts_has_a_fingerprint() -> None:
    """JSON has no infinity, so a field that accepted one would fail when the run is fingerprinted."""
    for example in (*EXAMPLES, recipe()):
        for field in fields(example):
            for bad in (float("inf"), float("nan"), float("-inf")):
                try:
                    changed = replace(example, **{field.name: bad})
                except ConfigError:
                    continue
                pytest.fail(f"{example.title()}.{field.name} = {bad} was accepted: {changed}")


def test_parse_describes_the_expected_type() -> None:
    with pytest.raises(ConfigError, match="'x' is not values separated by commas, each a number"):
        parse("x", tuple[float, ...])
