"""A search in sentences, for its page and for the terminal: plain letters that a log in Latin-1 holds.

Settings and figures of a search in words.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raykd.errors import plural
from raykd.report import wording
from raykd.report.read.search_records import Candidate, Confirmation, Cost, SearchSummary, TrialSummary
from raykd.report.stats.statistics import PairedGain, Spread
from raykd.spec.search import Search

UNITS = {"val_top1": "{:.2f} %", "val_loss": "{:.4f}", "parameters": "{:,.0f}", "latency_ms": "{:.2f} ms"}


def in_units(search: Search, values: Iterable[float]) -> list[str]:
    """['85.10 %', '1.20 ms'], one for each metric."""
    return [UNITS[metric].format(value) for metric, value in zip(search.metrics, values, strict=True)]


def words(setting: Mapping[str, Any]) -> str:
    """A setting in a line: 'alpha 0.412, temperature 6.03'."""
    return ", ".join(f"{short(path)} {number(value)}" for path, value in setting.items())


def short(path: str) -> str:
    """The field of a dotted path."""
    return path.rpartition(".")[2]


def number(value: Any) -> str:
    """Four digits of a fraction, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


METRIC_NAMES = {
    "val_top1": "validation top1",
    "val_loss": "validation loss",
    "parameters": "parameters",
    "latency_ms": "latency",
}
METRIC_UNITS = {"val_top1": "%", "val_loss": "nats", "parameters": "", "latency_ms": "ms"}


def progress(summary: SearchSummary) -> str:
    """'12 of 12 trials ended: 3 done, 9 stopped early, 0 failed'."""
    counts = f"{summary.count('done')} done, {summary.count('stopped')} stopped early, {summary.count('failed')} failed"
    return f"{summary.num_ended} of {plural(summary.search.num_trials, 'trial')} ended: {counts}"


def headline(summary: SearchSummary) -> str:
    """What came of it, in one sentence."""
    winner, confirmation = summary.winner, summary.confirmation
    if winner is None:
        if summary.state == "failed":
            return f"None of {plural(len(summary.trials), 'trial')} came to its end."
        return "No trial has come to its end yet."
    if confirmation is None:
        return _unconfirmed(summary, winner)
    figures = f"{mean(confirmation.metric, winner.spread)} over {plural(len(confirmation.seeds), 'seed')}"
    name = METRIC_NAMES[confirmation.metric]
    if winner.trial is None and confirmation.num_found:
        return f"No setting that was found beat the experiment's own: {words(winner.setting)}, {name} {figures}."
    if winner.trial is None:
        return (
            f"The experiment's own setting is the only one that was tried: {words(winner.setting)}, {name} {figures}."
        )
    return f"The best setting is trial {winner.trial}'s: {words(winner.setting)}, {name} {figures}."


def _unconfirmed(summary: SearchSummary, winner: Candidate) -> str:
    search, best = summary.search, summary.best_trial
    figures = ", ".join(in_units(search, best.values if best else ()))
    setting = f"trial {winner.trial}, {words(winner.setting)}: {figures}"
    if len(search.metrics) > 1:
        some = plural(len(summary.best), "trial")
        return f"{some} of which none beats another in all of {', '.join(search.metrics)}; the first is {setting}."
    so_far = "" if summary.num_ended >= search.num_trials else " so far"
    return f"The best{so_far} is {setting}, with one seed that picked it, so expect less of another."


def certainty(summary: SearchSummary) -> tuple[str, ...]:
    """How sure the headline is: the winner's gains with their intervals, or why there are none."""
    confirmation = summary.confirmation
    if confirmation is None:
        if not summary.search.confirm:
            return ("Not confirmed with other seeds: the search was not asked to.",)
        return ("Not confirmed with other seeds yet.",)
    lines = [_against_baseline(confirmation), _against_default(confirmation)]
    failed = [one for one in confirmation.candidates if one.failed]
    lines += [f"The setting of {who(one)} failed, and so cannot win ({one.failed})." for one in failed]
    if not confirmation.is_whole:
        lines.append("It is being confirmed anew: the search was asked for other seeds or another number of settings.")
    return (*filter(None, lines), *picked(confirmation), *_report_baseline(confirmation))


def _against_baseline(confirmation: Confirmation) -> str:
    """The winner's gain over the baseline; which recipe the baseline has is part of the sentence."""
    gain, baseline = confirmation.over_baseline, confirmation.baseline
    if gain is None:
        return f"No gain over {baseline_name(confirmation)} is known: {baseline.failed or 'it has no values'}."
    differences = baseline.differences(confirmation.winner.setting)
    caution = ""
    if differences:
        fields = "; ".join(
            f"{path} is {number(was)} there and {number(now)} here" for path, (was, now) in differences.items()
        )
        caution = f", in which the gain of the recipe is included ({fields})"
    return f"Winner against {baseline_name(confirmation)}{caution}: {_gain(gain, confirmation)}"


def _against_default(confirmation: Confirmation) -> str:
    """The winner's gain over the experiment's own setting; '' where that is the winner, or has no values."""
    gain = confirmation.over_default
    return f"Winner against the experiment's own setting: {_gain(gain, confirmation)}" if gain else ""


def _gain(gain: PairedGain, confirmation: Confirmation) -> str:
    favour = wording.in_favour(gain, "the winner")
    return f"{gain_in_words(gain, confirmation.metric)}; {gain.verdict}; {favour}."


def baseline_name(confirmation: Confirmation) -> str:
    """'the baseline with the winner's student recipe', where fields of the student were searched."""
    if confirmation.baseline.differences(confirmation.winner.setting):
        return "a baseline of another student recipe"
    return "the baseline with the winner's student recipe" if _searches_student(confirmation) else "the baseline"


def _searches_student(confirmation: Confirmation) -> bool:
    return any(path.startswith("student.") for path in confirmation.winner.setting)


def _report_baseline(confirmation: Confirmation) -> tuple[str, ...]:
    """Which baseline report.json is about, where there could be several."""
    if not _searches_student(confirmation):
        return ()
    return (
        "Both students in report.json have the winner's student recipe: student_accuracy_without_kd is the baseline "
        "with it, student_accuracy_with_kd the winner.",
    )


def picked(confirmation: Confirmation) -> tuple[str, ...]:
    """What the intervals account for, where the winner was picked."""
    num_candidates = len(confirmation.candidates)
    if num_candidates < 2 or len(confirmation.seeds) < 2:
        return ()
    line = (
        f"It was picked among {plural(num_candidates, 'setting')} on these seeds, the experiment's own included, so "
        f"the interval of its gain over the baseline is widened for {num_candidates}"
    )
    if confirmation.over_default is not None:
        line += f", and over the experiment's own setting for {confirmation.num_found}"
    return (f"{line} (Bonferroni).",)


def gain_in_words(gain: PairedGain, metric: str) -> str:
    """'+1.20 points [-0.30, +2.70]', or in nats with four digits."""
    unit = "points" if metric == "val_top1" else METRIC_UNITS[metric]
    return f"{difference(gain.spread.mean, metric)} {unit} {interval(gain, metric)}".rstrip()


def difference(value: float, metric: str) -> str:
    """'+1.23' percentage points, or '+0.0123' nats."""
    return wording.points(value) if metric == "val_top1" else f"{value:+.4f}"


def interval(gain: PairedGain, metric: str) -> str:
    """'[+0.61, +2.04]', or '' of one pair."""
    return "" if gain.interval is None else f"[{', '.join(difference(end, metric) for end in gain.interval)}]"


def mean(metric: str, spread: Spread | None) -> str:
    """'46.50 ± 3.54 %' or '0.4120 ± 0.0100 nats'."""
    if spread is None:
        return "-"
    figure = wording.percent(spread) if metric == "val_top1" else _four_digits(spread)
    return f"{figure} {METRIC_UNITS[metric]}".rstrip()


def _four_digits(spread: Spread) -> str:
    return f"{spread.mean:.4f}" + ("" if spread.std is None else f" ± {spread.std:.4f}")


def value(metric: str, figure: float) -> str:
    """'45.10 %', '1.20 ms'."""
    return UNITS[metric].format(figure)


def cost_lines(cost: Cost) -> tuple[str, ...]:
    """What the trials took, what stopping early and sharing the teacher left out; only what is known."""
    lines = [f"The trials trained {plural(cost.epochs_trained, 'epoch')} in all."]
    if cost.device_seconds is not None:
        each = f"{cost.devices_of_trial:g} {cost.device}{'s' if cost.devices_of_trial > 1 else ''} a trial"
        lines[0] = f"{lines[0][:-1]}, which took {_device_seconds(cost.device_seconds, cost)} with {each}."
    if cost.num_estimated:
        some = f"{cost.num_estimated} of {plural(cost.num_timed, 'trial')}"
        lines.append(f"Of {some} the time is an estimate, of epochs times a measured pace: they noted no end.")
    if cost.saved_epochs:
        took = cost.saved_device_seconds
        about = "" if took is None else f", about {_device_seconds(took, cost)}"
        lines.append(f"Stopping trials early left out {plural(cost.saved_epochs, 'epoch')}{about}.")
    return (*lines, *_teaching_lines(cost))


def _teaching_lines(cost: Cost) -> list[str]:
    teaching = cost.teaching
    passes = f"{teaching.passes:,} pass{'' if teaching.passes == 1 else 'es'} of the teacher for each image"
    if teaching.source is None:
        return []
    if teaching.source == "live":
        return [f"The teacher was asked live: {passes}, and no logit cache was shared."]
    if teaching.views is None:
        return [f"The teacher was read from a logit cache; asked live, the trials would have made {passes}."]
    held = f"The teacher was read from a logit cache, which holds {plural(teaching.views, 'view')} of each image"
    line = f"{held}; asked live, the trials would have made {passes}."
    if teaching.live_seconds is None:
        return [line]
    filled, live = wording.duration(teaching.fill_seconds), wording.duration(teaching.live_seconds)
    return [line, f"Filling it took {filled} of a slot; at that speed, the passes would have taken {live} at least."]


def _device_seconds(seconds: float, cost: Cost) -> str:
    """'0.9 CPU seconds', or '4,523 GPU seconds (1 h 15 min)'."""
    figure = f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"
    more = f" ({wording.duration(seconds)})" if seconds >= 120 else ""
    return f"{figure} {cost.device} seconds{more}"


def flags(setting: Mapping[str, Any]) -> str:
    """'--set method.alpha=0.5 --set method.temperature=4.0', every digit, for a shell."""
    return " ".join(f"--set {shlex.quote(f'{path}={_as_typed(field)}')}" for path, field in setting.items())


def _as_typed(field: Any) -> str:
    return str(field).lower() if isinstance(field, bool) else str(field)


def labels(paths: Sequence[str]) -> dict[str, str]:
    """The last part of each path where that tells them apart, else the whole path."""
    lasts = [short(path) for path in paths]
    return {path: last if lasts.count(last) == 1 else path for path, last in zip(paths, lasts, strict=True)}


def who(candidate: Candidate) -> str:
    """'trial 3', or 'the experiment's own'."""
    return "the experiment's own" if candidate.trial is None else f"trial {candidate.trial}"


def state(trial: TrialSummary, is_held: bool) -> str:
    """A trial's state in words; one that began is in training while somebody is at the search."""
    if trial.state == "begun":
        return "in training" if is_held else "cut off"
    return "stopped early" if trial.state == "stopped" else trial.state


def figures(trial: TrialSummary, search: Search) -> list[str]:
    """['45.10 %'], one a metric; '(12.00 %)' of a trial that did not come to its end, when it was last heard of."""
    if trial.values:
        return in_units(search, trial.values)
    is_heard = len(search.metrics) == 1 and search.metrics[0].startswith("val_") and bool(trial.curve)
    return [f"({value(search.metrics[0], trial.curve[-1][1])})"] if is_heard else ["-"] * len(search.metrics)
