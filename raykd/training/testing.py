"""The test set, read once for each trained run and never to choose anything."""

from dataclasses import asdict

from raykd.atomic import write_json
from raykd.data.dataset import Dataset
from raykd.models.weights import file_fingerprint
from raykd.run_folder import RunFolder, read_json
from raykd.training.compute import Compute
from raykd.training.evaluate import evaluate
from raykd.training.trained import load_trained


def is_tested(folder: RunFolder) -> bool:
    """Whether test.json is there and of the weights that lie beside it."""
    tested = read_json(folder.test)
    return bool(tested) and folder.best.is_file() and tested.get("weights_sha256") == file_fingerprint(folder.best)


def evaluate_on_test(folder: RunFolder, dataset: Dataset, compute: Compute) -> None:
    """Write test.json for the run's best weights, unless it is there."""
    if is_tested(folder):
        return
    model = load_trained(folder.best).to(compute.device)
    result = evaluate(model, dataset.test, compute)
    write_json(folder.test, asdict(result) | {"weights_sha256": file_fingerprint(folder.best)})
