"""A run whose weights were trained elsewhere: taken over, measured on validation, and laid down like any other."""

from pathlib import Path

from raykd.data.dataset import Dataset
from raykd.models.weights import load_weights
from raykd.plan import Run
from raykd.run_folder import RunFolder
from raykd.training.compute import Compute
from raykd.training.evaluate import evaluate
from raykd.training.records import finish
from raykd.training.training import make_model, validation_of


def take_over(run: Run, dataset: Dataset, folder: RunFolder, compute: Compute) -> None:
    """Leave `run` done with the weights of the file that it names. Raises ConfigError when they do not fit."""
    assert run.imported is not None
    model = make_model(run, dataset)
    load_weights(model.network, Path(run.imported.path))
    device = compute.device
    found = evaluate(model.to(device), validation_of(run.data, dataset, device), compute)
    finish(run, folder, dataset, model, model.network.state_dict(), 0.0, {"epoch": None, "val_top1": found.top1})
