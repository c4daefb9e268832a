"""The metrics that the report shows: names, units, decimals, and which direction is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric. decimals: number of decimals to show. unit: '' for a metric without a unit."""

    label: str
    unit: str
    decimals: int
    lower_is_better: bool = False

    @property
    def name_with_unit(self) -> str:
        """The label with its unit, such as 'validation top-1 (%)'."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def sign(self) -> int:
        """The direction of improvement: 1 if a higher value is better, else -1."""
        return -1 if self.lower_is_better else 1


# The metrics of a model on one split, as in test.json. More decimals than these would need more than 10,000 images.
METRICS = {
    "top1": Metric("top-1", "%", 2),
    "top5": Metric("top-5", "%", 2),
    "nll": Metric("NLL", "nats", 4, lower_is_better=True),
    "ece": Metric("calibration error", "", 4, lower_is_better=True),
    "brier": Metric("Brier score", "", 4, lower_is_better=True),
    "agreement": Metric("agreement", "%", 2),
    "knn_top1": Metric("k-NN top-1", "%", 2),
    "teacher_kl": Metric("KL to teacher", "nats", 4, lower_is_better=True),
}
# Metrics with equal weight for each class, shown for data with unequal classes, see imbalance.py.
BALANCED_METRICS = {
    "balanced_accuracy": Metric("balanced accuracy", "%", 2),
    "macro_f1": Metric("macro-F1", "%", 2),
}
PAIRED_METRICS = ("top1", "top5", "nll", "ece", "brier")  # a baseline has no teacher to agree with

# What a search optimizes, see raykd/spec/search.py.
SEARCH_METRICS = {
    "val_top1": Metric("validation top-1", "%", 2),
    "val_loss": Metric("validation loss", "nats", 4, lower_is_better=True),
    "parameters": Metric("parameters", "", 0, lower_is_better=True),
    "latency_ms": Metric("latency", "ms", 2, lower_is_better=True),
}
