"""Tests of the GPU report: every part runs without Ray, and a failure or a hang loses only one figure."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu_report.py"
sys.path.append(str(BENCHMARKS))

import gpu_report  # noqa: E402
from gpu_parts import profile  # noqa: E402
from gpu_parts.report import GpuLost, Part, Report  # noqa: E402
from gpu_parts.workers import Worker, WorkerFailed  # noqa: E402
from torch.autograd import DeviceType  # noqa: E402


@pytest.mark.nightly
def test_toy_report_has_figures_of_every_part_and_imports_neither_ray_nor_optuna(tmp_path: Path) -> None:
    blocked, out = tmp_path / "blocked", tmp_path / "out"
    blocked.mkdir()
    for name in ("ray", "optuna"):
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not installed')\n")
    environment = {**os.environ, "PYTHONPATH": str(blocked), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--toy", "--device", "cpu", "--out", str(out), "--minutes", "8"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    parts: dict[str, Any] = json.loads((out / "report.json").read_text())["parts"]
    assert list(parts) == list(gpu_report.BUDGETS)
    assert {name: part["failed"] for name, part in parts.items()} == {name: {} for name in parts}
    assert all(part["figures"] for name, part in parts.items() if name not in ("energy", "experiment"))
    assert set(parts["energy"]["left_out"].values()) == {"requires CUDA"}
    assert parts["experiment"]["left_out"] == {"experiment": "no --data-dir with CIFAR-10"}
    checks = parts["cuda_tests"]["figures"]
    assert len(checks) > 30 and all(check["passed"] for check in checks.values())
    assert parts["steps"]["figures"]["resnet8 cache, graph"]["ms_per_step"] > 0
    assert parts["loop"]["figures"]["cnn"]["errors"] == {}
    text = (out / "report.txt").read_text()
    assert all(f"== {name} (" in text for name in parts)


def test_a_failing_figure_is_recorded_and_the_next_one_measured(tmp_path: Path) -> None:
    report = Report(tmp_path)
    part = Part(report, "steps", 60, time.time() + 60, has_cuda=False)
    assert part.figure("broken", lambda: 1 / 0) is None
    assert part.figure("sound", lambda: {"value": 1.5}) == {"value": 1.5}
    assert part.figure("on a GPU", lambda: pytest.fail("there is none"), cuda=True) is None
    assert part.figure("late", lambda: pytest.fail("no time"), needs_s=61) is None
    read = Report(tmp_path).parts["steps"]
    assert read["failed"]["broken"]["error"] == "ZeroDivisionError: division by zero"
    assert read["figures"] == {"sound": {"value": 1.5}}
    part.end()
    assert report.parts["steps"]["left_out"] == {"on a GPU": "requires CUDA", "late": "no time left"}


def test_a_lost_gpu_ends_the_process_after_the_failure_is_recorded(tmp_path: Path) -> None:
    part = Part(Report(tmp_path), "steps", 60, time.time() + 60, has_cuda=True, is_usable=lambda: False)
    with pytest.raises(GpuLost):
        part.figure("broken", lambda: 1 / 0)
    again = Part(Report(tmp_path), "steps", 60, time.time() + 60, has_cuda=True)
    assert again.figure("broken", lambda: pytest.fail("it failed before")) is None


def test_a_figure_that_hangs_is_ended_and_counts_as_failed(tmp_path: Path) -> None:
    values = {"parts": {}, "processes": 0}
    values["in_progress"] = {"part": "steps", "figure": "slow", "began": time.time(), "limit_s": 0.5}
    (tmp_path / "report.json").write_text(json.dumps(values))
    status = gpu_report.watch([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, time.time() + 60)
    assert status != 0
    assert Report(tmp_path).parts["steps"]["failed"] == {"slow": "took longer than 0 s"}
    assert Report(tmp_path).values["in_progress"] is None


def test_a_worker_that_raises_or_hangs_costs_an_exception() -> None:
    worker = Worker()
    try:
        assert worker.call(60, max, 2, 3) == 3
        with pytest.raises(WorkerFailed, match="ValueError"):
            worker.call(60, int, "no number")
        with pytest.raises(WorkerFailed, match="no answer within 0 s"):
            worker.call(0.2, time.sleep, 60)
    finally:
        worker.end()
    with pytest.raises(WorkerFailed):
        worker.call(1, max, 2, 3)


def test_busy_time_counts_kernels_side_by_side_once() -> None:
    class Span:
        def __init__(self, start: float, end: float) -> None:
            self.start, self.end = start, end

        def elapsed_us(self) -> float:
            return self.end - self.start

    class Event:
        def __init__(self, name: str, start: float, end: float, kind: DeviceType = DeviceType.CUDA) -> None:
            self.name, self.time_range, self.device_type = name, Span(start, end), kind

    events = [
        Event("gemm", 0, 100),
        Event("gemm", 50, 150),
        Event("Memcpy HtoD", 300, 350),
        Event("aten::mm", 0, 999, DeviceType.CPU),
    ]
    figures = profile.kernels(events, 2, DeviceType.CUDA)
    assert (figures["kernels_per_step"], figures["copies_per_step"]) == (1.0, 0.5)
    assert figures["kernel_ms_per_step"] == pytest.approx(0.125)
    assert figures["busy_ms_per_step"] == pytest.approx(0.100)
    first = figures["most_expensive"][0]
    assert first["kernel"] == "gemm" and first["share"] == pytest.approx(0.8)
    with pytest.raises(RuntimeError, match="no kernel"):
        profile.kernels([], 2, DeviceType.CUDA)
