"""Run folders with all metrics, costs and usage of a run."""

import hashlib
from typing import Any

PARAMETERS = {"teacher": 11_173_962, "student": 78_042}
TIMING = {"median": 2.0, "p10": 1.5, "p90": 3.0, "passes": 50, "batch_size": 1}
COSTS = {
    "shape": "ab",
    "device": "NVIDIA H100",
    "precision": "bf16",
    "threads": None,
    "image_size": 32,
    "torch": "2.15.0",
    "parameters": PARAMETERS["student"],
    "flops": 506_865_664,
    "latency_ms": TIMING,
    "images_per_s": TIMING | {"median": 51234.5, "p10": 50000.0, "p90": 52000.0, "batch_size": 256},
}


def sha256_of(weights: bytes) -> str:
    """Return the hash that run.json and test.json have of a run with these weights."""
    return hashlib.sha256(weights).hexdigest()


def metrics(top1: float, **changes: Any) -> dict[str, Any]:
    """Return the fields of test.json and val.json beside top1, for two classes and 100 images."""
    right = round(top1)
    return {
        "nll": 1 - top1 / 100,
        "num_images": 100,
        "top5": None,
        "ece": 0.01 * (100 - top1),
        "brier": 0.02 * (100 - top1),
        "agreement": None,
        "teacher_kl": None,
        "classes": ["cat", "dog"],
        "class_top1": [top1, None],
        "confusion": [[right, 100 - right], [0, 0]],
        "reliability": {"count": [0, 100], "confidence": [None, 0.9], "accuracy": [None, top1 / 100]},
        **changes,
    }


def write_evaluated_run(results, family: str, stage: str, seed: int, top1: float, **changes: Any) -> str:
    """Write a run with all files, and return its name."""
    name = results.run(family, stage, seed, top1, metrics=metrics(top1, **changes))
    folder = f"{'teachers' if stage == 'teacher' else family}/{name}"
    val = {"top1": top1 + 1, "weights_sha256": sha256_of(name.encode()), **metrics(top1)}
    results.write(f"{folder}/val.json", val)
    parameters = PARAMETERS["teacher" if stage == "teacher" else "student"]
    results.write(f"{folder}/costs.json", COSTS | {"parameters": parameters})
    piece = {"seconds": 60.0, "gpus": 1.0, "gpu": "NVIDIA H100"}
    piece |= {"joules": 12_000.0 + seed, "joules_missing_reason": None}
    results.write(f"{folder}/usage/0.json", {"run": name, "pieces": [piece, piece]})
    return name
