"""The flags of a benchmark's file: --pair selects pairs of networks, and --teachers imports published teachers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raykd.disk.lookup import is_file
from raykd.errors import ConfigError
from raykd.models import Model
from raykd.spec.experiment import Experiment

# The normalization of the CIFAR-100 loaders with which RepDistiller's and mdistiller's teachers were trained.
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
# Paths of a teacher's checkpoint below the folder: as both repositories unpack it, or as a single file.
PLACES = ("{name}_vanilla/ckpt_epoch_240.pth", "{name}_vanilla/{name}_vanilla.pth", "{name}.pth", "{name}.safetensors")
ORIGIN = (
    "published teachers: RepDistiller's scripts/fetch_pretrained_teachers.sh downloads them, and mdistiller's releases "
    "have them as cifar_teachers.tar; unpack them into a folder DIR and add --teachers DIR"
)


def selected_pairs(experiments: Sequence[Experiment], pairs: Sequence[str] | None) -> list[Experiment]:
    """Return the experiments of the pairs that --pair selects: all, several, or the file's first one by default."""
    if not pairs:
        return [experiments[0]]
    return [experiment for experiment in experiments if "all" in pairs or experiment.published in pairs]


def with_published_teacher(experiment: Experiment, folder: Path) -> Experiment:
    """Return `experiment` with the published teacher of its pair.

    Raises ConfigError if the folder does not have it, or if the experiment has a `teacher_checkpoint` already.
    """
    if file := experiment.teacher_checkpoint:
        raise ConfigError(f"--teachers {folder} and teacher_checkpoint = {file} both name a teacher; leave one out")
    name = experiment.published.partition(":")[0]
    places = [folder / place.format(name=name) for place in PLACES]
    found = next((place for place in places if is_file(place)), None)
    if found is None:
        raise ConfigError(
            f"--teachers {folder}: no teacher '{name}' there; looked for {', '.join(map(str, places))}; {ORIGIN}"
        )
    model = experiment.teacher.model
    assert isinstance(model, Model)  # the recipe looked its name up
    teacher = replace(experiment.teacher, model=model if model.mean else replace(model, mean=MEAN, std=STD))
    return replace(experiment, teacher_checkpoint=str(found), teacher=teacher)
