"""Tests of the GPU report: every part runs without Ray, and a failure or a hang loses only one figure."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_mps
import psutil
import pytest

from raykd.cluster import mps

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu_report.py"
sys.path.append(str(BENCHMARKS))

import gpu_report  # noqa: E402
from gpu_parts import packing, profile  # noqa: E402
from gpu_parts.report import GpuLost, Part, Report  # noqa: E402
from gpu_parts.workers import Worker, WorkerFailed  # noqa: E402
from torch.autograd import DeviceType  # noqa: E402

# Packages that raykd requires, and that a machine with torch, torchvision, timm and pyarrow may lack.
BLOCKED = ("ray", "optuna", "simplejpeg", "scipy", "sklearn", "matplotlib", "rich", "tensorboard", "pynvml", "jinja2")
QUICK = ("environment", "ceilings", "fill", "memory")


def run_toy(folder: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    """Run the script at toy size without the BLOCKED packages, after an import of all parts, and return the parts."""
    blocked, out = folder / "blocked", folder / "out"
    blocked.mkdir()
    for name in BLOCKED:
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not installed')\n")
    script = folder / "script.py"
    script.write_text(
        "import importlib, sys\nimport gpu_report\n"
        "if '--until' in sys.argv:  # the process that measures\n"
        "    [importlib.import_module(f'gpu_parts.{name}') for name in gpu_report.BUDGETS]\n"
        "if __name__ == '__main__':  # not in the processes that it spawns\n"
        "    sys.exit(gpu_report.main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{blocked}:{BENCHMARKS}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), "--toy", "--device", "cpu", "--out", str(out), "--minutes", "8"]
    command += ["--parts", ",".join(parts)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    found = json.loads((out / "report.json").read_text())["parts"]
    text = (out / "report.txt").read_text()
    assert list(found) == list(parts) and all(f"== {name} (" in text for name in parts)
    assert {name: part["failed"] for name, part in found.items()} == {name: {} for name in parts}
    return found


def test_quick_parts_at_toy_size_import_neither_ray_nor_other_packages_that_a_machine_may_lack(tmp_path: Path) -> None:
    assert all(part["figures"] for part in run_toy(tmp_path, QUICK).values())


@pytest.mark.nightly
def test_toy_report_has_figures_of_every_part_without_those_packages(tmp_path: Path) -> None:
    parts = run_toy(tmp_path, tuple(gpu_report.BUDGETS))
    assert all(part["figures"] for name, part in parts.items() if name not in ("energy", "experiment"))
    assert set(parts["energy"]["left_out"].values()) == {"requires CUDA"}
    assert parts["experiment"]["left_out"] == {"experiment": "no --data-dir with CIFAR-10"}
    checks = parts["cuda_tests"]["figures"]
    assert len(checks) > 30 and all(check["passed"] for check in checks.values())
    assert parts["steps"]["figures"]["resnet8 cache, graph"]["ms_per_step"] > 0
    assert parts["loop"]["figures"]["cnn"]["errors"] == {}
    assert "--set workers.gpus=" in parts["packing"]["figures"]["recommendation"]["settings"]
    assert parts["packing"]["left_out"] == {"graph, MPS": "nvidia-cuda-mps-control is not on PATH"}


SLOW_PARTS = """
import sys, time, types
import gpu_report
from gpu_parts import report

def measure_slowly(part, setting):
    part.figure("before", lambda: {"value": 1})
    part.figure("slow", lambda: time.sleep(60))
    part.figure("after", lambda: {"value": 2})

def measure_quickly(part, setting):
    part.figure("quick", lambda: {"value": 3})

PARTS = {
    "slow": measure_slowly,
    "hanging": lambda part, setting: time.sleep(60),
    "quick": measure_quickly,
    "last": measure_slowly,
}
class Setting:
    has_cuda = toy = False
    def __init__(self, *arguments): pass

sys.modules["torch"] = types.ModuleType("torch")
sys.modules["gpu_parts.setting"] = types.SimpleNamespace(Setting=Setting)
sys.modules |= {f"gpu_parts.{name}": types.SimpleNamespace(measure=part) for name, part in PARTS.items()}
gpu_report.BUDGETS, gpu_report.FEWEST_S, report.OVERRUN_S = dict(slow=1, hanging=1, quick=8, last=2), 1.0, 0.5
gpu_report.DUMP_S = 0.1
sys.exit(gpu_report.main())
"""


@pytest.mark.nightly
def test_no_slow_part_takes_the_time_of_another_or_exceeds_minutes(tmp_path: Path) -> None:
    """Slow figures and parts are ended, and the command with them."""
    script = tmp_path / "script.py"
    script.write_text(SLOW_PARTS)
    command = [sys.executable, str(script), "--out", str(tmp_path), "--minutes", "0.12", "--device", "cpu"]
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - start < 60 * 0.12 + 1, "the start and end of Python take tenths of a second"
    assert ended.returncode == 1, ended.stderr
    parts = Report(tmp_path).parts
    assert {name: list(part["figures"]) for name, part in parts.items()} == {
        "slow": ["before"],
        "hanging": [],
        "quick": ["quick"],
        "last": ["before"],
    }
    assert {name: list(part["failed"]) for name, part in parts.items()} == {
        "slow": ["slow"],
        "hanging": ["part"],
        "quick": [],
        "last": ["slow"],
    }
    assert parts["slow"]["left_out"] == {"after": "no time left"}


def test_mps_is_recommended_only_for_a_gain() -> None:
    def chosen(**rates: float) -> str:
        figures = {name.replace("_", ", "): {"images_per_s": rate} for name, rate in rates.items()}
        return packing.recommendation(figures)["settings"]

    assert chosen(graph_1=100, graph_2=101, graph_4=104) == "--set workers.gpus=1 with RAYKD_MPS=0"
    assert chosen(graph_1=100, graph_2=130, graph_4=131) == "--set workers.gpus=0.5 with RAYKD_MPS=0"
    assert (
        chosen(graph_1=100, graph_2=90, graph_2_MPS=150, graph_4_MPS=200) == "--set workers.gpus=0.25 with RAYKD_MPS=1"
    )
    assert chosen(graph_1=100, graph_4=120, graph_4_MPS=125) == "--set workers.gpus=0.25 with RAYKD_MPS=0"


def test_packing_starts_an_mps_of_its_folder_and_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_mps.programs(tmp_path)["PATH"])
    monkeypatch.setenv(mps.VISIBLE, "1")
    part = Part(Report(tmp_path / "report"), "packing", 60, time.time() + 60, has_cuda=False)
    before = dict(os.environ)
    with packing._own_mps(part, tmp_path) as is_up:
        assert is_up
        assert (os.environ[mps.PIPES], os.environ[mps.VISIBLE]) == (f"{tmp_path}/mps", "GPU-bbb")
    assert dict(os.environ) == before and part.report.figure("packing", "start the MPS daemon")["seconds"] > 0
    assert fake_mps.commands(tmp_path) == [f"quit -t 3 pipes={tmp_path}/mps"]
    assert len(fake_mps.calls(tmp_path)) == 1 and have_ended(fake_mps.pids(tmp_path))


def test_an_mps_that_does_not_start_fails_its_figure_and_has_no_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", fake_mps.programs(tmp_path, failure="exit 1")["PATH"])
    monkeypatch.setenv(mps.VISIBLE, "1")
    part = Part(Report(tmp_path / "report"), "packing", 60, time.time() + 60, has_cuda=False)
    with packing._own_mps(part, tmp_path) as is_up:
        assert not is_up and mps.PIPES not in os.environ and os.environ[mps.VISIBLE] == "1"
    failure = part.report.parts["packing"]["failed"]["start the MPS daemon"]
    assert "nvidia-cuda-mps-control ended with exit code 1" in failure["error"]


@pytest.mark.nightly
def test_the_mps_of_a_process_that_is_killed_ends_too(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from raykd.cluster import mps; "
        "mps.start(Path(sys.argv[1]), 1, os.environ | {mps.VISIBLE: 'GPU-aaa'}); time.sleep(60)"
    )
    script = [sys.executable, "-c", code, str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", fake_mps.programs(tmp_path)["PATH"])
        patch.setattr(gpu_report, "DUMP_S", 0.1)
        gpu_report.watch(script, tmp_path / "out", time.time() + 8, tmp_path)
    assert len(fake_mps.pids(tmp_path)) == 2 and have_ended(fake_mps.pids(tmp_path))


def have_ended(processes: list[int]) -> bool:
    """Return whether all `processes` end within some seconds; a zombie has ended."""
    until, states = time.monotonic() + 10, ["?"]
    while set(states) - {psutil.STATUS_ZOMBIE} and time.monotonic() < until:
        time.sleep(0.02)
        states = [process.info["status"] for process in psutil.process_iter(["status"]) if process.pid in processes]
    return not set(states) - {psutil.STATUS_ZOMBIE}


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


@pytest.mark.nightly
def test_a_figure_that_hangs_is_ended_and_counts_as_failed(tmp_path: Path) -> None:
    values = {"parts": {}, "processes": 0}
    values["in_progress"] = {"part": "steps", "figure": "slow", "began": time.time(), "limit_s": 0.5}
    (tmp_path / "report.json").write_text(json.dumps(values))
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    status = gpu_report.watch(command, tmp_path, time.time() + 60, tmp_path)
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
            worker.call(0.2, time.sleep, 1)
        assert worker.call(60, max, 2, 3) == 3, "not the late answer"
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
