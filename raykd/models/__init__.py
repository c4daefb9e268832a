"""Students and teachers: CIFAR ResNets, the small ViT, any timm model; every one returns Outputs."""

from raykd.models.model import ImageModel, Images, Model
from raykd.models.registry import MODELS, build, find

__all__ = ["MODELS", "ImageModel", "Images", "Model", "build", "find"]
