"""Tests of a run's peak memory: reset for each run and recorded at its end."""

import mmap

import pytest
import torch
from small_runs import recipe, run_of, train

from raykd.errors import Interrupted
from raykd.store.run_folder import RunFolder
from raykd.training import loop
from raykd.training.memory import peak_bytes, reset_peak

CPU = torch.device("cpu")
MUCH = 400 << 20


def take_much() -> None:
    """Memory that goes back to the system immediately, as what malloc gave may not."""
    with mmap.mmap(-1, MUCH) as taken:
        for page in range(0, MUCH, mmap.PAGESIZE):
            taken[page] = 1


def test_peak_memory_is_reset(run_folder: RunFolder) -> None:
    take_much()
    before = peak_bytes(CPU)
    assert before is not None and before > MUCH
    assert reset_peak(CPU)
    after = peak_bytes(CPU)
    assert after is not None and after < before - MUCH // 2


def test_run_records_its_peak_memory(run_folder: RunFolder) -> None:
    take_much()
    before = peak_bytes(CPU)
    train(run_of("baseline"), run_folder)
    peak = run_folder.require_record().peak_memory_bytes
    assert before is not None and 50 << 20 < peak < before - MUCH // 2


def test_peak_is_the_largest_of_all_epochs_and_resumes_though_each_epoch_resets_it(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report to Ray resets the GPU's peak after each epoch, and a resumed run is another process."""
    peaks = iter([30, 70, 50])
    monkeypatch.setattr(loop, "peak_bytes", lambda device: next(peaks))
    run, done = run_of("baseline", student=recipe(epochs=3)), iter([False] * 9 + [True])
    with pytest.raises(Interrupted):  # in the third epoch
        train(run, run_folder, should_stop=lambda: next(done))
    train(run, run_folder)
    assert run_folder.require_record().peak_memory_bytes == 70
