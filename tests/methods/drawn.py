"""Inputs of the published values in kd_losses.json, drawn again from their seeds."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = json.loads(Path(__file__).with_name("kd_losses.json").read_text(encoding="utf-8"))
CASES = [pytest.param(case, id=f"seed{case['seed']}") for case in GOLDEN["cases"]]
HARD_CASES = [
    pytest.param(case, id=f"{case['classes']}-margin{case['margin']:.0f}-{case['variant'] or 'independent'}")
    for case in GOLDEN["hard"]["cases"]
]


@dataclass(frozen=True)
class Drawn:
    """The inputs of one case, in float64: logits [B, C], labels [B], feature maps [B, K, H, W], vectors [B, D]."""

    student: Tensor
    teacher: Tensor
    labels: Tensor
    student_map: Tensor
    teacher_map: Tensor
    student_vec: Tensor
    teacher_vec: Tensor


def draw(case: dict) -> Drawn:
    random = np.random.RandomState(case["seed"])  # as the golden values were drawn

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape))

    batch, classes = case["batch"], case["classes"]
    student, teacher = normal(batch, classes) * 3, normal(batch, classes) * 3
    labels = torch.from_numpy(random.randint(0, classes, size=batch)).long()
    maps = normal(batch, *case["student_map"]), normal(batch, *case["teacher_map"])
    return Drawn(student, teacher, labels, *maps, normal(batch, case["vector"]), normal(batch, case["vector"]))


def draw_hard(case: dict) -> Drawn:
    """Draw the inputs of a hard case: confident logits, rare classes, dead and equal images."""
    random = np.random.RandomState(case["seed"])
    batch, classes = case["batch"], case["classes"]
    present = random.permutation(classes)[:8]
    labels = np.concatenate([present[:1], present[1 + random.randint(0, 7, size=batch - 1)]])
    decided = labels.copy()
    decided[batch - batch // 4 :] = present[0]

    def logits(classes_decided: np.ndarray) -> np.ndarray:
        drawn = random.standard_normal((batch, classes))
        drawn[np.arange(batch), classes_decided] += case["margin"]
        return drawn

    def activations(*shape: int) -> np.ndarray:
        sizes = 10 ** random.uniform(-2, 2, size=(batch, *[1] * len(shape)))
        drawn = np.maximum(random.standard_normal((batch, *shape)) - 1, 0) * sizes
        drawn[1], drawn[2] = drawn[0], 0
        if len(shape) == 3:
            drawn[:, 0] = 0
        return drawn

    student, teacher = logits(decided), logits(labels)
    student_vec, teacher_vec = activations(case["vector"]), activations(case["vector"])
    student_map, teacher_map = activations(*case["map"]), activations(*case["map"])
    if case["variant"] == "equal":
        teacher, teacher_vec, teacher_map = student, student_vec, student_map
    if case["variant"] == "float16":
        teacher, teacher_vec, teacher_map = (
            values.astype(np.float16).astype(np.float64) for values in (teacher, teacher_vec, teacher_map)
        )
    arrays = student, teacher, labels.astype(np.int64), student_map, teacher_map, student_vec, teacher_vec
    return Drawn(*map(torch.from_numpy, arrays))
