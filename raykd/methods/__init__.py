"""Distillation methods, one file per paper: a frozen dataclass (`KD(alpha=0.5)`) and its pure loss (`kd_loss`).

docs/methods.md compares them. Losses are unweighted means over the batch: scalars [] in float32 or float64.
"""

from raykd.methods.alpha import AlphaWeighted
from raykd.methods.at import AttentionTransfer
from raykd.methods.cc import CorrelationCongruence
from raykd.methods.crd import CRD
from raykd.methods.cross_entropy import CrossEntropy
from raykd.methods.deit import DeiT
from raykd.methods.dist import DIST
from raykd.methods.dkd import DKD
from raykd.methods.embedding import EmbeddingRegression
from raykd.methods.feature_kd import FeatureKD
from raykd.methods.feature_method import FeatureMethod, StageMethod
from raykd.methods.fitnets import FitNets
from raykd.methods.hard_labels import HardLabels
from raykd.methods.kd import KD
from raykd.methods.logit_standardization import LogitStandardization, StandardizedDKD
from raykd.methods.method import Memory, Method, ParameterGroup
from raykd.methods.nst import NST
from raykd.methods.pkt import PKT
from raykd.methods.reviewkd import ReviewKD
from raykd.methods.rkd import RKD
from raykd.methods.sp import SimilarityPreserving
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
]
