"""The recipe of DeiT in the documentation is an experiment with the values of the paper's table 9."""

import re
from pathlib import Path

import raykd
from raykd.models import Model
from raykd.models.timm_model import Timm
from raykd.spec.experiment import Experiment
from raykd.spec.recipe import AdamW, Cosine

DOCUMENT = Path(raykd.__file__).parents[1] / "docs" / "training.md"


def documented() -> Experiment:
    section = DOCUMENT.read_text(encoding="utf-8").partition("## DeiT's recipe")[2]
    (block,) = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    names = {name: getattr(raykd, name) for name in raykd.__all__}
    exec(block, names)  # noqa: S102 - the test is about this code
    return names["experiment"]


def test_the_documented_recipe_has_the_papers_values() -> None:
    experiment = documented()
    student = experiment.student
    assert (student.epochs, student.batch_size, student.label_smoothing, student.repeats) == (300, 1024, 0.1, 3)
    assert student.optimizer == AdamW(lr=5e-4 * 1024 / 512, weight_decay=0.05)
    assert isinstance(student.schedule, Cosine) and student.schedule.floor * student.optimizer.lr == 1e-5
    augmentation = student.augmentation
    assert (augmentation.erasing, augmentation.erasing_fill) == (0.25, "noise")
    assert (augmentation.mixup, augmentation.cutmix, augmentation.randaugment) == (0.8, 1.0, (2, 9))
    assert isinstance(student.model, Timm) and student.model.arguments == {"drop_path_rate": 0.1}
    assert isinstance(student.model, Model) and student.model.has_distillation_token
    assert experiment.why_never_cached and experiment.method.kind == "deit"
