"""The metrics of running experiments for Prometheus: Ray exports them on the run's node as ray_raykd_*.

docs/monitoring/ has a scrape configuration and a Grafana dashboard for these names.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import ray
import torch
from ray.util.metrics import Gauge

from raykd.disk.atomic import write_json
from raykd.disk.lookup import find, is_there
from raykd.spec.plan import Run
from raykd.training.hooks import EpochReport

TAGS = ("family", "stage", "run")
GAUGES = {
    "epoch": "epochs done",
    "epochs": "epochs of the recipe",
    "loss": "mean training loss of the last epoch",
    "train_top1": "training accuracy of the last epoch, percent",
    "val_top1": "validation accuracy after the last epoch, percent",
    "best_val_top1": "best validation accuracy so far, percent",
    "learning_rate": "learning rate of the last epoch's last step",
    "images_per_second": "training speed of the last epoch, over all workers",
    "gpu_memory_bytes": "peak memory that torch allocated on the first worker's GPU for the run; 0 on a CPU",
}


def export_metrics(run: Run, report: EpochReport, device: torch.device) -> None:
    """Set the metrics of an epoch; Ray collects them every ten seconds."""
    values = {
        "epoch": report.epoch + 1,
        "epochs": report.epochs,
        "loss": report.terms["loss"],
        "train_top1": report.train_top1,
        "val_top1": report.val_top1,
        "best_val_top1": report.best_val_top1,
        "learning_rate": report.lr,
        "images_per_second": report.images_per_s,
        # Not of the epoch: the replays of a CUDA graph allocate nothing, although its memory remains in use.
        "gpu_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    }
    tags: dict[str, str] = {"family": run.family, "stage": run.stage, "run": run.name}
    for name, gauge in _gauges().items():
        gauge.set(values[name], tags)


@contextmanager
def scrape_targets(results: Path) -> Iterator[None]:
    """Write the nodes' metrics endpoints to a file for Prometheus' `file_sd_configs`; remove it at the end.

    Files that killed commands on this machine left are removed first.
    """
    folder, host = results / ".monitoring", socket.gethostname()
    for path in find(folder, f"{host}-*.json"):
        if not is_there(Path(f"/proc/{path.stem.rpartition('-')[2]}")):
            path.unlink(missing_ok=True)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes]
    path = folder / f"{host}-{os.getpid()}.json"
    write_json(path, [{"targets": targets, "labels": {"results": results.name}}])
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@cache
def _gauges() -> dict[str, Gauge]:
    """Return the gauges, made once per process: Ray registers each by its name."""
    return {name: Gauge(f"raykd_{name}", description, tag_keys=TAGS) for name, description in GAUGES.items()}
