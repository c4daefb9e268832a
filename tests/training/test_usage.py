"""Tests of resource usage: seconds, GPUs and joules over all resumes, and null with a reason."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import CPU

from raykd.errors import Interrupted
from raykd.training import usage
from raykd.training.usage import record_usage

GPU = torch.device("cuda")
UUID = "1b2c3d4e-0000-1111-2222-333344445555"


class Nvml(ModuleType):
    """NVML as nvidia-ml-py has it, with one GPU whose counter a test turns."""

    NVML_DEVICE_MIG_ENABLE, NVML_ERROR_NOT_SUPPORTED = 1, 3

    class NVMLError(Exception):
        def __init__(self, message: str, value: int = 999) -> None:
            super().__init__(message)
            self.value = value

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.millijoules, self.processes, self.mig, self.is_there = 1_000_000, 1, 0, True

    def _answer(self, value: Any) -> Any:
        if not self.is_there:
            raise self.NVMLError("Driver Not Loaded")
        return value

    def nvmlInit(self) -> None:
        self._answer(None)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == f"GPU-{UUID}"
        return self._answer("handle")

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if self.mig is None:
            raise self.NVMLError("Not Supported", self.NVML_ERROR_NOT_SUPPORTED)
        return [self.mig, self.mig]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[object]:
        return [object()] * self.processes

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return self._answer(self.millijoules)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """A machine with one GPU, as torch describes it."""
    there = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", there)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=UUID))
    return there


def pieces(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["pieces"]


def test_joules_are_the_counters_difference_and_pieces_add_up_over_resumes(nvml: Nvml, tmp_path: Path) -> None:
    path = tmp_path / "usage" / "0.json"
    with record_usage(path, GPU, 1.0):
        nvml.millijoules += 250_000
    nvml.millijoules += 9_000_000  # of others, between
    with pytest.raises(Interrupted), record_usage(path, GPU, 1.0):
        nvml.millijoules += 1_500
        raise Interrupted("stopped")
    found = pieces(path)
    assert [piece["joules"] for piece in found] == [250.0, 1.5]
    assert all(piece["gpu"] == "NVIDIA H100" and piece["gpus"] == 1.0 for piece in found)
    assert all(piece["seconds"] >= 0 and piece["joules_missing_reason"] is None for piece in found)


@contextmanager
def without_joules(path: Path, device: torch.device, gpus: float, why: str) -> Iterator[None]:
    with record_usage(path, device, gpus):
        yield
    (piece,) = pieces(path)
    assert piece["joules"] is None and why in piece["joules_missing_reason"]


def test_a_cpu_has_no_joules(tmp_path: Path) -> None:
    path = tmp_path / "0.json"
    with without_joules(path, CPU, 0, "no GPU"):
        pass
    assert pieces(path)[0]["gpu"] is None and pieces(path)[0]["gpus"] == 0


def test_a_fractional_gpu_has_no_joules(nvml: Nvml, tmp_path: Path) -> None:
    with without_joules(tmp_path / "0.json", GPU, 0.5, "0.5 of the GPU"):
        pass


def test_a_shared_gpu_has_no_joules(nvml: Nvml, tmp_path: Path) -> None:
    nvml.processes = 2
    with without_joules(tmp_path / "0.json", GPU, 1, "2 processes"):
        pass


def test_a_gpu_that_was_shared_for_a_while_has_no_joules(nvml: Nvml, tmp_path: Path) -> None:
    with without_joules(tmp_path / "0.json", GPU, 1, "3 processes"):
        nvml.processes = 3  # they are there when the run ends
    nvml.processes = 1
    piece_so_far = usage._meter(GPU, 1.0)
    assert piece_so_far().joules == 0.0
    nvml.processes = 2
    assert piece_so_far().joules is None
    nvml.processes = 1
    assert piece_so_far().joules is None and piece_so_far().joules_missing_reason == "2 processes compute on the GPU"


@pytest.mark.parametrize(
    ("visible", "name"),
    [("MIG-5c2d1f0e-aaaa-bbbb-cccc-ddddeeeeffff", "NVIDIA H100"), ("0", "NVIDIA H100 80GB HBM3 MIG 1g.10gb")],
)
def test_a_mig_instance_that_cuda_shows_is_known_without_asking_for_a_gpu_of_its_uuid(
    visible: str, name: str, nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="of-the-instance"))
    with without_joules(tmp_path / "0.json", GPU, 1, "a MIG instance, but the counter measures the whole GPU"):
        pass


def test_a_mig_instance_has_no_joules_and_a_gpu_without_such_a_mode_has(nvml: Nvml, tmp_path: Path) -> None:
    nvml.mig = 1
    with without_joules(tmp_path / "0.json", GPU, 1, "MIG"):
        pass
    nvml.mig = None
    with record_usage(tmp_path / "1.json", GPU, 1):
        pass
    assert pieces(tmp_path / "1.json")[0]["joules"] == 0.0


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_joules_are_null_if_nvml_does_not_answer(nvml: Nvml, tmp_path: Path, when: str) -> None:
    nvml.is_there = when != "before"
    with without_joules(tmp_path / "0.json", GPU, 1, "NVML: Driver Not Loaded"):
        nvml.is_there = False


def test_joules_are_null_without_pynvml(nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with without_joules(tmp_path / "0.json", GPU, 1, "not installed"):
        pass


def test_joules_are_null_if_the_counter_was_reset(nvml: Nvml, tmp_path: Path) -> None:
    with without_joules(tmp_path / "0.json", GPU, 1, "was reset"):
        nvml.millijoules = 0


def test_pynvml_has_the_names_used_here() -> None:
    import pynvml

    names = ("nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetMigMode", "nvmlDeviceGetTotalEnergyConsumption")
    assert all(callable(getattr(pynvml, name)) for name in (*names, "nvmlDeviceGetComputeRunningProcesses"))
    assert pynvml.NVML_DEVICE_MIG_ENABLE == Nvml.NVML_DEVICE_MIG_ENABLE
    assert pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED).value == Nvml.NVML_ERROR_NOT_SUPPORTED


def test_joules_are_null_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU node has: pynvml itself, and no libnvidia-ml."""
    import pynvml

    def absent(name: str, *_: Any) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", absent)
    with without_joules(tmp_path / "0.json", GPU, 1, "NVML: "):
        pass


def test_a_kill_loses_only_what_was_not_yet_written(
    nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, written = tmp_path / "0.json", threading.Event()
    monkeypatch.setattr(usage, "WRITE_EVERY_S", 0.01)
    write = usage.write_record

    def noted(*arguments: Any) -> None:
        write(*arguments)
        written.set()

    monkeypatch.setattr(usage, "write_record", noted)
    with record_usage(path, GPU, 1):
        nvml.millijoules += 40_000
        written.clear()
        assert written.wait(30), "the thread writes while the run trains"
        assert pieces(path)[0]["joules"] == 40.0
    assert len(pieces(path)) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "raykd-usage"]


def test_usage_of_a_partly_trained_run_records_since_when(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "0.json", tmp_path / "new" / "0.json"
    for path, is_started in ((old, True), (new, False), (old, True), (new, True)):
        with record_usage(path, CPU, 0, is_started):
            pass
    found = {path: json.loads(path.read_text()) for path in (old, new)}
    assert [len(file["pieces"]) for file in found.values()] == [2, 2]
    assert found[new]["since"] is None and found[old]["since"].startswith("20")


def test_a_run_killed_in_its_first_seconds_has_a_usage_file(tmp_path: Path) -> None:
    path = tmp_path / "0.json"
    with record_usage(path, CPU, 0):
        usage = json.loads(path.read_text())
    assert len(usage["pieces"]) == 1


def test_a_full_disk_is_logged_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(usage, "write_record", full)
    with record_usage(tmp_path / "0.json", CPU, 0):
        pass
    assert "no space left" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"pieces": 3}', b"\xff\xfe"])
def test_a_damaged_file_fails_no_job_and_leaves_the_usage_blank(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "usage" / "0.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with record_usage(path, CPU, 0):
        pass
    assert f"'{path}' is damaged" in caplog.text
    assert json.loads(path.read_text())["since"].startswith("20") and len(pieces(path)) == 1


def test_a_folder_in_place_of_the_usage_file_fails_no_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "0.json").mkdir()
    with record_usage(tmp_path / "0.json", CPU, 0):
        pass
    assert "is a folder" in caplog.text
