"""Tests of the loop on a GPU: it trains, stops, resumes and agrees with the CPU within float32 rounding."""

from typing import Any

import pytest
import torch
from small_runs import digits, recipe, run_of, teacher_of

from raykd.errors import Interrupted
from raykd.methods import FeatureKD
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.loop import fit
from raykd.training.teacher.sources import LiveTeacher

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def train(run: Run, folder: RunFolder, device: str, **hooks: Any) -> list[EpochReport]:
    reports: list[EpochReport] = []
    teacher = teacher_of(run)
    if isinstance(teacher, LiveTeacher):
        teacher.model.to(device)
    fit(run, digits(), folder, torch.device(device), teacher, Hooks(reports.append, **hooks))
    return reports


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_run_on_a_gpu_is_stopped_and_resumes(precision: str, run_folder: RunFolder) -> None:
    run = run_of("distilled", method=FeatureKD(), student=recipe(precision=precision))
    left = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        train(run, run_folder, "cuda", should_stop=lambda: next(left), checkpoint_every_s=0)
    assert [report.epoch for report in train(run, run_folder, "cuda")] == [1, 2]
    assert run_folder.status() == "done" and run_folder.require_record().hardware["gpu"]


def test_first_epochs_losses_are_the_cpus(run_folder: RunFolder, tmp_path: Any) -> None:
    run = run_of("distilled", method=FeatureKD())
    on_gpu, on_cpu = train(run, run_folder, "cuda")[0], train(run, RunFolder(tmp_path / "cpu"), "cpu")[0]
    assert on_gpu.terms == pytest.approx(on_cpu.terms, rel=1e-2)  # convolutions on a GPU may use TF32
