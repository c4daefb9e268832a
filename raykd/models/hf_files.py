"""The files of an image classifier of Hugging Face transformers: a folder of `save_pretrained`, or a cached repository.

    config.json                 the architecture, and the names of the classes
    preprocessor_config.json    the normalization and the size of the network's images
    model.safetensors           the weights; pytorch_model.bin in older repositories

Nothing here imports transformers, and nothing but `download_files` uses a network.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raykd.disk.lookup import is_file, is_folder
from raykd.errors import COMMAND, ConfigError, require_file, shown

PREFIX = "hf:"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first one that exists is read
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # organization/name, or the name alone
# Entries of config.json that do not determine the network: names, classes, the loss, and options of a call. Entries
# with a leading underscore do not determine it either. An implementation of attention may name code on the Hub.
_NOT_OF_NETWORK = (
    "attn_implementation", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id", "num_labels",
    "problem_type", "finetuning_task", "task_specific_params", "return_dict", "use_return_dict", "output_attentions",
    "output_hidden_states",
)  # fmt: skip
# Entries, at any depth, with which transformers loads another repository, its code or its weights.
_OTHER_FILES = ("auto_map", "backbone", "backbone_kwargs", "use_pretrained_backbone", "quantization_config")
# Entries of preprocessor_config.json that change the pixels.
_PREPROCESSING = (
    "do_normalize", "image_mean", "image_std", "do_rescale", "rescale_factor", "rescale_offset", "include_top",
    "do_resize", "size", "do_center_crop", "crop_size",
)  # fmt: skip
_RESCALE = 1 / 255


def read_repository(text: Any) -> Any:
    """Return the parts of a folder or repository that raykd uses, as JSON text. Other values are returned unchanged.

    The JSON text is {"name": ..., "config": {...}, "preprocessing": {...}}, with the absolute path of a folder as name;
    such a text is returned unchanged. A repository that is not in the cache has only its name, so that `prefetch` can
    read the experiment that names it.

    Raises ConfigError for a folder that does not exist, for damaged files, and for a repository with code.
    """
    if not isinstance(text, str) or text.startswith("{"):
        return text
    name = _absolute(text.removeprefix(PREFIX))
    path = find_file(name, CONFIG)
    if path is None:
        return json.dumps({"name": name})
    preprocessor = find_file(name, PREPROCESSOR)
    content: dict[str, Any] = {"name": name, "config": network_config(_read_json(path), name)}
    if preprocessor is not None:
        entries = _read_json(preprocessor)
        kept = {entry: entries[entry] for entry in _PREPROCESSING if entries.get(entry) is not None}
        content["preprocessing"] = kept
    return json.dumps(content, sort_keys=True)


def with_absolute_path(text: Any) -> Any:
    """Return 'hf:FOLDER' with the folder's absolute path; any other value unchanged."""
    is_repository = isinstance(text, str) and text.startswith(PREFIX)
    return f"{PREFIX}{_absolute(text.removeprefix(PREFIX))}" if is_repository else text


def _absolute(name: str) -> str:
    """Return the absolute path of a folder, or a repository's name. Raises ConfigError if `name` is neither."""
    folder = Path(name).expanduser()
    try:
        if name and is_folder(folder):
            if not is_file(folder / CONFIG):
                raise ConfigError(f"model = {PREFIX}{name}: the folder has no {CONFIG}; name one of save_pretrained")
            return str(folder.resolve())
    except OSError as error:
        raise ConfigError(f"model = {PREFIX}{name}: the folder cannot be read ({error.strerror})") from None
    if not _REPOSITORY.fullmatch(name):
        raise ConfigError(
            f"model = {PREFIX}{name}: no such folder; name a folder of save_pretrained, relative to {Path.cwd()}, or a "
            f"repository such as {PREFIX}microsoft/resnet-50"
        )
    return name


def find_file(name: str, file: str) -> Path | None:
    """Return the path of a file in a folder or a cached repository; None if it is not there."""
    folder = Path(name)
    if folder.is_absolute():
        return folder / file if is_file(folder / file) else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)  # or a mark that the repository does not have the file
    return Path(found) if isinstance(found, str) else None


def weights_file(name: str) -> Path:
    """Return the file with the weights of a folder or cached repository. Raises ConfigError if there is none."""
    for file in WEIGHTS:
        if (path := find_file(name, file)) is not None:
            return path
        if find_file(name, f"{file}.index.json") is not None:
            raise ConfigError(
                f"model = {PREFIX}{name}: its weights are split into several files; load it with transformers and save "
                "it as one: save_pretrained(FOLDER, max_shard_size='1TB')"
            )
    if find_file(name, CONFIG) is None:
        raise not_found(name)
    raise ConfigError(f"model = {PREFIX}{name}: it has no weights; it must have {' or '.join(WEIGHTS)}")


def not_found(name: str) -> ConfigError:
    """Return the error for a name that is neither a folder nor a cached repository."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return ConfigError(
        f"model = {PREFIX}{name}: is no folder, and no repository in the cache '{HF_HUB_CACHE}'; check the name, or "
        f"run `{COMMAND} prefetch EXPERIMENT` on a machine with internet access"
    )


def download_files(name: str) -> Path:
    """Download a repository into the local cache of the Hugging Face Hub, and return the path of its weights.

    Only `prefetch` calls it.

    Raises an error of huggingface_hub if there is no network or no such repository.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    hf_hub_download(name, CONFIG)
    for file in (PREPROCESSOR, *WEIGHTS):
        try:
            hf_hub_download(name, file)
        except EntryNotFoundError:
            continue
        if file in WEIGHTS:
            break
    return weights_file(name)


def cached_repositories() -> list[str]:
    """Return the sorted names of the image classifiers in the local cache of the Hugging Face Hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    names = [path.name.removeprefix("models--").replace("--", "/") for path in Path(HF_HUB_CACHE).glob("models--*")]
    return sorted(name for name in names if _is_classifier(find_file(name, CONFIG)))


def _is_classifier(path: Path | None) -> bool:
    try:
        architectures = (_read_json(path) if path else {}).get("architectures") or []
    except ConfigError:
        return False
    return any(str(architecture).endswith("ForImageClassification") for architecture in architectures)


def class_names(weights: Path) -> tuple[str, ...]:
    """Return the names of the classes that config.json beside the weights lists, in order; () without such a file.

    Raises ConfigError if it is damaged.
    """
    path = weights.with_name(CONFIG)
    labels = _read_json(path).get("id2label") if is_file(path) else None
    if not isinstance(labels, Mapping):
        return ()
    try:
        named = {int(index): str(name) for index, name in labels.items()}
    except ValueError:
        raise ConfigError(f"'{path}': id2label = {shown(labels)} must number the classes") from None
    if sorted(named) != list(range(len(named))):
        raise ConfigError(f"'{path}': id2label must number the classes from 0 without gaps, and has {len(named)}")
    names = [named[index] for index in range(len(named))]
    is_unnamed = names == [f"LABEL_{index}" for index in range(len(names))]  # the default of transformers
    return tuple(str(index) for index in range(len(names))) if is_unnamed else tuple(names)


def network_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the entries of config.json that determine the network. Raises ConfigError if it cannot be used."""
    subject = f"model = {PREFIX}{name}"
    if entry := _entry_of_other_files(config):
        raise ConfigError(
            f"{subject}: its {CONFIG} has {entry}, which names code or another repository, and that is never read; "
            "put the network's class into a file and use my_net.py:MyNet"
        )
    kind, timm_name = config.get("model_type"), config.get("architecture")
    if kind == "timm_wrapper" or (not kind and timm_name):
        raise ConfigError(f"{subject}: is a network of timm; use timm:{timm_name or 'NAME'} with its file as weights")
    if not isinstance(kind, str):
        raise ConfigError(f"{subject}: its {CONFIG} has no model_type; name a folder of save_pretrained")
    kept = {entry: value for entry, value in config.items() if not entry.startswith("_") and value is not None}
    return {entry: value for entry, value in kept.items() if entry not in _NOT_OF_NETWORK}


def _entry_of_other_files(config: Any, path: str = "") -> str:
    """Return the path of an entry, at any depth, with which transformers would load other code or weights, or ''."""
    entries = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for name, value in entries:
        entry = f"{path}{name}"
        is_kernel = name == "attn_implementation" and "/" in str(value)  # of the Hub
        if is_kernel or (value and name in _OTHER_FILES):
            return entry
        if found := _entry_of_other_files(value, f"{entry}."):
            return found
    return ""


def normalization_of(preprocessing: Mapping[str, Any], subject: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of each channel as fractions of 255.

    subject: the beginning of messages. Raises ConfigError for preprocessing that is no such normalization.
    """
    remedy = "give its normalization with the fields mean and std of the model"
    scale = preprocessing.get("rescale_factor", _RESCALE)
    is_scaled = preprocessing.get("do_rescale", True) and isinstance(scale, int | float)
    if not (is_scaled and abs(scale - _RESCALE) < 1e-6):
        found = f"rescale_factor = {shown(scale)}" if preprocessing.get("do_rescale", True) else "do_rescale = false"
        raise ConfigError(f"{subject}: its {PREPROCESSOR} has {found}, and raykd divides pixels by 255; {remedy}")
    for entry in ("rescale_offset", "include_top"):  # EfficientNet's: pixels from -1 to 1, and a second normalization
        if preprocessing.get(entry):
            raise ConfigError(f"{subject}: its {PREPROCESSOR} has {entry}, which raykd does not apply; {remedy}")
    if not preprocessing.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (_three_numbers(preprocessing.get(entry)) for entry in ("image_mean", "image_std"))
    if not mean or not std or not all(std):
        raise ConfigError(
            f"{subject}: its {PREPROCESSOR} has no image_mean from 0 to 1 with image_std above 0 up to 1; {remedy}"
        )
    return mean, std


def _three_numbers(value: Any) -> tuple[float, ...]:
    """Return three numbers from 0 to 1, of a list or of one number for all channels; () for any other value."""
    values = value if isinstance(value, list) else [value] * 3
    is_valid = len(values) == 3 and all(isinstance(item, int | float) and 0 <= item <= 1 for item in values)
    return tuple(float(item) for item in values) if is_valid else ()


def size_of(config: Mapping[str, Any], preprocessing: Mapping[str, Any], subject: str) -> int:
    """Return the pixels per side of the network's images; 0 if the repository names no size.

    The preprocessor's crop comes last, so it counts before its size; the configuration's image_size is used without a
    preprocessor. Raises ConfigError for images that are not square.
    """
    sizes = [preprocessing.get("crop_size")] if preprocessing.get("do_center_crop") else []
    sizes += [preprocessing.get("size")] if preprocessing.get("do_resize", True) else []
    sizes += [config.get("image_size"), (config.get("vision_config") or {}).get("image_size")]
    return next((_side(size, subject) for size in sizes if size is not None), 0)


def _side(size: Any, subject: str) -> int:
    """Return the side of a size in one of the spellings: 224, [224, 224], {"height", "width"} or {"shortest_edge"}."""
    values = list(size.values()) if isinstance(size, Mapping) else size if isinstance(size, list) else [size]
    is_valid = values and all(isinstance(value, int) and value > 0 for value in values)
    if not is_valid or (len(set(values)) > 1 and "shortest_edge" not in size):
        raise ConfigError(
            f"{subject}: its image size is {shown(size)}, and raykd's images are square; give the pixels per side with "
            "the field input_size of the model"
        )
    return size["shortest_edge"] if isinstance(size, Mapping) and "shortest_edge" in size else values[0]


def _read_json(path: Path) -> dict[str, Any]:
    require_file("file", path, "copy the folder again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"file '{path}' is no readable JSON ({str(error)[:100]}); copy it again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"file '{path}' holds no JSON object; copy it again")
    return content
