"""The whole benchmark: both families, a small experiment, and the hardware. It downloads and keeps nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from raykd.bench.arithmetic import achieved
from raykd.bench.families import FAMILIES
from raykd.bench.memory import peak_memory
from raykd.bench.rounds import run_rounds
from raykd.bench.small_experiment import SmallExperiment, compare
from raykd.provenance import hardware, source, versions
from raykd.store.run_folder import now


def benchmark(
    names: Sequence[str], device: torch.device, num_rounds: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """Return all results, ready for JSON. log: receives lines about the progress."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    results: dict[str, Any] = {
        "date": now(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "hardware": hardware(gpu),
        "versions": versions(),
        "git": source(),
    }
    for name in names:
        family = FAMILIES[name]()
        log(f"{name}: memory of a run")
        memory = peak_memory(name, device)  # first, while memory is free
        results[name] = run_rounds(family, device, num_rounds, log) | {"memory": memory}
        step_s = results[name]["ms_per_step"]["step without the loop, baseline"] / 1e3
        results[name]["flops_per_s"] = achieved(family, device, step_s)
    log("a small experiment with the standard pipeline, then with raykd")
    return results | {"small_experiment": compare(SmallExperiment(), device)}
