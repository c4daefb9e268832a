"""The report as text of at most 100 columns, for a terminal or a Slurm log: ASCII tables, and lines without color."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from raykd.errors import flattened, one_line
from raykd.report import search_wording, wording
from raykd.report.content import ReportContent
from raykd.report.read.search_results import SearchSummary, TrialSummary
from raykd.report.render.comparison_lines import about_tuning, highest_mean, lines_under
from raykd.report.render.families_columns import last_columns
from raykd.report.render.families_lines import families_lines
from raykd.report.render.metric_rows import (
    COST_COLUMNS,
    COST_EXPLANATION,
    cost_rows,
    metric_notes,
    metric_rows,
    numbered_devices,
)
from raykd.report.render.plain_text import WIDTH, plain_table, plain_text, wrapped
from raykd.report.render.winners_command import winners_commands
from raykd.report.search_wording import configuration_in_words, format_value
from raykd.report.stats.comparison import Comparison
from raykd.report.stats.metrics import SEARCH_METRICS
from raykd.report.stats.over_families import FamiliesComparison
from raykd.report.stats.summary import FamilySummary
from raykd.report.stats.tuning import tunes_baseline
from raykd.spec.stages import STAGES
from raykd.store.records import END_STATES, ConfirmationRecord
from raykd.units import duration

GAIN = "gain [95 %]"
METHOD_WIDTH = 21  # the length of logit_standardization; longer names are folded
MAX_TRIALS = 20  # rows; trials.csv has all of them
MAX_REASONS = 5  # reasons of failures that are shown


def render_text(report: ReportContent, in_full: bool = False) -> str:
    """Return the tables and gains of all families, methods over families, the searches, and where the page is.

    in_full: with all metrics, tests and costs. The text ends with a line break.
    """
    return plain_text(_parts(report, in_full))


def render_search(summary: SearchSummary) -> str:
    """Return a search's progress, trials, winner and costs. Only paths and flags may exceed 100 columns."""
    return plain_text(_search_parts(summary))


def _parts(report: ReportContent, in_full: bool) -> Iterator[Table | str]:
    for summary in report.summaries:
        yield _stage_table(summary)
        yield from _lines_under(summary)
        if in_full:
            yield from _metric_parts(summary)
        yield ""
        if summary.comparison is not None:
            yield _comparison_table(summary.name, summary.comparison)
            yield from lines_under(summary.comparison)
            yield from about_tuning(summary.tunings) if summary.is_searched else ()
            yield ""
    if report.over_families:
        yield from _families_parts(report.over_families)
        yield ""
    for search in report.searches:
        yield from render_search(search).splitlines()
        yield ""
    for line in comparing_lines(report.searches):
        yield line
        yield ""
    yield f"report: {report.page}"


def comparing_lines(searches: Iterable[SearchSummary]) -> list[str]:
    """Return a line for each command that compares the winners of searches."""
    commands = winners_commands(searches)
    return [f"to compare the winners of {names} with other seeds: {one_line(commands[names])}" for names in commands]


def _stage_table(summary: FamilySummary) -> Table:
    numbers = ("test top-1 (%)", "n", "parameters", "time per run")
    table = plain_table(flattened(summary.name), ("stage", "model", "method"), numbers)
    for stage in summary.stages:
        table.add_row(
            stage.stage,
            Text(flattened(stage.model or "-")),
            Text(flattened(stage.method or "-")),
            wording.mean_std(stage.top1),
            f"{stage.top1.num_runs if stage.top1 else 0} of {stage.num_planned}",
            wording.parameters(stage.parameters),
            duration(stage.seconds.mean if stage.seconds else None),
        )
    return table


def _lines_under(summary: FamilySummary) -> list[str]:
    gain = summary.gain
    if gain is None:
        lines = [f"gain: {summary.why_no_gain}"]
    else:
        points = f"{wording.signed(gain.spread.mean)} points {wording.interval(gain)}".rstrip()
        lines = [f"gain: {points}; {gain.verdict}; {wording.in_favor(gain)}"]
        if gain.num_methods > 1:  # the verdict of a compared method is a line of its own
            lines = [f"gain: {points}; {wording.in_favor(gain)}", gain.verdict]
    if summary.comparison is not None and (best := highest_mean(summary.comparison)):
        lines.append(best)
    family = summary.family
    lines += wording.published(family.published, family.experiment) if family.published else []
    lines += [f"warning: {warning}" for warning in summary.warnings]
    return lines + [f"missing: {flattened(line, 400)}" for line in summary.missing]


def _metric_parts(summary: FamilySummary) -> Iterator[Table | str]:
    if metrics := metric_rows(summary):
        table = plain_table("on the test split", ("metric",), (*STAGES, "gain [95 %]"))
        for row in metrics:
            table.add_row(row.name, *row.cells.values(), row.gain)
        yield table
        if summary.gain is not None:
            yield from metric_notes(summary)
    if costs := cost_rows(summary):
        table = plain_table("cost of a model, and of training it", ("stage",), COST_COLUMNS)
        for row in costs:
            table.add_row(row.name, *row.cells.values())
        yield table
        devices = numbered_devices(summary)
        yield from (f"measured on {device}" for device in devices)
        if devices:
            yield COST_EXPLANATION


def _comparison_table(family: str, comparison: Comparison) -> Table:
    """Return a table with one row per method, the best first."""
    table = plain_table(f"{flattened(family)}: methods on the test split")
    longest = max(len(flattened(method.name)) for method in comparison.methods)
    table.add_column("method", overflow="fold", width=min(max(longest, len("method")), METHOD_WIDTH))
    published = ("published",) if comparison.has_published else ()
    costs = "time,\nmemory" if comparison.has_memory else "time"
    for heading in ("rank", "top-1 (%)", *published, "n", GAIN, "Holm p", costs):
        table.add_column(heading, justify="right", no_wrap=heading != GAIN)  # an interval of two seeds may be long
    for method in comparison.methods:
        ratios = (method.time, method.memory)
        table.add_row(
            Text(flattened(method.name)),
            method.rank or "-",
            wording.mean_std(method.top1),
            *(["-" if method.published is None else f"{method.published:.2f}"] if published else []),
            f"{method.top1.num_runs if method.top1 else 0}/{method.num_planned}",
            wording.gain(method.gain),
            wording.p_value(method.p_holm),
            ", ".join("-" if ratio is None else f"{ratio.median:.2f}" for ratio in ratios[: 1 + comparison.has_memory]),
        )
    return table


def _families_parts(comparison: FamiliesComparison) -> Iterator[Table | str]:
    """Yield the means over families; the accuracies by family are in the tables above."""
    if columns := last_columns(comparison):
        headings = [flattened(column.heading) for column in columns]
        title = f"methods over {len(comparison.counted)} of {len(comparison.families)} families, on the test split"
        table = plain_table(title, ("method",), headings)
        for row in comparison.rows:
            table.add_row(Text(flattened(row.name)), *(column.cells[row.name] for column in columns))
        yield table
    else:
        yield f"methods over {len(comparison.families)} families:"
    yield from wrapped(families_lines(comparison))


def _search_parts(summary: SearchSummary) -> Iterator[Table | str]:
    yield f"search {summary.family}/{summary.name}: {summary.state}; {search_wording.progress(summary)}"
    yield from wrapped([search_wording.headline(summary)])
    ranked = _ranked_trials(summary)
    if ranked:
        yield _trials_table(summary, ranked[:MAX_TRIALS])
    if len(ranked) > MAX_TRIALS:
        yield f"... and {len(ranked) - MAX_TRIALS} more in trials.csv"
    yield from wrapped(_reasons(ranked)[:MAX_REASONS])
    if summary.confirmation is not None:
        yield _confirmation_table(summary.confirmation)
    yield from wrapped(search_wording.certainty(summary))
    yield from wrapped(search_wording.cost_lines(summary.cost))
    if summary.winner is not None:
        yield f"to train it: {flattened(search_wording.training_command(summary.command, summary.winner), 1000)}"
        if tunes_baseline(summary):
            options = search_wording.flags(summary.winner.configuration)
            yield f"to tune methods with the baseline's recipe, add: {options}"
    yield f"page: {summary.page}"


def _ranked_trials(summary: SearchSummary) -> list[TrialSummary]:
    """Return done trials, the best first; then pruned ones, the longest first; then failed and unfinished ones."""
    sign = SEARCH_METRICS[summary.search.metrics[0]].sign
    order = (*END_STATES, "running")

    def rank(trial: TrialSummary) -> tuple[float, ...]:
        best = -sign * trial.values[0] if trial.values else 0.0
        last = -sign * trial.curve[-1][1] if trial.curve else 0.0
        return order.index(trial.state), best, -trial.epochs_trained, last, trial.number

    return sorted(summary.trials, key=rank)


def _trials_table(summary: SearchSummary, trials: Sequence[TrialSummary]) -> Table:
    """Return a table with a column for each searched field, or with one for all if these do not fit."""
    table = _table_of_fields(summary, trials, list(summary.search.space))
    is_wide = Console(width=10 * WIDTH).measure(table).maximum > WIDTH
    return _table_of_fields(summary, trials, []) if is_wide else table


def _table_of_fields(summary: SearchSummary, trials: Sequence[TrialSummary], paths: Sequence[str]) -> Table:
    """Return a table of trials with a column for each of `paths`; with none, one column has the configuration.

    Headings are broken after underscores, and nowhere else.
    """
    table = plain_table(numbers=("trial",))
    for label in search_wording.labels(paths).values():
        table.add_column(Text(flattened(label).replace("_", "_\n")), justify="right", no_wrap=True)
    if not paths:
        table.add_column("configuration", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("epochs", *summary.search.metrics, "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in trials:
        configuration = [format_value(trial.configuration.get(path, "-")) for path in paths] or [
            configuration_in_words(trial.configuration)
        ]
        table.add_row(
            str(trial.number),
            *(Text(flattened(text)) for text in configuration),
            search_wording.state(trial, summary.is_locked),
            f"{trial.epochs_trained} of {trial.epochs}",
            *search_wording.metric_values(trial, summary.search),
            ("~" if trial.is_estimated else "") + duration(trial.seconds),
        )
    return table


def _reasons(trials: Sequence[TrialSummary]) -> list[str]:
    """Return why trials failed, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for trial in trials:
        if trial.reason_in_line:
            by_reason.setdefault(trial.reason_in_line, []).append(str(trial.number))
    return [
        f"trial{'' if len(numbers) == 1 else 's'} {', '.join(numbers)} failed: {reason}"
        for reason, numbers in by_reason.items()
    ]


def _confirmation_table(confirmation: ConfirmationRecord) -> Table:
    metric, seeds = confirmation.metric, ", ".join(map(str, confirmation.seeds))
    table = plain_table(f"confirmed with seed{'' if len(confirmation.seeds) == 1 else 's'} {seeds}")
    table.add_column("from", no_wrap=True)
    table.add_column("configuration", overflow="fold")
    table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for candidate in confirmation.candidates:
        value = "failed" if candidate.failed else search_wording.mean(metric, candidate)
        note = "winner" if candidate is confirmation.best_candidate else ""
        configuration = Text(flattened(configuration_in_words(candidate.configuration)))
        table.add_row(search_wording.origin(candidate), configuration, value, note)
    baseline = confirmation.baseline
    value = "failed" if baseline.failed else search_wording.mean(metric, baseline)
    recipe = f"no teacher, {configuration_in_words(baseline.configuration)}" if baseline.configuration else "no teacher"
    table.add_row("baseline", Text(flattened(recipe)), value, "")
    return table
