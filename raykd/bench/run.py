"""Three benchmarks: both families with a small experiment, one pair of models, and data loading.

They download and keep nothing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from raykd.bench.arithmetic import achieved_flops_per_s
from raykd.bench.families import FAMILIES, TimedPair
from raykd.bench.image_loading import BATCH_SIZE, NUM_IMAGES, benchmark_loading
from raykd.bench.memory import peak_memory
from raykd.bench.photos import first_images, generate_photos
from raykd.bench.rounds import run_rounds
from raykd.bench.small_experiment import SmallExperiment, compare
from raykd.errors import ConfigError, plural
from raykd.provenance import hardware, source, versions
from raykd.store.run_folder import now
from raykd.training.compute import gpu_name


def benchmark_pair(
    pair: TimedPair, device: torch.device, num_rounds: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """Return the results of one pair of models, ready for JSON: step times and ratios."""
    return _conditions(device) | {pair.name: run_rounds(pair, device, num_rounds, log)}


def benchmark(
    names: Sequence[str], device: torch.device, num_rounds: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """Return all results, ready for JSON. log: receives lines about the progress."""
    results = _conditions(device)
    for name in names:
        pair = FAMILIES[name]()
        log(f"{name}: memory of a run")
        memory = peak_memory(name, device)  # first, while memory is free
        results[name] = run_rounds(pair, device, num_rounds, log) | {"memory": memory}
        step_s = results[name]["ms_per_step"]["step without the loop, baseline"] / 1e3
        results[name]["flops_per_s"] = achieved_flops_per_s(pair, device, step_s)
    log("a small experiment with the standard pipeline, then with raykd")
    return results | {"small_experiment": compare(SmallExperiment(), device)}


def benchmark_data(name: str, data_folder: Path, num_rounds: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Return the results of loading images from disk on one core, ready for JSON.

    name: the data set whose first images are loaded; '' for generated photos.

    Raises ConfigError for fewer images than one batch, and what `first_images` raises.
    """
    log(f"reading images of {name}" if name else "generating photos")
    images = first_images(name, data_folder, NUM_IMAGES) if name else generate_photos(NUM_IMAGES)
    if len(images) < BATCH_SIZE:
        raise ConfigError(
            f"--data {name}: has {plural(len(images), 'image')}, and {BATCH_SIZE} are required; name a larger one"
        )
    return _conditions(torch.device("cpu")) | {"loading": benchmark_loading(images, num_rounds, log)}


def _conditions(device: torch.device) -> dict[str, Any]:
    return {
        "date": now(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "hardware": hardware(gpu_name(device)),
        "versions": versions(),
        "git": source(),
    }
