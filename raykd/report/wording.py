"""How the report and the progress lines write numbers: rounded to what the data supports, with units."""

import re

from raykd.errors import flattened, plural
from raykd.report.stats.comparison import MethodSummary, Ratio
from raykd.report.stats.paired_interval import DISTILLED, PairedGain, Spread
from raykd.report.stats.significance import LEVEL, fewest_pairs, p_equals, p_value
from raykd.spec.published import PublishedPair, protocol
from raykd.store.recorded_config import RecordedExperiment
from raykd.store.records import Costs

_MINUS = re.compile(r"(?<![\w.,\u2212-])-(?=\d)")
_BEFORE_A_SIGN = re.compile(r" (?=[=±%])|(?<=[=±]) ")


def mean_std(spread: Spread | None, decimals: int = 2) -> str:
    """Return '87.42 ± 0.21': mean and standard deviation. 10,000 images resolve two decimals of a percentage."""
    if spread is None:
        return "-"
    return f"{spread.mean:.{decimals}f}" + ("" if spread.std is None else f" ± {spread.std:.{decimals}f}")


def published(pair: PublishedPair, experiment: RecordedExperiment) -> list[str]:
    """Return the sentences on a published pair: its teacher and baseline, and how the protocols compare."""
    own = protocol(experiment.data.val_images == 0, experiment.student.keep == "last")
    points = ", ".join(f"{name} {pair.top1[name]:.2f} %" for name in ("teacher", "baseline") if name in pair.top1)
    return [f"published for {pair.name}: {points}; sources in raykd/spec/published_cifar100.json", own]


def signed(value: float, decimals: int = 2) -> str:
    """Return '+1.23' or '-0.40', such as percentage points."""
    return f"{value:+.{decimals}f}"


def interval(gain: PairedGain, decimals: int = 2) -> str:
    """Return '[+0.61, +2.04]', or '' where the gain has no interval."""
    return "" if gain.interval is None else f"[{', '.join(signed(end, decimals) for end in gain.interval)}]"


def gain(gain: PairedGain | None, decimals: int = 2) -> str:
    """Return '+2.65 [+2.11, +3.18]': the mean, and its interval if there is one."""
    return "-" if gain is None else f"{signed(gain.spread.mean, decimals)} {interval(gain, decimals)}".rstrip()


def parameters(count: int | None) -> str:
    """Return '11.17 M', '78.0 k' or '512'."""
    if count is None:
        return "-"
    if count >= 1e6:
        return f"{count / 1e6:.2f} M"
    return f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)


def flops(count: int) -> str:
    """Return '2.08 M', '507 M' or '1.11 G', with three significant digits."""
    shown, unit = count, ""
    for prefix in ("k", "M", "G", "T"):
        if float(f"{shown:.3g}") < 1000:
            break
        shown, unit = shown / 1000, f" {prefix}"
    return f"{shown:.3g}{unit}"


def times(ratio: Ratio | None, with_range: bool = False) -> str:
    """Return '1.25 x', or '1.25 x [1.10, 1.42]' with the range over seeds if there are several."""
    if ratio is None:
        return "-"
    shown = with_range and ratio.low < ratio.high
    return f"{ratio.median:.2f} x" + (f" [{ratio.low:.2f}, {ratio.high:.2f}]" if shown else "")


def energy(joules: float | None) -> str:
    """Return '812 J', '41.2 kJ' or '2.50 kWh'."""
    if joules is None:
        return "-"
    if joules >= 3.6e6:
        return f"{joules / 3.6e6:.2f} kWh"
    return f"{joules / 1e3:.1f} kJ" if joules >= 1e3 else f"{joules:.0f} J"


def device(costs: Costs) -> str:
    """Return 'NVIDIA H100, bf16' or 'a processor, fp32, 2 threads', to compare latencies of one device only."""
    threads = f", {plural(costs.threads, 'thread')}" if costs.threads else ""
    return f"{flattened(costs.device)}, {costs.precision}{threads}"


def best_method(method: MethodSummary) -> str:
    """Return 'highest mean: crd, +4.37 points, Holm p = 0.0017', with the gain as far as it is known."""
    line = f"highest mean: {flattened(method.name)}"
    if method.gain is not None:
        line += f", {signed(method.gain.spread.mean)} points"
    return line if method.p_holm is None else f"{line}, {p_equals('Holm p', method.p_holm)}"


def coverage(gain: PairedGain, num_teachers: int) -> list[str]:
    """Return the sentences on what a gain over seeds covers, and what it does not."""
    if len(gain.pairs) < 2:
        return []
    teachers = "one teacher" if num_teachers < 2 else f"one set of {num_teachers} teachers"
    return [
        f"over {len(gain.pairs)} seeds, {teachers} and one test split",
        "it does not cover other teachers or images",
    ]


def resolution(num_images: int | None) -> list[str]:
    """Return the points of one test image where they exceed the last decimals of a gain: below 2,000 images."""
    return [] if not num_images or num_images >= 2000 else [f"one test image is {100 / num_images:.2f} points"]


def exact_tests(gain: PairedGain) -> list[str]:
    """Return sentences on both exact tests of a gain in top-1, and on the smallest p-value of so many seeds."""
    tests = p_equals("sign p", gain.sign_test_p)
    if gain.permutation_p is not None:
        tests += f", {p_equals('permutation p', gain.permutation_p)}"
    possible = f"the smallest possible p of these at n = {len(gain.pairs)} is {p_value(gain.smallest_p)}"
    if gain.smallest_p >= LEVEL:
        possible += f"; p < {LEVEL:g} requires {fewest_pairs()} seeds"
    return [f"exact tests of the gain in top-1, two-sided: {tests}", possible]


def in_favor(gain: PairedGain) -> str:
    """Return '2 of 3 seeds in favor of distillation', or of the gain's other name, such as 'the winner'."""
    name = "distillation" if gain.name == DISTILLED else gain.name
    return f"{gain.num_in_favor} of {plural(len(gain.pairs), 'seed')} in favor of {name}"


def capital(text: str) -> str:
    """Return `text` with its first letter in upper case and all others unchanged; 'n = 3' keeps its small letter."""
    return text if text.startswith("n = ") else text[:1].upper() + text[1:]


def minus(text: str) -> str:
    """Return `text` with minus signs, which are as wide as the plus, instead of hyphens before numbers."""
    return _MINUS.sub("\N{MINUS SIGN}", text)


def dash(text: str) -> str:
    """Return a dash instead of '-', which stands for a missing number."""
    return "\N{EN DASH}" if text == "-" else text


def unbroken(text: str) -> str:
    """Return `text` with no-break spaces between numbers and their signs: 'n = 3', '88.57 ± 0.31 %'."""
    return _BEFORE_A_SIGN.sub("\N{NO-BREAK SPACE}", text)
