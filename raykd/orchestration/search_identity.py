"""The identity of a search, which keeps different searches out of one folder."""

from collections.abc import Mapping
from typing import Any

from raykd.config import to_dict
from raykd.data.types import Dataset
from raykd.errors import ConfigError
from raykd.spec.plan import RESULT_VERSION, Plan
from raykd.store.study import SearchFolder


def identity_of_search(plan: Plan, dataset: Dataset) -> dict[str, Any]:
    """Return everything that determines the trials' results. More seeds or more trials continue the same search."""
    experiment = plan.experiment
    fields = to_dict(experiment, results_only=True)
    del fields["seeds"]
    assert experiment.search is not None
    teacher = next(run for run in plan.runs if run.stage == "teacher")
    sources = {name: to_dict(method, results_only=True)["source"] for name, method in experiment.custom_methods.items()}
    models = {name: to_dict(model, results_only=True) for name, model in experiment.custom_models.items()}
    return {
        **fields,
        "custom_methods": sources,
        **({"custom_models": models} if models else {}),  # not in searches from before the field existed
        "search": to_dict(experiment.search, results_only=True),
        "data_identity": dataset.identity,
        "teacher_run": teacher.fingerprint,
        "version": RESULT_VERSION,
    }


def require_same(folder: SearchFolder, identity: dict[str, Any]) -> None:
    """Raise ConfigError, with the differences, if the folder holds another search, or if its search.json is damaged."""
    before = folder.record()
    if before is not None and (changed := differences(before.identity, identity)):
        lines = "; ".join(f"{path} was {old}, and is {new}" for path, old, new in changed[:5])
        more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ConfigError(
            f"'{folder.path}' holds another search: {lines}{more}. Use its values, or give this search another "
            "name with --set search.name=NAME"
        )


def differences(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return (dotted path, value before, value now) for each difference of two `to_dict` results; None if missing."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [] if before == now else [(path, before, now)]
    return [
        difference
        for name in dict.fromkeys((*before, *now))
        for difference in differences(before.get(name), now.get(name), f"{path}.{name}" if path else str(name))
    ]
