"""A teacher without a classifier in a whole command on Ray: its embedding is cached, and students need no labels."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experiment_runs import run_here
from imported_teachers import DATA, MODEL, good_state
from small_runs import experiment, recipe

from raykd.config.codec import read_record
from raykd.methods import EmbeddingRegression
from raykd.spec.experiment import Workers
from raykd.store.records import Metrics

pytestmark = [pytest.mark.ray, pytest.mark.nightly]


def test_students_learn_from_the_cached_embedding_of_a_tower_without_labels(cluster: str, tmp_path: Path) -> None:
    torch.save(good_state(), tmp_path / "tower.pth")
    tower = replace(MODEL, weights=str(tmp_path / "tower.pth"), classifier=False)
    planned = experiment(
        data=DATA,
        teacher=recipe(model=tower),
        student=recipe(epochs=20),
        method=EmbeddingRegression(ce_weight=0.0),
        seeds=(0, 1),
        workers=Workers(cpus=1),
    )
    ended = run_here([planned], tmp_path / "results")
    assert ended.exit_code == 0, ended.errors
    results = tmp_path / "results"
    tested = {path.parent.name.split("-")[0]: read_record(Metrics, path) for path in results.glob("*/*/test.json")}
    teacher, distilled = tested["teacher"], tested["distilled"]
    assert teacher is not None and distilled is not None
    assert teacher.top1 > 80 and distilled.top1 > 50 and distilled.knn_top1 is not None
    (cache,) = results.glob("*/*/cache.json")
    assert json.loads(cache.read_text())["num_classes"] == 0, "the cache holds embeddings alone"
    runs = [json.loads(path.read_text()) for path in results.glob("*/distilled-*/run.json")]
    assert [run["compute"]["teacher"] for run in runs] == ["cache", "cache"]
