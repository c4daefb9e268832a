"""Names of the weights of transformers' networks: files keep the published ones, and newer versions rename modules.

transformers itself maps a file's names to those of its network. It receives only tensors here, and never a file: raykd
reads files with safetensors, or with `weights_only=True`.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raykd.errors import ConfigError, errors_of

# Parts of files that an image classifier does not use: the pooler of a network that was saved without a classifier, and
# all but the image tower of CLIP and SigLIP.
_UNUSED = ("pooler.", "text_model.", "text_projection", "visual_projection", "logit_scale", "logit_bias")


def is_transformers_network(network: nn.Module) -> bool:
    """Return whether `network` is one of transformers, without importing it."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(network, transformers.PreTrainedModel)


def is_transformers_folder(folder: Path) -> bool:
    """Return whether a folder is one of `save_pretrained`."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config


def with_network_names(network: Any, content: Any, subject: str) -> Any:
    """Return a file's tensors under the names of `network`, one of transformers.

    The result also has the file's tensors that the network lacks, and those of another shape, so that the caller
    refuses both. Content that is no state dict, or has the network's names already, is returned as it is. subject:
    the beginning of messages.
    """
    current = network.state_dict()
    is_state = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if not is_state or not content or content.keys() == current.keys():
        return content
    with errors_of(subject), quiet(), torch.random.fork_rng(devices=[]):  # it draws values for missing tensors
        loaded, info = type(network).from_pretrained(
            None,
            config=network.config,
            state_dict=dict(content),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    for message in info.get("error_msgs", ()):
        raise ConfigError(f"{subject} does not fit the network: {message}")
    state, prefix = loaded.state_dict(), f"{network.base_model_prefix}."
    empty = tuple(f"{name}." for name, child in network.named_children() if next(child.parameters(), None) is None)
    for name in info["missing_keys"]:
        state.pop(name, None)
    for name, file_shape, _ in info["mismatched_keys"]:
        state[name] = torch.empty(file_shape, device="meta")
    for name in info["unexpected_keys"]:
        is_left_out = name.startswith(empty)  # the head of a network without a classifier
        if not name.removeprefix(prefix).startswith(_UNUSED) and not is_left_out:
            state[name] = content.get(name, torch.empty(0))
    return state


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and progress bars of transformers inside the context."""
    from transformers.utils import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
