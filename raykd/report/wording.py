"""How the report and the progress lines write numbers: rounded to what the data supports, with units."""

import re

from raykd.errors import flattened, plural
from raykd.report.stats.paired_interval import DISTILLED, PairedGain, Spread
from raykd.report.stats.significance import LEVEL, fewest_pairs
from raykd.spec.published import PROTOCOL, PublishedPair
from raykd.store.records import Costs

_MINUS = re.compile(r"(?<![\w.,\u2212-])-(?=\d)")
_BEFORE_A_SIGN = re.compile(r" (?=[=±%])|(?<=[=±]) ")


def mean_std(spread: Spread | None, decimals: int = 2) -> str:
    """Return '87.42 ± 0.21': mean and standard deviation. 10,000 images resolve two decimals of a percentage."""
    if spread is None:
        return "-"
    return f"{spread.mean:.{decimals}f}" + ("" if spread.std is None else f" ± {spread.std:.{decimals}f}")


def published(pair: PublishedPair) -> list[str]:
    """Return the sentences on a published pair: its teacher and baseline, and how the protocols differ."""
    points = ", ".join(f"{name} {pair.top1[name]:.2f} %" for name in ("teacher", "baseline") if name in pair.top1)
    return [f"published for {pair.name}: {points}; sources in raykd/spec/published_cifar100.json", PROTOCOL]


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


def duration(seconds: float | None) -> str:
    """Return a short text: '41.2 s', '12 min 05 s' or '3 h 07 min'."""
    if seconds is None:
        return "-"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02d} min"


def times(ratio: float | None) -> str:
    """Return '1.25 x'."""
    return "-" if ratio is None else f"{ratio:.2f} x"


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


def p_value(p: float | None) -> str:
    """Return '0.25', '0.016' or '<0.001'; with more digits where rounding would cross 0.05: '0.0496'."""
    if p is None:
        return "-"
    if p < 0.001:
        return "<0.001"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))


def exact_tests(gain: PairedGain) -> str:
    """Return both exact tests of a gain over seeds, and the smallest p-value that so many seeds allow."""
    tests = f"sign p = {p_value(gain.sign_test_p)}"
    if gain.permutation_p is not None:
        tests += f", permutation p = {p_value(gain.permutation_p)}"
    possible = f"the smallest possible at n = {len(gain.pairs)} is {p_value(gain.smallest_p)}"
    if gain.smallest_p >= LEVEL:
        possible += f", whatever the gains: {LEVEL:g} requires {fewest_pairs()} seeds"
    return f"exact tests, two-sided: {tests}; {possible}".replace("= <", "< ")


def in_favor(gain: PairedGain) -> str:
    """Return '2 of 3 seeds in favor of distillation', or of the gain's other name, such as 'the winner'."""
    name = "distillation" if gain.name == DISTILLED else gain.name
    return f"{gain.num_in_favor} of {plural(len(gain.pairs), 'seed')} in favor of {name}"


def capital(text: str) -> str:
    """Return `text` with its first letter in upper case and all others unchanged."""
    return text[:1].upper() + text[1:]


def minus(text: str) -> str:
    """Return `text` with minus signs, which are as wide as the plus, instead of hyphens before numbers."""
    return _MINUS.sub("\N{MINUS SIGN}", text)


def dash(text: str) -> str:
    """Return a dash instead of '-', which stands for a missing number."""
    return "\N{EN DASH}" if text == "-" else text


def unbroken(text: str) -> str:
    """Return `text` with no-break spaces between numbers and their signs: 'n = 3', '88.57 ± 0.31 %'."""
    return _BEFORE_A_SIGN.sub("\N{NO-BREAK SPACE}", text)
