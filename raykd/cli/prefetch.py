"""Download data and pretrained weights, which requires internet access. Nothing else in raykd downloads anything."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from raykd.cli.benchmark import ORIGIN
from raykd.data import cifar
from raykd.data.dataset_names import folder_of, is_user_provided, kind_of
from raykd.data.load import find_dataset, find_source
from raykd.disk.lookup import is_file
from raykd.errors import ConfigError, DataError
from raykd.models import Model, hf_files
from raykd.models.hf_model import HuggingFace
from raykd.models.weights import save_weights
from raykd.orchestration.progress import log
from raykd.spec.experiment import PRETRAINED, Experiment


def fetch(experiments: Sequence[Experiment], data_folder: Path, weights_folder: Path, console: Console) -> None:
    """Download the data and weights that `experiments` read. Files that exist already stay as they are."""
    for name in dict.fromkeys(experiment.data.name for experiment in experiments):
        _fetch_data(name, data_folder, console)
    if any(experiment.published for experiment in experiments):
        log(console, ORIGIN)
    recipes = [recipe for experiment in experiments for recipe in (experiment.teacher, experiment.student)]
    imported = [experiment.teacher.model for experiment in experiments if experiment.teacher_checkpoint == PRETRAINED]
    named = [recipe.model for recipe in recipes if getattr(recipe.model, "weights", "") == "pretrained"]
    models = [model for model in (*imported, *named) if isinstance(model, Model) and not isinstance(model, HuggingFace)]
    for path, model in {model.pretrained_file(weights_folder): model for model in models}.items():
        _fetch_weights(model, path, console)
    for name in dict.fromkeys(recipe.model.name for recipe in recipes if isinstance(recipe.model, HuggingFace)):
        _fetch_repository(name, console)


def _fetch_data(name: str, folder: Path, console: Console) -> None:
    """Download CIFAR. For another data set, print its folder: its origin is unknown, or raykd may not copy it.

    Raises DataError if that folder is missing.
    """
    if name == "digits":
        return
    if is_user_provided(name):
        look_for = find_dataset if kind_of(name) == "packed" else find_source
        look_for(name, folder)
        log(console, f"{name} is in {folder_of(name, folder)}")
        return
    title = cifar.VARIANTS[name].title
    try:
        cifar.find(name, folder)
        log(console, f"{title} is in {folder}")
    except DataError:
        log(console, f"downloading {title} to {folder} (170 MB)")
        cifar.download(name, folder)


def _fetch_weights(model: Model, path: Path, console: Console) -> None:
    if is_file(path):
        log(console, f"weights of {model.label} are in {path}")
        return
    log(console, f"downloading weights of {model.label} to {path}")
    with _download_errors(f"weights of '{model.label}'", "name a file with --set teacher.model.weights=FILE"):
        network = model.download()
    save_weights(path, network.state_dict())


def _fetch_repository(name: str, console: Console) -> None:
    """Download a repository of transformers into the local cache of the Hugging Face Hub.

    If `name` is a folder, or the repository is cached, only its path is printed.
    """
    is_complete = any(hf_files.find_file(name, file) for file in hf_files.WEIGHTS)
    if is_complete or Path(name).is_absolute():
        place = hf_files.find_file(name, hf_files.CONFIG)
        log(console, f"{hf_files.PREFIX}{name} is in {place.parent if place else name}")
        return
    log(console, f"downloading {hf_files.PREFIX}{name} to the local cache of the Hugging Face Hub")
    with _download_errors(f"'{hf_files.PREFIX}{name}'", "name a folder, hf:FOLDER"):
        hf_files.download_files(name)


@contextmanager
def _download_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn an error of the block into a ConfigError: the Hub's client raises errors of several packages."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"{what} cannot be downloaded ({reason}); run this on a machine with internet access, or {remedy}"
        ) from error
