"""The measures that the report knows by name: what each is called, its unit, which end is the better one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """digits: behind the point, what some thousand images resolve. unit: '' for a bare number."""

    label: str
    unit: str
    digits: int
    less_is_better: bool


MEASURES = {
    "top1": Measure("top1", "%", 2, less_is_better=False),
    "top5": Measure("top5", "%", 2, less_is_better=False),
    "nll": Measure("NLL", "nats", 4, less_is_better=True),
    "ece": Measure("calibration error", "", 4, less_is_better=True),
    "brier": Measure("Brier score", "", 4, less_is_better=True),
    "agreement": Measure("agreement", "%", 2, less_is_better=False),
    "teacher_kl": Measure("KL of teacher", "nats", 4, less_is_better=True),
}
COMPARED = ("top1", "top5", "nll", "ece", "brier")  # a baseline has no teacher to agree with
