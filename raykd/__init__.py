"""raykd: knowledge-distillation experiments on Ray, inside Slurm.

The public names of experiment files, scripts and notebooks. Each is loaded on first access, so that `--help` is fast.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raykd.cli.parser import main
    from raykd.config.limits import Interval, NonNegative, NonNegativeInt, Positive, PositiveInt
    from raykd.data.augmentation import Augmentation
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
        Memory,
        Method,
        ParameterGroup,
        ReviewKD,
        SimilarityPreserving,
        StandardizedDKD,
        TeacherClassifier,
    )
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
    from raykd.orchestration.library import plan, run
    from raykd.outputs import Outputs, Targets
    from raykd.report.build import load
    from raykd.report.report import Report
    from raykd.spec.benchmark import benchmark_experiments
    from raykd.spec.callback import Callback, RunInfo, RunOutcome
    from raykd.spec.experiment import Data, Experiment, Workers
    from raykd.spec.optimizers import SGD, AdamW, Optimizer
    from raykd.spec.recipe import Constant, Cosine, MultiStep, Recipe
    from raykd.spec.search import Search, choice, integer, loguniform, uniform
    from raykd.training.hooks import EpochReport

_NAMES = {
    "raykd.cli.parser": "main",
    "raykd.config.limits": "Interval NonNegative NonNegativeInt Positive PositiveInt",
    "raykd.data.augmentation": "Augmentation",
    "raykd.methods": "AttentionTransfer CorrelationCongruence CRD CrossEntropy DeiT DIST DKD EmbeddingRegression "
    "FeatureKD FitNets HardLabels KD LogitStandardization Memory Method NST ParameterGroup PKT ReviewKD RKD "
    "SimilarityPreserving SRRL StandardizedDKD TeacherClassifier VID",
    "raykd.models.three_stage_resnet": "CifarResNet",
    "raykd.models.cifar_resnet50": "BottleneckResNet",
    "raykd.models.custom_network": "Network",
    "raykd.models.hf_model": "HuggingFace",
    "raykd.models.mobilenet_cifar": "MobileNetV2",
    "raykd.models.four_stage_resnet": "ResNet",
    "raykd.models.shufflenet_cifar": "ShuffleNetV1 ShuffleNetV2",
    "raykd.models.timm_model": "Timm",
    "raykd.models.torchvision_model": "Torchvision",
    "raykd.models.vgg_cifar": "VGG",
    "raykd.models.vit_cifar": "ViT",
    "raykd.models.wide_resnet": "WideResNet",
    "raykd.orchestration.library": "plan run",
    "raykd.outputs": "Outputs Targets",
    "raykd.report.build": "load",
    "raykd.report.report": "Report",
    "raykd.spec.benchmark": "benchmark_experiments",
    "raykd.spec.callback": "Callback RunInfo RunOutcome",
    "raykd.spec.experiment": "Data Experiment Workers",
    "raykd.spec.optimizers": "AdamW Optimizer SGD",
    "raykd.spec.recipe": "Constant Cosine MultiStep Recipe",
    "raykd.spec.search": "Search choice integer loguniform uniform",
    "raykd.training.hooks": "EpochReport",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = list(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("raykd.provenance").VERSION
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'raykd' has no name '{name}'")
    try:
        module = import_module(_MODULE_OF[name])
    except ImportError as error:
        _report_broken_environment(error)
        raise
    if name == "main" and sys._getframe(1).f_globals.get("__name__") == "__main__":
        module.report_errors_in_one_line()  # `python FILE`: the file's lines run before it calls main()
    return getattr(module, name)


def _report_broken_environment(error: ImportError) -> None:
    """Raise ConfigError with the remedy if torch or Ray cannot be imported. Python then reports it in one line."""
    if remedy := import_module("raykd.environment").import_remedy(error):
        import_module("raykd.cli.parser").report_errors_in_one_line()
        raise import_module("raykd.errors").ConfigError(f"{error}; {remedy}") from error
