"""The inputs that the published values of kd_losses.json were computed for, drawn again."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = json.loads(Path(__file__).with_name("kd_losses.json").read_text(encoding="utf-8"))
CASES = [pytest.param(case, id=f"seed{case['seed']}") for case in GOLDEN["cases"]]


@dataclass(frozen=True)
class Drawn:
    """What the file's `draw` line describes: logits [B, C], labels [B], maps [B, K, H, W], vectors [B, D], float64."""

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
