"""Families that compare methods, as run folders with a recorded configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

# Hyperparameters of a method by its name in the family, which begins with its kind.
Methods = Mapping[str, Mapping[str, Any]]


def write_family(
    results: Any,
    family: str,
    baseline: Sequence[float | None],
    methods: Mapping[str, Sequence[float | None]],
    *,
    teacher: tuple[str, float] = ("resnet18", 95.0),
    student: str = "resnet8",
    data: str = "digits",
    settings: Methods | None = None,
    published: str = "",
) -> None:
    """Write a family with a run for each top-1 in percent, for seeds from 0; None for a run that has not started.

    The first method is the main one. teacher: its network and top-1. settings: hyperparameters by method.
    """
    settings = settings or {}

    def run(stage: str, method: str, seed: int, top1: float | None) -> str:
        name = f"{stage}-{student}-{method.replace(' ', '-')}-s{seed}-ab12"
        if top1 is None:
            return name
        kind = method.split(" (")[0]
        config = {"data": {"name": data}, "recipe": {"epochs": 3}}
        if stage == "distilled":
            config["method"] = {"kind": kind, **settings.get(method, {})}
        fields = {"name": name, "model": student, "method": kind, "config": config}
        return results.run(family, stage, seed, top1, history=None, **fields)

    network, accuracy = teacher
    planned = {
        "teacher": [
            results.run(family, "teacher", 0, accuracy, model=network, name=f"teacher-{network}-s0-ab12", history=None)
        ],
        "baseline": [run("baseline", "ce", seed, top1) for seed, top1 in enumerate(baseline)],
    }
    compared = {
        method: [run("distilled", method, seed, top1) for seed, top1 in enumerate(tops)]
        for method, tops in methods.items()
    }
    planned["distilled"] = next(iter(compared.values()))
    results.write(
        f"{family}/plan.json",
        {"family": family, "stages": planned, "comparison": compared, "experiment": {"published": published}},
    )
