"""The best weights of a finished run, written again from its last checkpoint when their file was damaged."""

from raykd.data.types import Dataset
from raykd.errors import RunFailed
from raykd.provenance import file_sha256
from raykd.spec.plan import Run
from raykd.store.damage import DamagedFile
from raykd.store.run_folder import RunFolder
from raykd.training.checkpoint import Checkpoint, read_checkpoint
from raykd.training.model_file import save_model

WRITER_WAIT_S = 1.0  # who only looks how far a run is has its lock for an instant


def repair_weights(run: Run, folder: RunFolder, dataset: Dataset) -> None:
    """Write best.safetensors of the finished `run` again; the checkpoint of the last epoch holds the best weights too.

    Raises DamagedFile where no intact checkpoint of the whole run is there.
    """
    checkpoint = _last_checkpoint(run, folder)
    with folder.writer(WRITER_WAIT_S):
        save_model(folder.best, checkpoint.best, run, dataset)
        folder.update(weights_sha256=file_sha256(folder.best))


def _last_checkpoint(run: Run, folder: RunFolder) -> Checkpoint:
    try:
        found = read_checkpoint(folder.checkpoint, run.fingerprint)
        why = "there is none"
    except RunFailed as error:
        found, why = None, str(error).split(";")[0]
    if found is not None and found.progress.epoch >= run.recipe.epochs and found.best:
        return found
    raise DamagedFile(
        f"'{folder.best}' is damaged: {folder.weights_damage()}, and the run's checkpoint cannot restore it "
        f"({why if found is None else 'it is of an earlier epoch'}); move the folder '{folder.path}' away and rerun "
        "the same command to train the run again"
    )
