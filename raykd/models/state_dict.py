"""Find a network's state dict in a checkpoint, through nested mappings, wrappers' prefixes and other names.

A training script saves {"net": ...}, {"model": {"state_dict": ...}} or a distiller with student and teacher inside.
DDP, torch.compile and Lightning put a prefix before each name. Other projects have other names for the same layers.
Each mapping of tensors, and each prefix before the name of the network's first tensor, is a candidate. The candidate
with the names and shapes of the network is chosen; if several fit, the file is refused.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raykd.errors import ConfigError, did_you_mean

# Parts of names that DDP, torch.compile, FSDP and activation checkpointing insert.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Entries of profilers and of torch's AveragedModel, which are no tensors of a network.
_NO_WEIGHTS = ("total_ops", "total_params", "n_averaged")
# Missing in files from before torch 0.4.1, and not used in evaluation.
_COUNTER = "num_batches_tracked"
# Keys of averages of weights over training (EMA, SWA).
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)", re.IGNORECASE)
MAX_NESTING = 5  # nested mappings are searched to this depth
AdaptState = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class StateDict:
    """A candidate. key: its position in the file, such as 'model.student'; '' for the whole file."""

    key: str
    tensors: Mapping[str, Tensor]

    @property
    def is_averaged(self) -> bool:
        """Whether these are averages of the weights over training."""
        return bool(_AVERAGED.search(self.key))


@dataclass(frozen=True)
class ExpectedState:
    """The tensors of the network. head: tensors that may have another shape or be absent.

    renames: regular expressions for the names in other projects, and their replacements. adapt: see
    `Model.adapt_state`.
    """

    tensors: Mapping[str, Tensor]
    head: Collection[str] = ()
    renames: Sequence[tuple[str, str]] = ()
    adapt: AdaptState | None = None

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Return whether `state` has the names and shapes of the network."""
        return not (self.missing(state) or self.extra(state) or self.mismatched(state))

    def missing(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return the names of the network's required tensors that `state` lacks."""
        optional = {name for name in self.tensors if name.rpartition(".")[2] == _COUNTER} | {*self.head}
        return [name for name in self.tensors if name not in state and name not in optional]

    def extra(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return the names in `state` that the network lacks."""
        return [name for name in state if name not in self.tensors]

    def mismatched(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return the names of tensors with another shape."""
        shared = [name for name in self.tensors if name in state and name not in self.head]
        return [name for name in shared if state[name].shape != self.tensors[name].shape]


def choose(content: object, expected: ExpectedState, path: Path, key: str = "") -> tuple[StateDict, str]:
    """Return the state dict of `content` for the network, and a note on averaged weights that were not chosen, or ''.

    key: the state dict's position in the file, if the user names one. If no candidate fits, the nearest is returned.

    Raises ConfigError for content without tensors, for an unknown key, and if several candidates fit.
    """
    candidates = list(_candidates(content, expected))
    if not candidates:
        raise ConfigError(f"weights file '{path}' holds no state dict of tensors; save model.state_dict()")
    keys = [candidate.key for candidate in candidates]
    if key:
        plain_key = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        candidates = _below(key, candidates) or _below(plain_key, candidates)  # keys are shown without wrappers' parts
        if not candidates:
            known = ", ".join(dict.fromkeys(filter(None, keys))) or "none, since the file is one state dict"
            nearest = did_you_mean(key, filter(None, keys))
            raise ConfigError(f"weights file '{path}' has no state dict '{key}': known are {known}{nearest}")
    fitting = _distinct([candidate for candidate in candidates if expected.fits(candidate.tensors)])
    plain = [candidate for candidate in fitting if not candidate.is_averaged] or fitting
    if len(plain) > 1:
        several = ", ".join(candidate.key for candidate in plain)
        raise ConfigError(
            f"weights file '{path}' holds several state dicts that fit: {several}; "
            f"name one behind a #, such as '{path}#{plain[-1].key}'"
        )
    if not plain:
        return max(candidates, key=lambda candidate: len(candidate.tensors.keys() & expected.tensors.keys())), ""
    averaged = [candidate.key for candidate in fitting if candidate.is_averaged and candidate is not plain[0]]
    if not averaged:
        return plain[0], ""
    which = f"weights are those of '{plain[0].key or 'the file'}', and the file also has averaged ones"
    return plain[0], f"its {which}: name them with '{path}#{averaged[0]}'"


def _candidates(content: object, expected: ExpectedState) -> Iterator[StateDict]:
    """Yield every mapping of tensors in `content`: as it is, without wrappers and prefixes, and renamed."""
    for key, tensors in _mappings(content, ""):
        plain = _without_wrappers(tensors, expected)
        for named in (plain, _renamed(plain, expected)):
            for prefix in _prefixes(named, expected):
                inside = {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}
                adapted = expected.adapt(inside) if expected.adapt else inside
                yield StateDict(".".join(filter(None, (key, prefix.rstrip(".")))), adapted)


def _mappings(content: object, key: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (key, tensors) of each mapping that holds tensors, except those of optimizers."""
    if not isinstance(content, Mapping) or depth > MAX_NESTING:
        return
    items = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in items.items() if isinstance(value, Tensor)}
    if tensors and len(tensors) == len(content):
        yield key, tensors
        return
    if any("." in name for name in tensors):  # for example a state dict with an epoch beside its tensors
        yield key, tensors
    for name, value in items.items():
        if not name.lower().startswith("optim"):
            yield from _mappings(value, f"{key}.{name}" if key else name, depth + 1)


def _without_wrappers(tensors: Mapping[str, Tensor], expected: ExpectedState) -> dict[str, Tensor]:
    """Remove the parts of names that wrappers insert, unless the network itself has such a part."""
    known = {part for name in expected.tensors for part in name.split(".")}
    dropped = {part for part in _WRAPPERS if part not in known}
    ignored = {part for part in _NO_WEIGHTS if part not in known}
    parts = {name: [part for part in name.split(".") if part not in dropped] for name in tensors}
    return {".".join(kept): tensors[name] for name, kept in parts.items() if kept and kept[-1] not in ignored}


def _renamed(tensors: Mapping[str, Tensor], expected: ExpectedState) -> dict[str, Tensor]:
    """Replace the names of other projects by those of the network."""
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in expected.renames:
            name = re.sub(rf"(?<![^.]){pattern}(?![^.])", replacement, name)  # noqa: PLW2901 - one after another
        renamed[name] = value
    return renamed


def _prefixes(tensors: Mapping[str, Tensor], expected: ExpectedState) -> list[str]:
    """Return '' and every prefix with which the network's first tensor and most of the others exist."""
    first = next(name for name in expected.tensors if name.rpartition(".")[2] != _COUNTER)
    prefixes = [name.removesuffix(first) for name in tensors if name.endswith(f".{first}")]
    counts = {prefix: sum(f"{prefix}{name}" in tensors for name in expected.tensors) for prefix in prefixes}
    return ["", *(prefix for prefix in prefixes if 2 * counts[prefix] > len(expected.tensors))]


def _below(key: str, candidates: Sequence[StateDict]) -> list[StateDict]:
    """Return the candidates at `key` and below it."""
    return [candidate for candidate in candidates if key and f"{candidate.key}.".startswith(f"{key}.")]


def _distinct(candidates: Sequence[StateDict]) -> list[StateDict]:
    """Remove candidates that equal an earlier one: a model is often saved under two keys."""
    kept: list[StateDict] = []
    for candidate in candidates:
        if not any(_are_equal(candidate.tensors, other.tensors) for other in kept):
            kept.append(candidate)
    return kept


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name] is other[name] or (one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]))
        for name in one
    )
