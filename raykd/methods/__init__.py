"""Distillation methods, one file per paper: a frozen dataclass (`KD(alpha=0.5)`) and its pure loss (`kd_loss`).

docs/methods.md compares them. Losses are means over the batch: scalars [] in float32 or float64.
"""

from raykd.methods.alpha import AlphaWeighted
from raykd.methods.at import AttentionTransfer, attention_transfer_loss
from raykd.methods.cc import CorrelationCongruence, correlation_congruence_loss
from raykd.methods.crd import CRD
from raykd.methods.cross_entropy import CrossEntropy
from raykd.methods.deit import DeiT
from raykd.methods.dist import DIST, dist_loss
from raykd.methods.dkd import DKD, dkd_loss
from raykd.methods.embedding import EmbeddingRegression
from raykd.methods.feature_kd import FeatureKD, feature_cosine_loss, feature_mse_loss
from raykd.methods.feature_method import FeatureMethod, StageMethod
from raykd.methods.fitnets import FitNets
from raykd.methods.hard_labels import HardLabels
from raykd.methods.kd import KD, distillation_loss, kd_loss
from raykd.methods.logit_standardization import LogitStandardization, StandardizedDKD, logit_standardization_kl
from raykd.methods.method import Memory, Method, ParameterGroup
from raykd.methods.nst import NST, nst_loss
from raykd.methods.pkt import PKT, pkt_loss
from raykd.methods.reviewkd import ReviewKD
from raykd.methods.rkd import RKD, rkd_angle_loss, rkd_distance_loss
from raykd.methods.sp import SimilarityPreserving, similarity_preserving_loss
from raykd.methods.srrl import SRRL
from raykd.methods.teacher_classifier import TeacherClassifier
from raykd.methods.vid import VID

__all__ = [
    "CRD",
    "DIST",
    "DKD",
    "KD",
    "NST",
    "PKT",
    "RKD",
    "SRRL",
    "VID",
    "AlphaWeighted",
    "AttentionTransfer",
    "CorrelationCongruence",
    "CrossEntropy",
    "DeiT",
    "EmbeddingRegression",
    "FeatureKD",
    "FeatureMethod",
    "FitNets",
    "HardLabels",
    "LogitStandardization",
    "Memory",
    "Method",
    "ParameterGroup",
    "ReviewKD",
    "SimilarityPreserving",
    "StageMethod",
    "StandardizedDKD",
    "TeacherClassifier",
    "attention_transfer_loss",
    "correlation_congruence_loss",
    "dist_loss",
    "distillation_loss",
    "dkd_loss",
    "feature_cosine_loss",
    "feature_mse_loss",
    "kd_loss",
    "logit_standardization_kl",
    "nst_loss",
    "pkt_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "similarity_preserving_loss",
]
