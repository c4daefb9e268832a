"""Repair a damaged weights file of a finished run from its last checkpoint."""

from raykd.data.types import Dataset
from raykd.disk.damage import DamagedFile
from raykd.errors import RunFailed
from raykd.provenance import file_sha256
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.training.best_epoch import num_epochs
from raykd.training.checkpoint import Checkpoint, read_checkpoint
from raykd.training.loop import WRITER_WAIT_S
from raykd.training.model_file import header_of, save_model


def repair_weights(run: Run, folder: RunFolder, dataset: Dataset) -> None:
    """Write best.safetensors of the finished `run` again; the last epoch's checkpoint also has the best weights.

    Raises DamagedFile if there is no intact checkpoint of the last epoch.
    """
    checkpoint = _last_checkpoint(run, folder)
    with folder.lock(WRITER_WAIT_S):
        save_model(folder.best, checkpoint.best, header_of(run, dataset))
        folder.update(weights_sha256=file_sha256(folder.best))


def _last_checkpoint(run: Run, folder: RunFolder) -> Checkpoint:
    try:
        checkpoint = read_checkpoint(folder.checkpoint, run.fingerprint)
        reason = "there is none; keep_checkpoints=true would keep it after the run's evaluation"
    except RunFailed as error:
        checkpoint, reason = None, str(error).split(";")[0]
    progress = checkpoint.progress if checkpoint is not None else None
    is_at_end = progress is not None and progress.epoch >= num_epochs(run.recipe, progress.history)
    if checkpoint is not None and is_at_end and checkpoint.best:
        return checkpoint
    raise DamagedFile(
        f"'{folder.best}' is damaged: {folder.weights_damage()}, and the run's checkpoint cannot restore it "
        f"({reason if checkpoint is None else 'it has an earlier epoch'}); move the folder '{folder.path}' away and "
        "rerun the same command to train the run again"
    )
