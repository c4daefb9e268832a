"""Networks for students and teachers: raykd's CIFAR networks, and those of timm, torchvision, transformers and users.

All return Outputs.
"""

from raykd.models.model import MAX_SIDE, ImageModel, ImageSpec, Model
from raykd.models.registry import MODELS, build, find, num_parameters

__all__ = ["MAX_SIDE", "MODELS", "ImageModel", "ImageSpec", "Model", "build", "find", "num_parameters"]
