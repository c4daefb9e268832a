"""A search in sentences, for its page, the terminal and progress lines; all characters exist in Latin-1."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raykd.errors import flattened, plural
from raykd.report import wording
from raykd.report.read.search_results import Cost, SearchSummary, TrialSummary
from raykd.report.stats.confirmation import gain_over_baseline, gain_over_default
from raykd.report.stats.metrics import SEARCH_METRICS
from raykd.report.stats.paired_interval import PairedGain, spread_of
from raykd.spec.search import Search
from raykd.store.records import CandidateRecord, CommandParts, ConfirmationRecord
from raykd.units import duration


def value_in_units(metric: str, value: float) -> str:
    """Return '85.10 %', '0.4127 nats', '78,042' or '1.20 ms'."""
    shown = SEARCH_METRICS[metric]
    return f"{value:,.{shown.decimals}f} {shown.unit}".rstrip()


def values_in_units(search: Search, values: Iterable[float]) -> list[str]:
    """Return ['85.10 %', '1.20 ms'], one for each metric."""
    return [value_in_units(metric, value) for metric, value in zip(search.metrics, values, strict=True)]


def trial_and_values(summary: SearchSummary, trial: TrialSummary) -> str:
    """Return 'trial 3 85.10 %, 1.20 ms'."""
    return f"trial {trial.number} {', '.join(values_in_units(summary.search, trial.values))}"


def configuration_in_words(configuration: Mapping[str, Any]) -> str:
    """Return 'alpha 0.412, temperature 6.03'."""
    return ", ".join(f"{field_name(path)} {format_value(value)}" for path, value in configuration.items())


def field_name(path: str) -> str:
    """Return the last part of a dotted path."""
    return path.rpartition(".")[2]


def format_value(value: Any) -> str:
    """Return four significant digits of a float, and any other value unchanged."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def labels(paths: Sequence[str]) -> dict[str, str]:
    """Return the field name of each path, or the whole path where two fields share a name."""
    names = [field_name(path) for path in paths]
    return {path: name if names.count(name) == 1 else path for path, name in zip(paths, names, strict=True)}


def flags(configuration: Mapping[str, Any]) -> str:
    """Return '--set method.alpha=0.5 --set method.temperature=4.0', with every digit, quoted for a shell."""
    texts = {path: str(value).lower() if isinstance(value, bool) else value for path, value in configuration.items()}
    return " ".join(f"--set {shlex.quote(f'{path}={text}')}" for path, text in texts.items())


def training_command(command: CommandParts | None, winner: CandidateRecord) -> str:
    """Return the command that trains the winner's configuration without a search: `command` with other settings.

    Without `command`, return the options alone that any command of the experiment requires.
    """
    options = f"--set search=none {flags(winner.configuration)}"
    if command is None:
        return options
    kept = {
        path: value
        for path, value in command.settings.items()
        if not any(path == other or path.startswith(f"{other}.") for other in ("search", *winner.configuration))
    }
    return " ".join(filter(None, (shlex.join((*command.program, *command.options)), flags(kept), options)))


def trials_in_words(search: Search) -> str:
    """Return '16 trials', with the number of configurations of a grid if they do not try all of it."""
    trials, size = plural(search.num_trials, "trial"), len(search.grid) if search.sampler == "grid" else 0
    if search.num_trials >= size:
        return trials
    return f"{trials}, the first of {size:,} configurations of the grid (search.trials={size} tries all)"


def progress(summary: SearchSummary) -> str:
    """Return '12 of 12 trials ended: 3 done, 9 pruned, 0 failed'."""
    counts = f"{summary.count('done')} done, {summary.count('pruned')} pruned, {summary.count('failed')} failed"
    return f"{summary.num_ended} of {plural(summary.search.num_trials, 'trial')} ended: {counts}"


def headline(summary: SearchSummary) -> str:
    """Return the result of the search in one sentence."""
    winner, confirmation = summary.winner, summary.confirmation
    if winner is None:
        if summary.state == "failed":
            return f"None of {plural(len(summary.trials), 'trial')} finished."
        return "No trial has finished yet."
    if confirmation is None:
        return _unconfirmed(summary, winner)
    values = f"{mean(confirmation.metric, winner)} over {plural(len(confirmation.seeds), 'seed')}"
    result = f"{configuration_in_words(winner.configuration)}, {SEARCH_METRICS[confirmation.metric].label} {values}"
    if winner.trial is not None:
        return f"The best configuration is that of trial {winner.trial}: {result}."
    if confirmation.num_found:
        return f"No configuration that the search found is better than the default: {result}."
    return f"Only the default configuration was confirmed: {result}."


def _unconfirmed(summary: SearchSummary, winner: CandidateRecord) -> str:
    search, best = summary.search, summary.best_trial
    values = ", ".join(values_in_units(search, best.values if best else ()))
    result = f"trial {winner.trial}, {configuration_in_words(winner.configuration)}: {values}"
    if len(search.metrics) > 1:
        front = plural(len(summary.best), "Pareto-optimal trial")
        return f"{front} in {', '.join(search.metrics)}; the first is {result}."
    so_far = "" if summary.num_ended >= search.num_trials else " so far"
    return f"The best{so_far} is {result}, with the one seed that selected it, so expect less with another seed."


def certainty(summary: SearchSummary) -> tuple[str, ...]:
    """Return the winner's gains with their intervals, or why there are none."""
    confirmation = summary.confirmation
    if confirmation is None:
        if not summary.search.confirm:
            return ("Not confirmed with other seeds: the search has confirm = 0.", *_unconfirmed_baseline(summary))
        return ("Not confirmed with other seeds yet.",)
    lines = [_against_baseline(confirmation)]
    if gain := gain_over_default(confirmation):
        lines.append(f"Winner against the default configuration: {_gain_and_verdict(gain, confirmation)}")
    for candidate in confirmation.candidates:
        name = (
            "The default configuration" if candidate.trial is None else f"The configuration of trial {candidate.trial}"
        )
        if candidate.failed:
            lines.append(f"{name} failed, and so cannot win ({flattened(candidate.failed)}).")
    if not summary.is_confirmed:
        lines.append(
            "It is being confirmed again, because the seeds or the number of configurations to confirm changed."
        )
    lines += selection(confirmation)
    if _searches_student(confirmation):
        lines.append(
            "Both students in report.json have the winner's student recipe: student_accuracy_without_kd is the "
            "baseline with it, student_accuracy_with_kd the winner."
        )
    return tuple(lines)


def _unconfirmed_baseline(summary: SearchSummary) -> tuple[str, ...]:
    """Return with which baseline the report compares the winner of a search that is not confirmed."""
    if summary.winner is None:
        return ()
    name = "The first Pareto-optimal configuration" if len(summary.search.metrics) > 1 else "The best configuration"
    return (
        f"{name} is trained with the experiment's seeds, and the report compares it with a baseline that is trained "
        "with the same student recipe.",
    )


def _against_baseline(confirmation: ConfirmationRecord) -> str:
    """Return the winner's gain over the baseline, and how their student recipes differ."""
    gain, baseline = gain_over_baseline(confirmation), confirmation.baseline
    if gain is None:
        reason = flattened(baseline.failed or "it has no values")
        return f"No gain over {baseline_name(confirmation)} is known: {reason}."
    addition = "" if _searches_student(confirmation) else ", trained with the same recipe"
    if differences := recipe_differences(confirmation):
        fields = "; ".join(
            f"{path}: baseline {format_value(of_baseline)}, winner {format_value(of_winner)}"
            for path, (of_baseline, of_winner) in differences.items()
        )
        addition = f", so the gain includes that of the recipe ({fields})"
    return f"Winner against {baseline_name(confirmation)}{addition}: {_gain_and_verdict(gain, confirmation)}"


def _gain_and_verdict(gain: PairedGain, confirmation: ConfirmationRecord) -> str:
    return f"{gain_in_units(gain, confirmation.metric)}; {gain.verdict}; {wording.in_favor(gain)}."


def recipe_differences(confirmation: ConfirmationRecord) -> dict[str, tuple[Any, Any]]:
    """Return {field: (value of the baseline, value of the winner)} for each student field that differs."""
    recipe, configuration = confirmation.baseline.configuration, confirmation.best_candidate.configuration
    fields = [path for path in configuration if path.startswith("student.") and recipe.get(path) != configuration[path]]
    return {path: (recipe.get(path), configuration[path]) for path in fields}


def baseline_name(confirmation: ConfirmationRecord) -> str:
    """Return 'the baseline', and which student recipe it has where the search changes that recipe."""
    if recipe_differences(confirmation):
        return "a baseline with another student recipe"
    return "the baseline with the winner's student recipe" if _searches_student(confirmation) else "the baseline"


def _searches_student(confirmation: ConfirmationRecord) -> bool:
    return any(path.startswith("student.") for path in confirmation.best_candidate.configuration)


def selection(confirmation: ConfirmationRecord) -> tuple[str, ...]:
    """Return how the intervals account for the selection of the winner."""
    num_candidates = len(confirmation.candidates)
    if num_candidates < 2 or len(confirmation.seeds) < 2:
        return ()
    line = (
        f"It was selected from {plural(num_candidates, 'configuration')} with these seeds, the default included, so "
        f"the interval of its gain over the baseline is widened for {num_candidates}"
    )
    if gain_over_default(confirmation) is not None:
        line += f", and over the default configuration for {confirmation.num_found}"
    return (f"{line} (Bonferroni).",)


def gain_unit(metric: str) -> str:
    """Return 'points' for percentages, else the metric's unit."""
    return "points" if metric == "val_top1" else SEARCH_METRICS[metric].unit


def gain_in_units(gain: PairedGain, metric: str) -> str:
    """Return '+1.20 points [-0.30, +2.70]', or in nats with four decimals."""
    decimals = SEARCH_METRICS[metric].decimals
    return f"{difference(gain.spread.mean, metric)} {gain_unit(metric)} {wording.interval(gain, decimals)}".rstrip()


def difference(value: float, metric: str) -> str:
    """Return '+1.23' percentage points, or '+0.0123' nats."""
    return wording.signed(value, SEARCH_METRICS[metric].decimals)


def mean(metric: str, candidate: CandidateRecord) -> str:
    """Return '46.50 ± 3.54 %' or '0.4120 ± 0.0100 nats'; '-' without values."""
    spread, shown = spread_of(candidate.values), SEARCH_METRICS[metric]
    return "-" if spread is None else f"{wording.mean_std(spread, shown.decimals)} {shown.unit}".rstrip()


def origin(candidate: CandidateRecord) -> str:
    """Return 'trial 3', or 'the default'."""
    return "the default" if candidate.trial is None else f"trial {candidate.trial}"


def cost_lines(cost: Cost) -> tuple[str, ...]:
    """Return what the trials cost, and what early stopping and the logit cache saved, as far as it is known."""
    lines = [f"The trials trained {plural(cost.epochs_trained, 'epoch')} in all."]
    if cost.device_seconds is not None:
        devices = plural(cost.devices_of_trial, str(cost.device))
        lines[0] = f"{lines[0][:-1]}, which took {_device_seconds(cost.device_seconds, cost)} with {devices} per trial."
    if cost.num_estimated:
        trials = f"{cost.num_estimated} of {plural(cost.num_timed, 'trial')}"
        lines.append(f"The time of {trials} is estimated as epochs times a measured pace: they recorded no end.")
    if cost.saved_epochs:
        seconds = cost.saved_device_seconds
        time = "" if seconds is None else f", about {_device_seconds(seconds, cost)}"
        lines.append(f"Pruning trials saved {plural(cost.saved_epochs, 'epoch')}{time}.")
    return (*lines, *_teacher_lines(cost))


def _teacher_lines(cost: Cost) -> list[str]:
    teacher = cost.teacher
    passes = f"{plural(teacher.passes, 'pass', 'passes')} of the teacher over each image"
    if teacher.source is None:
        return []
    if teacher.source == "live":
        return [f"The teacher was live: {passes}, without a logit cache."]
    views = "" if teacher.views is None else f", for {plural(teacher.views, 'view')} of each image"
    top = teacher.top_classes
    classes = "" if top is None else f" of the top {top.kept} of {top.num_classes:,} classes"
    lines = [f"The teacher's logits{classes} were cached{views}; live, the trials would have made {passes}."]
    if teacher.live_seconds is not None:
        filled, live = duration(teacher.fill_seconds), duration(teacher.live_seconds)
        lines.append(
            f"Filling the cache took {filled}, summed over its parts; at that speed, the passes would have taken at "
            f"least {live}."
        )
    return lines


def _device_seconds(seconds: float, cost: Cost) -> str:
    """Return '0.9 CPU seconds', or '4,523 GPU seconds (1 h 15 min)'."""
    amount = f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"
    in_words = f" ({duration(seconds)})" if seconds >= 120 else ""
    return f"{amount} {cost.device} seconds{in_words}"


def state(trial: TrialSummary, is_locked: bool) -> str:
    """Return a trial's state; an unfinished one is in training while the search is locked by a process."""
    if trial.state == "running":
        return "in training" if is_locked else "interrupted"
    return trial.state


def metric_values(trial: TrialSummary, search: Search) -> list[str]:
    """Return ['45.10 %'], one per metric; '(12.00 %)' is the last reported value of a trial that did not finish."""
    if trial.values:
        return values_in_units(search, trial.values)
    if len(search.metrics) == 1 and search.metrics[0].startswith("val_") and trial.curve:
        return [f"({value_in_units(search.metrics[0], trial.curve[-1][1])})"]
    return ["-"] * len(search.metrics)


def has_last_values(summary: SearchSummary) -> bool:
    """Return whether `metric_values` returns a last reported value, in parentheses, for any trial."""
    return any(value.startswith("(") for trial in summary.trials for value in metric_values(trial, summary.search))
