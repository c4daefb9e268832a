"""Distillation methods, one file per paper: a frozen dataclass (`KD(alpha=0.5)`) and its pure loss (`kd_loss`).

docs/methods.md compares them. Losses are unweighted means over the batch: scalars [] in float32 or float64.
"""

from raykd.methods.at import AttentionTransfer, attention_transfer_loss
from raykd.methods.cc import CorrelationCongruence, correlation_congruence_loss
from raykd.methods.crd import CRD
from raykd.methods.cross_entropy import CrossEntropy
from raykd.methods.deit import DeiT
from raykd.methods.dist import DIST, dist_inter_loss, dist_intra_loss
from raykd.methods.dkd import DKD, nckd_loss, tckd_loss
from raykd.methods.feature_kd import FeatureKD, feature_cosine_loss, feature_mse_loss
from raykd.methods.feature_method import FeatureMethod, StageMethod
from raykd.methods.fitnets import FitNets
from raykd.methods.hard_labels import HardLabels, hard_label_loss
from raykd.methods.kd import KD, kd_loss
from raykd.methods.logit_standardization import (
    LogitStandardization,
    StandardizedDKD,
    standardize,
)
from raykd.methods.method import Memory, Method
from raykd.methods.nst import NST, nst_loss
from raykd.methods.pkt import PKT, pkt_loss
from raykd.methods.rkd import RKD, rkd_angle_loss, rkd_distance_loss
from raykd.methods.sp import SimilarityPreserving, similarity_preserving_loss
from raykd.methods.vid import VID, vid_loss

__all__ = [
    "CRD",
    "DIST",
    "DKD",
    "KD",
    "NST",
    "PKT",
    "RKD",
    "VID",
    "AttentionTransfer",
    "CorrelationCongruence",
    "CrossEntropy",
    "DeiT",
    "FeatureKD",
    "FeatureMethod",
    "FitNets",
    "HardLabels",
    "LogitStandardization",
    "Memory",
    "Method",
    "SimilarityPreserving",
    "StageMethod",
    "StandardizedDKD",
    "attention_transfer_loss",
    "correlation_congruence_loss",
    "dist_inter_loss",
    "dist_intra_loss",
    "feature_cosine_loss",
    "feature_mse_loss",
    "hard_label_loss",
    "kd_loss",
    "nckd_loss",
    "nst_loss",
    "pkt_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "similarity_preserving_loss",
    "standardize",
    "tckd_loss",
    "vid_loss",
]
