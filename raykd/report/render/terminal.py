"""The report for the terminal, or a Slurm log: each family's stages and gain, then each search.

Tables and lines for the terminal: plain letters and lines of fixed width, as a Slurm log has no terminal.

A comparison of methods for the terminal, or a Slurm log.

A search for the terminal: how far it is, its trials, how sure the winner is, what it cost.

What `python -m raykd report` says beyond an experiment's short table: all measures, tests, costs.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.build import Report
from raykd.report.read.search_records import Confirmation, SearchSummary, TrialSummary
from raykd.report.render import search_wording
from raykd.report.render.comparison_lines import lines_under
from raykd.report.render.metric_rows import COSTS, COSTS_EXPLAINED, cost_rows, measure_rows, places_of
from raykd.report.render.search_wording import number, words
from raykd.report.stats.comparison import Comparison
from raykd.report.stats.summary import FamilySummary
from raykd.spec.search import METRICS
from raykd.spec.stages import STAGES

WIDTH = 100


def plain_table(title: str) -> Table:
    """An empty table under its title."""
    return Table(title=Text(title), title_justify="left", title_style="", box=box.ASCII2)


def plain_text(parts: Iterable[Table | str]) -> str:
    """Tables of at most WIDTH columns and lines as they are, one under the other. Ends with a line break."""
    output = io.StringIO()
    console = Console(file=output, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    for part in parts:
        if isinstance(part, str):
            console.print(Text(part), soft_wrap=True)
        else:
            console.print(part)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


NAME_WIDTH = 21  # of logit_standardization; longer ones are folded
GAIN = "gain [95 %]"


def render_comparison(family: str, comparison: Comparison) -> Iterator[Table | str]:
    """A row a method, the best first, and what the table cannot say."""
    table = plain_table(f"{flattened(family)}: methods on the test set")
    longest = max(len(flattened(method.name)) for method in comparison.methods)
    table.add_column("method", overflow="fold", width=min(max(longest, len("method")), NAME_WIDTH))
    for heading in ("rank", "top1 (%)", "n", GAIN, "Holm p", "time,\nmemory"):
        table.add_column(heading, justify="right", no_wrap=heading != GAIN)  # an interval of two seeds may be long
    for method in comparison.methods:
        table.add_row(
            Text(flattened(method.name)),
            method.rank or "-",
            wording.percent(method.top1),
            f"{method.top1.num_runs if method.top1 else 0}/{method.num_planned}",
            wording.gain(method.gain),
            wording.p_value(method.p_holm),
            ", ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in (method.time, method.memory)),
        )
    yield table
    yield from lines_under(comparison)


MOST_TRIALS = 20  # rows; all are in trials.csv
MOST_REASONS = 5  # of failures
MOST_FIELDS = 4  # columns; more are one column, in words


def render_search(summary: SearchSummary) -> str:
    """At most 100 columns, but for a path; no colour. Ends with a line break."""
    return plain_text(_search_parts(summary))


def _search_parts(summary: SearchSummary) -> Iterator[Table | str]:
    yield f"search {summary.family}/{summary.name}: {summary.state}; {search_wording.progress(summary)}"
    yield from _wrapped([search_wording.headline(summary)])
    ranked = ranked_trials(summary)
    if ranked:
        yield _trials_table(summary, ranked[:MOST_TRIALS])
    if len(ranked) > MOST_TRIALS:
        yield f"... and {len(ranked) - MOST_TRIALS} more in trials.csv"
    yield from _wrapped(_reasons(ranked)[:MOST_REASONS])
    if summary.confirmation is not None:
        yield _confirmation_table(summary.confirmation)
    yield from _wrapped(search_wording.certainty(summary))
    yield from _wrapped(search_wording.cost_lines(summary.cost))
    if summary.winner is not None:
        yield f"to train it: {flattened(search_wording.flags(summary.winner.setting), 1000)}"
    yield f"page: {summary.page}"


def ranked_trials(summary: SearchSummary) -> list[TrialSummary]:
    """Done, the best first; stopped, the one that came furthest first; failed; then those that have not ended."""
    sign = 1 if METRICS[summary.search.metrics[0]] == "max" else -1
    order = {"done": 0, "stopped": 1, "failed": 2, "begun": 3}

    def rank(trial: TrialSummary) -> tuple[float, ...]:
        best = -sign * trial.values[0] if trial.values else 0.0
        last = -sign * trial.curve[-1][1] if trial.curve else 0.0
        return order[trial.state], best, -trial.epochs_trained, last, trial.number

    return sorted(summary.trials, key=rank)


def _trials_table(summary: SearchSummary, trials: Sequence[TrialSummary]) -> Table:
    table = plain_table("")
    table.title = None
    table.add_column("trial", justify="right", no_wrap=True)
    paths = list(summary.search.space) if len(summary.search.space) <= MOST_FIELDS else []
    for label in search_wording.labels(paths).values():
        table.add_column(Text(flattened(label)), justify="right", overflow="fold")
    if not paths:
        table.add_column("setting", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("epochs", *summary.search.metrics, "training"):
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in trials:
        table.add_row(
            str(trial.number),
            *(Text(flattened(text)) for text in _setting(trial, paths)),
            search_wording.state(trial, summary.is_held),
            f"{trial.epochs_trained} of {trial.epochs}",
            *search_wording.figures(trial, summary.search),
            ("~" if trial.is_estimated else "") + wording.duration(trial.seconds),
        )
    return table


def _setting(trial: TrialSummary, paths: Sequence[str]) -> list[str]:
    """Each of `paths`, or the whole setting where there are none; '-' of what is not drawn yet."""
    return [number(trial.setting.get(path, "-")) for path in paths] or [words(trial.setting)]


def _reasons(trials: Sequence[TrialSummary]) -> list[str]:
    """Why trials failed, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for trial in trials:
        if trial.reason_in_line:
            by_reason.setdefault(trial.reason_in_line, []).append(str(trial.number))
    return [
        f"trial{'' if len(numbers) == 1 else 's'} {', '.join(numbers)} failed: {reason}"
        for reason, numbers in by_reason.items()
    ]


def _confirmation_table(confirmation: Confirmation) -> Table:
    seeds = ", ".join(map(str, confirmation.seeds))
    table = plain_table(f"confirmed with seed{'' if len(confirmation.seeds) == 1 else 's'} {seeds}")
    table.add_column("found by", no_wrap=True)
    table.add_column("setting", overflow="fold")
    table.add_column(confirmation.metric, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for candidate in confirmation.candidates:
        figure = "failed" if candidate.failed else search_wording.mean(confirmation.metric, candidate.spread)
        won = "winner" if candidate is confirmation.winner else ""
        table.add_row(search_wording.who(candidate), Text(flattened(words(candidate.setting))), figure, won)
    baseline = confirmation.baseline
    figure = "failed" if baseline.failed else search_wording.mean(confirmation.metric, baseline.spread)
    recipe = f"no teacher, {words(baseline.recipe)}" if baseline.recipe else "no teacher"
    table.add_row("baseline", Text(flattened(recipe)), figure, "")
    return table


def _wrapped(lines: Sequence[str]) -> Iterator[str]:
    """`lines` over as many as they need, numbers and their signs together."""
    for line in lines:
        broken = wrap(wording.unbroken(flattened(line, 1000)), WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        yield from (part.replace("\N{NO-BREAK SPACE}", " ") for part in broken)


def further_parts(summary: FamilySummary) -> Iterator[Table | str]:
    """Of a family whose short table stands above."""
    if measure_rows(summary):
        yield _measures_table(summary)
        if summary.gain is not None:
            yield "a gain above 0 is in favour of distilling, also where less is better"
            yield wording.exact_tests(summary.gain)
    if cost_rows(summary):
        yield _costs_table(summary)
        places = places_of(tuple(cost for stage in summary.stages for cost in stage.costs))
        yield from (f"measured on {place}" for place in places)
        if places:
            yield COSTS_EXPLAINED


def _measures_table(summary: FamilySummary) -> Table:
    table = plain_table("on the test set")
    table.add_column("measure", overflow="fold")
    for stage in STAGES:
        table.add_column(stage, justify="right", no_wrap=True)
    table.add_column("gain [95 % interval]", justify="right", no_wrap=True)
    for row in measure_rows(summary):
        table.add_row(flattened(row.label, 40), *(row.stages[stage] for stage in STAGES), row.gain)
    return table


def _costs_table(summary: FamilySummary) -> Table:
    table = plain_table("cost of a model, and of training a run")
    for heading in ("stage", *COSTS):
        table.add_column(heading, justify="left" if heading == "stage" else "right", no_wrap=True)
    for row in cost_rows(summary):
        table.add_row(row.stage, *row.values.values())
    return table


def render_text(report: Report, in_full: bool = False) -> str:
    """A table a family, its gain, what is missing; each search; and where the page is. Ends with a line break.

    in_full: all measures, tests and costs too, and methods ranked.
    """
    return plain_text(_parts(report, in_full))


def _parts(report: Report, in_full: bool) -> Iterator[Table | str]:
    for summary in report.summaries:
        yield _stage_table(summary)
        yield from _lines_under(summary)
        if in_full:
            yield from further_parts(summary)
        yield ""
        if summary.comparison is not None:
            yield from render_comparison(summary.name, summary.comparison)
            yield ""
    for search in report.searches:
        yield from render_search(search).splitlines()
        yield ""
    yield f"report: {report.page}"


def _stage_table(summary: FamilySummary) -> Table:
    table = plain_table(flattened(summary.name))
    for heading in ("stage", "model", "method"):
        table.add_column(heading, overflow="fold")
    for heading in ("test top1 (%)", "n", "parameters", "training of a run"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in summary.stages:
        table.add_row(
            stage.stage,
            Text(flattened(stage.model or "-")),
            Text(flattened(stage.method or "-")),
            wording.percent(stage.top1),
            f"{stage.top1.num_runs if stage.top1 else 0} of {stage.num_planned}",
            wording.parameters(stage.parameters),
            wording.duration(stage.seconds.mean if stage.seconds else None),
        )
    return table


def _lines_under(summary: FamilySummary) -> list[str]:
    lines = []
    if summary.gain is None:
        lines.append("gain: no seed has both a baseline and a distilled result yet")
    else:
        gain = summary.gain
        lines.append(
            f"gain: {wording.points(gain.spread.mean)} points {wording.interval(gain)}".rstrip()
            + f"; {gain.verdict}; {wording.in_favour(gain)}"
        )
    lines += [f"caution: {caution}" for caution in summary.cautions]
    return lines + [f"missing: {flattened(line, 400)}" for line in summary.missing]
