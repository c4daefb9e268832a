"""The command that trains and compares the winners of several searches, each of another method.

    python tune_methods.py --family tune_kd --set family=tuned --set search=none --set seeds=0,1,2,3,4 --set method=kd
    --set compare=dkd --set method.alpha=0.41 --set method.temperature=6.0 --set compare.dkd.beta=2.1 ...

It has every field of each method, because the fields that an experiment file sets are not known here.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from itertools import count, islice
from typing import Any

from raykd.errors import flattened
from raykd.report.read.search_results import SearchSummary
from raykd.report.search_wording import flags
from raykd.report.stats.tuning import tunes_baseline

FAMILY = "tuned"  # of the comparison
NUM_SEEDS = 5  # of the comparison; searches have used none of them
_OF_SEARCH = ("family", "method", "search", "custom_methods")  # fields of the identity that the searches of a group set
_REPLACED = ("family", "method", "search", "seeds", "compare")  # settings that the command replaces


def winners_commands(searches: Iterable[SearchSummary]) -> dict[str, str]:
    """Return a command for each group of finished searches whose winners can be compared, by the searches' names.

    They have different methods, and the same data, teacher and student recipe. Of searches with the same method, the
    last one counts. A search over fields of the student has no part in it, since compared methods share a recipe.
    """
    groups: dict[str, dict[str, SearchSummary]] = {}
    for search in sorted(searches, key=lambda search: search.record.started):
        if _is_comparable(search):
            alike = {name: value for name, value in search.record.identity.items() if name not in _OF_SEARCH}
            groups.setdefault(json.dumps(alike, sort_keys=True), {})[_method_of(search)["kind"]] = search
    several = [list(group.values()) for group in groups.values() if len(group) > 1]
    names = [FAMILY] if len(several) == 1 else [f"{FAMILY}_{group[0].family}" for group in several]
    return {
        ", ".join(flattened(search.full_name) for search in group): _command(group, name)
        for group, name in zip(several, names, strict=True)
    }


def _is_comparable(search: SearchSummary) -> bool:
    method = _method_of(search)
    is_built_in = "kind" in method and "source" not in method  # the file of a custom method is not known here
    has_method_only = all(path.split(".")[0] == "method" for path in search.search.space)
    is_done = search.state == "done" and search.command is not None
    return is_done and is_built_in and has_method_only and not tunes_baseline(search)


def _method_of(search: SearchSummary) -> Mapping[str, Any]:
    method = search.winner_config.get("method")
    return method if isinstance(method, Mapping) else {}


def _command(group: list[SearchSummary], family: str) -> str:
    first, *others = group
    assert first.command is not None
    kept = {path: text for path, text in first.command.settings.items() if path.split(".")[0] not in _REPLACED}
    used = {seed for search in group for seed in (search.search.trial_seed, *search.record.seeds)}
    seeds = islice((seed for seed in count() if seed not in used), NUM_SEEDS)
    kinds = [_method_of(search)["kind"] for search in others]
    fields = {"family": family, "search": "none", "seeds": ",".join(map(str, seeds))}
    fields |= {"method": _method_of(first)["kind"], "compare": ",".join(kinds)}
    prefixes = ["method", *(f"compare.{kind}" for kind in kinds)]
    for prefix, search in zip(prefixes, group, strict=True):
        fields |= {f"{prefix}.{name}": value for name, value in _method_of(search).items() if name != "kind"}
    return f"{shlex.join((*first.command.program, *first.command.options))} {flags({**kept, **fields})}"
