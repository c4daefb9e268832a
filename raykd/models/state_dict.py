"""Find a network's state dict in the content of a checkpoint, whatever it is nested in and however it was wrapped.

A training script saves {"net": ...}, {"model": {"state_dict": ...}} or a distiller with student and teacher inside;
DDP, torch.compile and Lightning put a prefix before each name; other projects have other names for the same layers.
Each mapping of tensors in the content, and each prefix that leads to the network's first tensor, is a candidate. The
candidate whose names and shapes are the network's is taken, and one that is ambiguous is refused.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raykd.errors import ConfigError, did_you_mean

# Put before or between the parts of a name by DDP, torch.compile, FSDP and activation checkpointing.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Left in a state dict by profilers and by torch's AveragedModel; no tensors of a network.
_NO_WEIGHTS = ("total_ops", "total_params", "n_averaged")
# Files from before torch 0.4.1 lack it, and evaluation does not read it.
_COUNTER = "num_batches_tracked"
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)", re.IGNORECASE)
_MAX_DEPTH = 5

Names = Sequence[tuple[str, str]]  # (regular expression, replacement): another project's names for the same layers


@dataclass(frozen=True)
class StateDict:
    """Tensors of one candidate. key: where it is in the file, such as 'model.student'; '' for the whole file."""

    key: str
    tensors: Mapping[str, Tensor]

    @property
    def is_averaged(self) -> bool:
        """Whether its key says that it is an average of weights over training (EMA)."""
        return bool(_AVERAGED.search(self.key))


@dataclass(frozen=True)
class Wanted:
    """What the network requires. head: tensors whose shape may differ or that may be absent. names: see `Names`."""

    tensors: Mapping[str, Tensor]
    head: Collection[str] = ()
    names: Names = ()

    def fits(self, found: Mapping[str, Tensor]) -> bool:
        """Whether names and shapes are those of the network."""
        return not (self.missing(found) or self.extra(found) or self.other_shapes(found))

    def missing(self, found: Mapping[str, Tensor]) -> list[str]:
        optional = {name for name in self.tensors if name.rpartition(".")[2] == _COUNTER} | {*self.head}
        return [name for name in self.tensors if name not in found and name not in optional]

    def extra(self, found: Mapping[str, Tensor]) -> list[str]:
        return [name for name in found if name not in self.tensors]

    def other_shapes(self, found: Mapping[str, Tensor]) -> list[str]:
        shared = [name for name in self.tensors if name in found and name not in self.head]
        return [name for name in shared if found[name].shape != self.tensors[name].shape]


def choose(content: object, wanted: Wanted, path: Path, key: str = "") -> tuple[StateDict, str]:
    """The state dict of `content` for the network, and a sentence on what was passed over, or ''.

    key: the state dict's place in the file, where the user names one. Where no candidate fits, the nearest is returned.
    Raises ConfigError for a content without tensors, for an unknown key and where several candidates fit.
    """
    found = list(candidates(content, wanted))
    if not found:
        raise ConfigError(f"weights file '{path}' holds no state dict of tensors; save model.state_dict()")
    keys = [candidate.key for candidate in found]
    if key:
        plain_key = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        found = _at(key, found) or _at(plain_key, found)  # names are shown without the parts that wrappers add
        if not found:
            known = ", ".join(dict.fromkeys(filter(None, keys))) or "none, since the file is one state dict"
            raise ConfigError(f"weights file '{path}' has no state dict '{key}': known are {known}{_near(key, keys)}")
    fitting = _distinct([candidate for candidate in found if wanted.fits(candidate.tensors)])
    plain = [candidate for candidate in fitting if not candidate.is_averaged] or fitting
    if len(plain) > 1:
        several = ", ".join(candidate.key for candidate in plain)
        raise ConfigError(
            f"weights file '{path}' holds several state dicts that fit: {several}; "
            f"name one behind a #, such as '{path}#{plain[-1].key}'"
        )
    if not plain:
        return max(found, key=lambda candidate: len(candidate.tensors.keys() & wanted.tensors.keys())), ""
    averaged = [candidate.key for candidate in fitting if candidate.is_averaged and candidate is not plain[0]]
    if not averaged:
        return plain[0], ""
    which = f"weights are those of '{plain[0].key or 'the file'}', and the file also has averaged ones"
    return plain[0], f"its {which}: name them with '{path}#{averaged[0]}'"


def candidates(content: object, wanted: Wanted) -> Iterator[StateDict]:
    """Every mapping of tensors in `content`, as it is, without wrappers and prefixes, and by other projects' names."""
    for key, tensors in _mappings(content, ""):
        plain = _without_wrappers(tensors, wanted)
        for named in (plain, _renamed(plain, wanted)):
            prefixes = _prefixes(named, wanted)
            for prefix in prefixes:
                inside = {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}
                yield StateDict(".".join(filter(None, (key, prefix.rstrip(".")))), inside)


def _mappings(content: object, key: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(key, tensors) of each mapping that holds tensors; an optimizer's are none of a network."""
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
        return
    items = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in items.items() if isinstance(value, Tensor)}
    if tensors and len(tensors) == len(content):
        yield key, tensors
        return
    if any("." in name for name in tensors):  # a state dict with an epoch beside its tensors, say
        yield key, tensors
    for name, value in items.items():
        if not name.lower().startswith("optim"):
            yield from _mappings(value, f"{key}.{name}" if key else name, depth + 1)


def _without_wrappers(tensors: Mapping[str, Tensor], wanted: Wanted) -> dict[str, Tensor]:
    """Names without the parts that wrappers add, unless the network itself has such a part."""
    known = {part for name in wanted.tensors for part in name.split(".")}
    dropped = {part for part in _WRAPPERS if part not in known}
    ignored = {part for part in _NO_WEIGHTS if part not in known}
    parts = {name: [part for part in name.split(".") if part not in dropped] for name in tensors}
    return {".".join(kept): tensors[name] for name, kept in parts.items() if kept and kept[-1] not in ignored}


def _renamed(tensors: Mapping[str, Tensor], wanted: Wanted) -> dict[str, Tensor]:
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in wanted.names:
            name = re.sub(rf"(?<![^.]){pattern}(?![^.])", replacement, name)  # noqa: PLW2901 - one after another
        renamed[name] = value
    return renamed


def _prefixes(tensors: Mapping[str, Tensor], wanted: Wanted) -> list[str]:
    """'' and every prefix behind which the network's first tensor and most of the others are."""
    first = next(name for name in wanted.tensors if name.rpartition(".")[2] != _COUNTER)
    found = [name.removesuffix(first) for name in tensors if name.endswith(f".{first}")]
    return ["", *(prefix for prefix in found if _holds_most(tensors, prefix, wanted))]


def _holds_most(tensors: Mapping[str, Tensor], prefix: str, wanted: Wanted) -> bool:
    return 2 * sum(f"{prefix}{name}" in tensors for name in wanted.tensors) > len(wanted.tensors)


def _at(key: str, found: Sequence[StateDict]) -> list[StateDict]:
    """Return the candidates at `key` and below it."""
    return [candidate for candidate in found if key and f"{candidate.key}.".startswith(f"{key}.")]


def _distinct(found: Sequence[StateDict]) -> list[StateDict]:
    """Candidates with other tensors than those before them: one model is often saved under two keys."""
    kept: list[StateDict] = []
    for candidate in found:
        if not any(_are_equal(candidate.tensors, other.tensors) for other in kept):
            kept.append(candidate)
    return kept


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name] is other[name] or (one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]))
        for name in one
    )


def _near(key: str, keys: Sequence[str]) -> str:
    return did_you_mean(key, filter(None, keys))
