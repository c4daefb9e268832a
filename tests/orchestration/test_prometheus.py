"""A run's metrics in a real Prometheus, with the scrape configuration of the documentation."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from experiment_runs import ROOT, wait_until
from small_runs import run_of

from raykd.spec.plan import Run
from raykd.training.hooks import EpochReport

pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus: bash tests/install_packages.sh"),
]

MONITORING = ROOT / "docs" / "monitoring"
RUN = run_of("distilled")
REPORT = EpochReport(RUN.name, 4, 10, {"ce": 0.75, "loss": 1.25}, 81.0, 77.5, 0.6, 78.0, 0.05, 1234.0, 9.0)
EXPECTED = {
    "epoch": 5.0,
    "epochs": 10.0,
    "loss": 1.25,
    "train_top1": 81.0,
    "val_top1": 77.5,
    "best_val_top1": 78.0,
    "learning_rate": 0.05,
    "images_per_second": 1234.0,
    "gpu_memory_bytes": 0.0,
}


class Exporter:
    """A process that exports metrics and stays, like a worker in training."""

    def export(self, run: Run, report: EpochReport) -> None:
        import torch

        from raykd.orchestration.prometheus import export_metrics

        export_metrics(run, report, torch.device("cpu"))


@pytest.fixture(scope="module")
def prometheus(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Prometheus that scrapes the shared Ray cluster, with a worker that exports metrics; yield its address."""
    import ray
    import ray.cloudpickle

    from raykd.orchestration.prometheus import scrape_targets

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    worker: Any = ray.remote(num_cpus=0)(Exporter).remote()
    ray.get(worker.export.remote(RUN, REPORT))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = folder / "docs" / "monitoring" / "prometheus.yml"
    configuration.parent.mkdir(parents=True)
    shutil.copy(MONITORING / "prometheus.yml", configuration)
    words = [f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"]
    with scrape_targets(folder / "ray_results"), (folder / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *words, f"--web.listen-address={address}"], stdout=log, stderr=log)
        yield address
        process.terminate()
        process.wait(10)
    assert not list((folder / "ray_results" / ".monitoring").iterdir()), "Prometheus would scrape it for ever"
    ray.kill(worker)


def query(address: str, expression: str) -> list[dict[str, Any]]:
    try:
        url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.loads(answer.read())["data"]["result"]
    except OSError:  # still starting
        return []


@pytest.mark.nightly
def test_prometheus_has_every_metric_of_a_run(prometheus: str) -> None:
    rows = wait_until(lambda: query(prometheus, f'ray_raykd_val_top1{{run="{RUN.name}"}}'), "the run's accuracy")
    assert {rows[0]["metric"][tag] for tag in ("family", "stage", "run")} == {"small", "distilled", RUN.name}
    values = {name: query(prometheus, f'ray_raykd_{name}{{run="{RUN.name}"}}') for name in EXPECTED}
    assert {name: float(rows[0]["value"][1]) for name, rows in values.items()} == EXPECTED


@pytest.mark.nightly
def test_dashboard_queries_existing_metrics(prometheus: str) -> None:
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for expression in expressions for name in re.findall(r"\bray_\w+", expression)}
    assert {f"ray_raykd_{name}" for name in EXPECTED} - {"ray_raykd_best_val_top1"} <= names
    names.discard("ray_node_gpus_utilization")  # of nodes with a GPU
    for name in names:
        assert wait_until(lambda name=name: query(prometheus, name), name)
    for expression in expressions:
        plain = expression.replace("$family", ".*").replace("$stage", ".*")
        assert query(prometheus, plain) or "gpus" in plain, expression


def test_next_command_removes_the_addresses_of_killed_commands(cluster: str, tmp_path: Path) -> None:
    from raykd.orchestration.prometheus import scrape_targets

    folder, host = tmp_path / ".monitoring", socket.gethostname()
    folder.mkdir()
    killed, running, other_host = f"{host}-{2**22 + 1}.json", f"{host}-1.json", "elsewhere-5.json"
    names = {killed, running, other_host}  # process ids: above the highest possible, of init, of another machine
    for name in names:
        (folder / name).write_text("[]")
    with scrape_targets(tmp_path):
        assert {path.name for path in folder.iterdir()} == names - {killed} | {f"{host}-{os.getpid()}.json"}
