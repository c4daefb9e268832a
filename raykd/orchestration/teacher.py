"""The teacher of a run or of a trial, made in one place: its layout in memory decides the last bits of its logits."""

import torch

from raykd.models.weights import file_fingerprint
from raykd.run_folder import RunFolder
from raykd.training.teachers import LiveTeacher
from raykd.training.trained import load_trained


def teacher_from(folder: RunFolder, device: torch.device) -> LiveTeacher:
    """The best weights of the run in `folder`, channels last, as the loader's images are."""
    model = load_trained(folder.best).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LiveTeacher(model, file_fingerprint(folder.best))
