"""The metrics that the report shows: names, units, decimals, and which direction is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric. digits: decimals to show. unit: '' for a number without one."""

    label: str
    unit: str
    digits: int
    less_is_better: bool = False

    @property
    def name_with_unit(self) -> str:
        """'validation top1 (%)'."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def sign(self) -> int:
        """1 where a greater value is better, else -1."""
        return -1 if self.less_is_better else 1


# The metrics of a model on one split, as in test.json. More decimals than these would need more than 10,000 images.
METRICS = {
    "top1": Metric("top1", "%", 2),
    "top5": Metric("top5", "%", 2),
    "nll": Metric("NLL", "nats", 4, less_is_better=True),
    "ece": Metric("calibration error", "", 4, less_is_better=True),
    "brier": Metric("Brier score", "", 4, less_is_better=True),
    "agreement": Metric("agreement", "%", 2),
    "knn_top1": Metric("k-NN top1", "%", 2),
    "teacher_kl": Metric("KL to teacher", "nats", 4, less_is_better=True),
}
PAIRED = ("top1", "top5", "nll", "ece", "brier")  # a baseline has no teacher to agree with

# What a search optimizes, see raykd/spec/search.py.
SEARCH_METRICS = {
    "val_top1": Metric("validation top1", "%", 2),
    "val_loss": Metric("validation loss", "nats", 4, less_is_better=True),
    "parameters": Metric("parameters", "", 0, less_is_better=True),
    "latency_ms": Metric("latency", "ms", 2, less_is_better=True),
}
