"""Tests of a run's peak memory: reset for each run and recorded at its end."""

import mmap

import torch
from small_runs import run_of, train

from raykd.store.run_folder import RunFolder
from raykd.training.memory import peak_bytes, reset_peak

CPU = torch.device("cpu")
MUCH = 400 << 20


def take_much() -> None:
    """Memory that goes back to the system at once, as what malloc gave may not."""
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
