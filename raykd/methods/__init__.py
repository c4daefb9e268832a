"""Methods of distillation, one file a paper: a frozen object (`KD(alpha=0.5)`) and its pure loss (`kd_loss`)."""

from raykd.methods.cross_entropy import CrossEntropy
from raykd.methods.feature_kd import FeatureKD, feature_cosine_loss, feature_mse_loss
from raykd.methods.kd import KD, distillation_loss, kd_loss
from raykd.methods.method import Method

__all__ = [
    "KD",
    "CrossEntropy",
    "FeatureKD",
    "Method",
    "distillation_loss",
    "feature_cosine_loss",
    "feature_mse_loss",
    "kd_loss",
]
