"""Small run folders as the run store writes them, and a report of two families."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluated_folders import PARAMETERS, sha256_of, write_evaluated_run
from search_folders import finished_search

from raykd.report.build import build
from raykd.report.report import Report


@dataclass(frozen=True)
class ResultsFolder:
    """A results folder. `run` writes a run and returns its name; `plan` writes the plan of a family."""

    root: Path

    def plan(self, family: str, comparison: dict[str, list[str]] | None = None, **stages: list[str]) -> None:
        payload = {"family": family, "stages": stages} | ({"comparison": comparison} if comparison else {})
        self.write(f"{family}/plan.json", payload)

    def run(self, family: str, stage: str, seed: int = 0, top1: float | None = 90.0, **fields: Any) -> str:
        """Write a run. fields: replace those of run.json; history, metrics, weights: replace the files beside it.

        The teachers of all families are in one folder. Their names differ from family to family.
        """
        is_teacher = stage == "teacher"
        digits = "cd34" if is_teacher and family != "cnn" else "ab12"
        name, family = fields.pop("name", f"{stage}-net-s{seed}-{digits}"), "teachers" if is_teacher else family
        history = fields.pop("history", {"ce": [2.0, 1.0, 0.5], "val_top1": [50.0, 80.0, 89.0]})
        metrics = fields.pop("metrics", {})
        weights = fields.pop("weights", name).encode()
        record = {**_record(family, stage, name, seed), "weights_sha256": sha256_of(weights), **fields}
        self.write(f"{family}/{name}/run.json", record)
        (self.root / family / name / "best.safetensors").write_bytes(weights)
        if history is not None:
            num_epochs = len(next(iter(history.values())))
            table = pa.table({"epoch": range(num_epochs), "step": range(num_epochs), **history})
            pq.write_table(table, self.root / family / name / "history.parquet")
        if top1 is not None:
            score = {"top1": top1, "nll": 0.5, "num_images": 10_000, "weights_sha256": sha256_of(weights), **metrics}
            self.write(f"{family}/{name}/test.json", score)
        return name

    def family(self, family: str, teacher: list[float], baseline: list[float], distilled: list[float]) -> None:
        """Write a plan of evaluated runs with the given test top-1, for seeds from 0."""
        scores = {"teacher": teacher, "baseline": baseline, "distilled": distilled}
        stages = {
            stage: [self.run(family, stage, seed, top1) for seed, top1 in enumerate(values)]
            for stage, values in scores.items()
        }
        self.plan(family, **stages)

    def write(self, path: str, values: Any) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(values), encoding="utf-8")


def _record(family: str, stage: str, name: str, seed: int) -> dict[str, Any]:
    return {
        "name": name,
        "family": family,
        "stage": stage,
        "model": "resnet18" if stage == "teacher" else "resnet8",
        "method": "kd" if stage == "distilled" else "ce",
        "seed": seed,
        "fingerprint": "ab12",
        "config": {"recipe": {"epochs": 3, "seed": seed}, "data": {"name": "digits"}, "teacher": None},
        "status": "done",
        "started": "2026-01-02T03:04:05+00:00",
        "ended": "2026-01-02T03:05:05+00:00",
        "seconds": 60.0,
        "reason": None,
        "compute": {"device": "cpu", "threads": 2, "precision": "fp32"},
        "versions": {"raykd": "0.1.0", "torch": "2.15.0"},
        "hardware": {"cpu": "a processor", "gpu": None},
        "git": {"revision": "0123456789", "source_sha256": "ab"},
        "parameters": PARAMETERS["teacher" if stage == "teacher" else "student"],
        "best": {"epoch": 2, "val_top1": 89.0},
    }


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """Return an empty results folder."""
    return ResultsFolder(tmp_path / "ray_results")


@pytest.fixture(scope="session")
def two_families(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return the report of a complete family and of one with missing runs of each kind. Read only."""
    folder = ResultsFolder(tmp_path_factory.mktemp("two_families") / "ray_results")
    folder.plan(
        "cnn",
        teacher=[write_evaluated_run(folder, "cnn", "teacher", 0, 95.0)],
        baseline=[write_evaluated_run(folder, "cnn", "baseline", seed, 87.0 + seed) for seed in range(3)],
        distilled=[
            write_evaluated_run(folder, "cnn", "distilled", seed, top1) for seed, top1 in enumerate((88.5, 89.0, 90.0))
        ],
    )
    hostile = "<script>alert(1)</script> & \x1b[31mred\nsecond line"
    folder.plan(
        "v<i>t",
        teacher=[folder.run("v<i>t", "teacher", top1=93.0)],
        baseline=[
            folder.run("v<i>t", "baseline", 0, 82.0, versions={"torch": "<b>2</b>"}),
            folder.run("v<i>t", "baseline", 1, None),
            folder.run("v<i>t", "baseline", 2, None, status="failed", reason=hostile),
        ],
        distilled=[
            folder.run("v<i>t", "distilled", 0, 83.0, history={"$<s>kd": [2.0, 1.0], "val_top1": [40.0, 50.0]}),
            folder.run("v<i>t", "distilled", 1, None, status="running", ended=None, best=None),
            "distilled-net-s2-<img src=x>",
        ],
    )
    return build(folder.root)


@pytest.fixture(scope="session")
def one_search(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return the report of a family with a finished, confirmed search and a planned teacher. Read only."""
    root = tmp_path_factory.mktemp("one_search") / "ray_results"
    finished_search(root)
    return build(root)
