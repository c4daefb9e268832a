"""How numbers read on the page and in the terminal: rounded to what their origin supports, with units."""

import re

from raykd.errors import plural
from raykd.report.stats.significance import LEVEL, fewest_pairs
from raykd.report.stats.statistics import PairedGain, Spread

_BEFORE_A_SIGN = re.compile(r" (?=[=±%])|(?<=[=±]) ")


def percent(spread: Spread | None) -> str:
    """'87.42 ± 0.21': mean and standard deviation in percent; two digits, as 10,000 images resolve 0.01."""
    if spread is None:
        return "-"
    return f"{spread.mean:.2f}" + ("" if spread.std is None else f" ± {spread.std:.2f}")


def rounded(spread: Spread | None, digits: int) -> str:
    """'0.4127 ± 0.0034': mean and standard deviation with so many digits behind the point."""
    if spread is None:
        return "-"
    return f"{spread.mean:.{digits}f}" + ("" if spread.std is None else f" ± {spread.std:.{digits}f}")


def points(value: float) -> str:
    """'+1.23' or '-0.40': percentage points with their sign."""
    return f"{value:+.2f}"


def interval(gain: PairedGain) -> str:
    """'[+0.61, +2.04]', or '' of one pair and of equal ones."""
    return "" if gain.interval is None else f"[{points(gain.interval[0])}, {points(gain.interval[1])}]"


def gain(found: PairedGain | None, digits: int = 2) -> str:
    """'+2.65 [+2.11, +3.18]': the mean and its interval, which one pair and equal ones do not have."""
    if found is None:
        return "-"
    mean = f"{found.spread.mean:+.{digits}f}"
    if found.interval is None:
        return mean
    return f"{mean} [{found.interval[0]:+.{digits}f}, {found.interval[1]:+.{digits}f}]"


def parameters(count: int | None) -> str:
    """'11.17 M', '78.0 k' or '512'."""
    if count is None:
        return "-"
    if count >= 1e6:
        return f"{count / 1e6:.2f} M"
    return f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)


def duration(seconds: float | None) -> str:
    """'41.2 s', '12 min 05 s' or '3 h 07 min'."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02d} min"


def times(ratio: float | None) -> str:
    """'1.25 x'."""
    return "-" if ratio is None else f"{ratio:.2f} x"


def energy(joules: float | None) -> str:
    """'812 J', '41.2 kJ' or '2.50 kWh'."""
    if joules is None:
        return "-"
    if joules >= 3.6e6:
        return f"{joules / 3.6e6:.2f} kWh"
    return f"{joules / 1e3:.1f} kJ" if joules >= 1e3 else f"{joules:.0f} J"


def p_value(p: float | None) -> str:
    """'0.25', '0.016' or '<0.001'; with a digit more where rounding would take it over 0.05: '0.0496'."""
    if p is None:
        return "-"
    if p < 0.001:
        return "<0.001"
    rounded_to = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in rounded_to if (float(text) < LEVEL) == (p < LEVEL))


def exact_tests(gain: PairedGain) -> str:
    """The two exact tests of a gain over seeds, and how small their p-values could have been."""
    found = f"sign p = {p_value(gain.sign_test_p)}"
    if gain.permutation_p is not None:
        found += f", permutation p = {p_value(gain.permutation_p)}"
    possible = f"the smallest possible at n = {len(gain.pairs)} is {p_value(gain.smallest_p)}"
    if gain.smallest_p >= LEVEL:
        possible += f", whatever the gains: {LEVEL:g} takes {fewest_pairs()} seeds"
    return f"exact tests, two-sided: {found}; {possible}".replace("= <", "< ")


def in_favour(gain: PairedGain, of: str = "distilling") -> str:
    """'2 of 3 seeds in favour of distilling'."""
    return f"{gain.num_in_favour} of {plural(len(gain.pairs), 'seed')} in favour of {of}"


def capital(text: str) -> str:
    """`text` with its first letter large, and the others as they are: 'Exact tests say ... p = 0.25'."""
    return text[:1].upper() + text[1:]


def unbroken(text: str) -> str:
    """`text` in which no line ends between a number and its sign: 'n = 3', '88.57 ± 0.31 %'."""
    return _BEFORE_A_SIGN.sub("\N{NO-BREAK SPACE}", text)
