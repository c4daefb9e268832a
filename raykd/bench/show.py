"""Print a benchmark's results as tables."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from raykd.bench.rounds import KINDS


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print what `raykd.bench.run.benchmark` returned."""
    for name in (name for name in ("cnn", "vit") if name in figures):
        _steps(name, figures[name], console)
        _ratios(name, figures[name], console)
    if "small_experiment" in figures:
        total = figures["small_experiment"]
        console.print(
            f"a whole small experiment, once: usual way {total['usual_s']:.0f} s, raykd {total['raykd_s']:.0f} s, "
            f"{total['ratio']:.1f} times",
            soft_wrap=True,
        )


def _steps(name: str, results: Mapping[str, Any], console: Console) -> None:
    table = Table(title=f"{name}: a training step, median", title_justify="left", box=None, pad_edge=False)
    for column in ("", "ms", "images/s"):
        table.add_column(column, justify="left" if not column else "right")
    for which, milliseconds in results["ms_per_step"].items():
        table.add_row(which, f"{milliseconds:,.1f}", f"{results['images_per_s'][which]:,.0f}")
    table.add_row("fill of the logit cache", "", f"{results['fill_images_per_s']:,.0f}")
    console.print(table)


def _ratios(name: str, results: Mapping[str, Any], console: Console) -> None:
    table = Table(title=f"{name}: ratios, each within its round", title_justify="left", box=None, pad_edge=False)
    for column in ("", "median", "quartiles"):
        table.add_column(column, justify="left" if not column else "right")

    def row(title: str, *path: str) -> None:
        value, spread = results, results["spread"]
        for key in path:
            value, spread = value[key], spread[key]
        table.add_row(title, f"{value:.3f}", f"[{spread[0]:.3f}, {spread[1]:.3f}]")

    for kind in KINDS:
        row(f"bare step / real loop, {kind}", "loop_efficiency", kind)
    row("distilled with logit cache / baseline", "cache_over_baseline")
    row(f"usual way, fp32 / raykd, {results['precision']}, cache full", "usual_over_raykd", "full_cache")
    row("usual way / raykd, filling counted over the experiment", "usual_over_raykd", "with_fill")
    console.print(table)
    memory, arithmetic = results.get("memory"), results.get("flops_per_s")
    if memory:
        mebibytes = {part: f"{memory[part] / 2**20:,.0f}" for part in memory}
        console.print(
            f"peak memory of a run: {mebibytes['peak']} MiB of {mebibytes['limit']} (images {mebibytes['images']}, "
            f"logit cache {mebibytes['cache']}, and 1.5 GiB)",
            soft_wrap=True,
        )
    if arithmetic:
        console.print(
            f"arithmetic: {arithmetic['step'] / 1e12:.2f} TFLOP/s in a step, {arithmetic['share']:.0%} of a matrix "
            f"product's {arithmetic['matrix_product'] / 1e12:.2f}",
            soft_wrap=True,
        )
