"""MLflow's local store, read with MLflow's client."""

import os
from pathlib import Path
from typing import Any

import pytest
from fake_tracker import STEPS, TEACHER, family_in, folder_of, train

from raykd.trackers.tracking import FOLDER, Tracking


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


def track(results: Path, files: tuple[Path, ...] = ()) -> list[str]:
    """Copy the results folder as one command does, and return what it logs."""
    lines: list[str] = []
    with Tracking(("mlflow",), results, lines.append) as tracking:
        tracking.watch(family_in(results), lambda: [folder_of(TEACHER, results)])
        tracking.attach(family_in(results), lambda: (files, {"teacher_accuracy": 0.5}))
    return lines


def test_the_store_has_nested_runs_with_settings_epochs_metrics_and_report_across_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("raykd.trackers.tracking.CLOSE_S", 200.0)  # the first SQLite file takes seconds
    report = tmp_path / "index.html"
    report.write_text("<p>")
    results = tmp_path / "results"
    train(TEACHER, results, stop_at=STEPS + 2)
    store = f"sqlite:///{results / FOLDER / 'mlflow.db'}"
    assert track(results) == [f"tracker mlflow: mlflow ui --backend-store-uri {store}"]
    assert {name: run.info.status for name, run in runs_in(store).items()} == {
        TEACHER.name: "KILLED",
        "small": "FINISHED",
    }
    train(TEACHER, results)
    track(results, (report,))
    runs, rows = runs_in(store), folder_of(TEACHER, results).history()
    assert {name: run.info.status for name, run in runs.items()} == {TEACHER.name: "FINISHED", "small": "FINISHED"}
    run, family = runs[TEACHER.name], runs["small"]
    assert run.data.tags["mlflow.parentRunId"] == family.info.run_id
    assert (run.data.params["teacher.optimizer.lr"], run.data.params["data.name"]) == ("0.05", "digits")
    history = client_of(store).get_metric_history(run.info.run_id, "top1/val")
    assert [(metric.step, metric.value) for metric in history] == [(row["epoch"], row["val_top1"]) for row in rows]
    assert {"loss/ce", "lr", "test/top1", "test/nll", "best_epoch"} <= run.data.metrics.keys()
    assert family.data.metrics["teacher_accuracy"] == 0.5
    (artifact,) = client_of(store).list_artifacts(family.info.run_id)
    assert artifact.path == "index.html" and list((results / FOLDER / "mlflow-artifacts").rglob("index.html"))
    assert capfd.readouterr().err == "", "nothing of MLflow's logging"


def client_of(store: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store)


def runs_in(store: str) -> dict[str, Any]:
    """Return the runs of the experiment 'small' by name."""
    client = client_of(store)
    found = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    return {run.info.run_name: run for run in found}


def test_a_server_that_cannot_be_reached_fails_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("raykd.trackers.tracking.CLOSE_S", 60.0)
    (line,) = track(results)
    assert line.startswith("tracker mlflow fails (MlflowException")
    assert not (results / FOLDER / "mlflow.db").exists()
