"""W&B offline: its files have the runs, and no process of it stays behind."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_tracker import STEPS, TEACHER, family_in, folder_of, train
from wandb_files import contents

from raykd.trackers.tracking import FOLDER, Tracking


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


def track(results: Path, files: tuple[Path, ...] = ()) -> list[str]:
    """Copy the results folder as one command does, and return what it logs."""
    lines: list[str] = []
    with Tracking(("wandb",), results, lines.append) as tracking:
        tracking.watch(family_in(results), lambda: [folder_of(TEACHER, results)])
        tracking.attach(family_in(results), lambda: (files, {"teacher_accuracy": 0.5}))
    return lines


def written(results: Path) -> list[dict[str, Any]]:
    """Return the contents of all W&B files, oldest first."""
    return [contents(path) for path in sorted((results / FOLDER / "wandb").glob("offline-run-*/*.wandb"))]


@pytest.mark.nightly
def test_offline_files_have_settings_epochs_test_metrics_and_the_report_across_a_resume(tmp_path: Path) -> None:
    report = tmp_path / "index.html"
    report.write_text("<p>")
    results = tmp_path / "results"
    train(TEACHER, results, stop_at=STEPS + 2)
    assert track(results) == [f"tracker wandb: wandb sync {results / FOLDER}/wandb/offline-run-*"]
    train(TEACHER, results)
    track(results, (report,))
    first, second = [found for found in written(results) if found["name"] == TEACHER.name]
    rows = folder_of(TEACHER, results).history()
    assert (first["id"], first["exit"], second["exit"]) == (second["id"], 1, 0)
    assert (first["group"], first["kind"], first["project"]) == ("small", "teacher", "raykd")
    assert first["config"]["teacher.optimizer.lr"] == "0.05"
    assert list(first["steps"]) == [0] and list(second["steps"]) == [1, 2]
    for number, step in (first["steps"] | second["steps"]).items():
        assert step["top1/val"] == rows[number]["val_top1"] and step["loss/ce"] == pytest.approx(rows[number]["ce"])
    assert {"test/top1", "test/nll", "best_epoch"} <= second["summary"].keys()
    family = [found for found in written(results) if found["kind"] == "family"][-1]
    assert (family["artifacts"], family["summary"]["teacher_accuracy"]) == ([["index.html"]], 0.5)
    assert processes() == []


@pytest.fixture
def full_disk(results: Path) -> Iterator[None]:
    """The folder of the trackers as a filesystem of 32 KiB with less than a W&B file's bytes left."""
    folder = results / FOLDER
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and the right to mount")
    (folder / "filler").write_bytes(b"x" * 20_000)
    yield
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_without_a_traceback(
    results: Path, full_disk: None, capfd: pytest.CaptureFixture[str]
) -> None:
    (line,) = [line for line in track(results) if "fails" in line]
    assert "No space left on device" in line
    assert capfd.readouterr() == ("", "") and processes() == []


def test_a_server_that_cannot_be_reached_fails_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("raykd.trackers.tracking.CLOSE_S", 1.0)
    started = time.monotonic()
    (line,) = track(results)
    assert line.startswith("tracker wandb fails (") and processes() == []
    assert time.monotonic() - started < 60, "W&B by itself waits for 90 s"


def processes() -> list[psutil.Process]:
    """Return W&B's processes that this process has started and that run."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "wandb" in child.name() and child.status() != psutil.STATUS_ZOMBIE]
