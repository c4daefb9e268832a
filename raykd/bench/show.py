"""Print a benchmark's results as tables."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from raykd.bench.rounds import KINDS


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print what `benchmark`, `benchmark_pair` or `benchmark_data` of raykd.bench.run returned."""
    for name in (name for name, value in results.items() if isinstance(value, Mapping) and "ms_per_step" in value):
        _print_steps(name, results[name], console)
        _print_ratios(name, results[name], console)
    if loading := results.get("loading"):
        _print_loading(loading, console)
    if "small_experiment" in results:
        total = results["small_experiment"]
        console.print(
            f"a whole small experiment, once: standard pipeline {total['standard_s']:.0f} s, "
            f"raykd {total['raykd_s']:.0f} s, {total['ratio']:.1f} times",
            soft_wrap=True,
        )


def _table(title: str, *columns: str) -> Table:
    """Return a table whose first column has no title and is aligned to the left."""
    table = Table("", title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _print_steps(name: str, results: Mapping[str, Any], console: Console) -> None:
    table = _table(f"{name}: a training step, median", "ms", "images/s")
    for implementation, milliseconds in results["ms_per_step"].items():
        table.add_row(implementation, f"{milliseconds:,.1f}", f"{results['images_per_s'][implementation]:,.0f}")
    table.add_row("fill of the logit cache, views/s", "", f"{results['fill_views_per_s']:,.0f}")
    console.print(table)


def _print_ratios(name: str, results: Mapping[str, Any], console: Console) -> None:
    table = _table(f"{name}: ratios, each within its round", "median", "quartiles")

    def row(title: str, *path: str) -> None:
        value, spread = results, results["spread"]
        for key in path:
            value, spread = value[key], spread[key]
        table.add_row(title, f"{value:.3f}", f"[{spread[0]:.3f}, {spread[1]:.3f}]")

    for kind in KINDS:
        row(f"step without the loop / loop, {kind}", "loop_efficiency", kind)
    row("distilled with logit cache / baseline", "cache_over_baseline")
    row(f"standard pipeline, fp32 / raykd, {results['precision']}, cache full", "standard_over_raykd", "full_cache")
    row("standard pipeline / raykd, including the filling of the cache", "standard_over_raykd", "with_fill")
    console.print(table)
    if memory := results.get("memory"):
        mebibytes = {part: f"{memory[part] / 2**20:,.0f}" for part in memory}
        console.print(
            f"peak memory of a run: {mebibytes['peak']} MiB of {mebibytes['limit']} (images {mebibytes['images']}, "
            f"logit cache {mebibytes['cache']}, other {mebibytes['other']}), {mebibytes['before']} before the run",
            soft_wrap=True,
        )
    if arithmetic := results.get("flops_per_s"):
        console.print(
            f"arithmetic: {arithmetic['step'] / 1e12:.2f} TFLOP/s in a step, {arithmetic['share']:.0%} of a matrix "
            f"product's {arithmetic['matrix_product'] / 1e12:.2f}",
            soft_wrap=True,
        )


def _print_loading(results: Mapping[str, Any], console: Console) -> None:
    size, kilobytes = results["image_size"], results["bytes_per_image"] / 1e3
    title = f"{results['num_images']:,} images of {kilobytes:,.0f} KB as random crops of {size}x{size}, on one core"
    table = _table(title, "median", "lowest to highest")
    titles = {
        "decode": "full decode alone, images/s",
        "raykd": "raykd's loader, images/s",
        "torchvision": "torchvision's ImageFolder and DataLoader, images/s",
    }
    for name, text in titles.items():
        low, high = results["spread"][name]
        table.add_row(text, f"{results['images_per_s'][name]:,.0f}", f"{low:,.0f} to {high:,.0f}")
    for name, text in (("decode", "decode alone"), ("torchvision", "torchvision")):
        low, high = results["spread"][f"raykd_over_{name}"]
        table.add_row(f"raykd / {text}", f"{results[f'raykd_over_{name}']:.2f}", f"{low:.2f} to {high:.2f}")
    console.print(table)
