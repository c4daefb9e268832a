"""A search for the terminal: how far it is, its trials, how sure the winner is, what it cost."""

from collections.abc import Iterator, Sequence
from textwrap import wrap

from rich.table import Table
from rich.text import Text

from raykd.messages import flattened
from raykd.report import search_wording, wording
from raykd.report.plain import WIDTH, plain_table, plain_text
from raykd.report.search_records import Confirmation, SearchSummary, TrialSummary
from raykd.search import METRICS
from raykd.search_words import number, words

MOST_TRIALS = 20  # rows; all are in trials.csv
MOST_REASONS = 5  # of failures
MOST_FIELDS = 4  # columns; more are one column, in words


def render_search(summary: SearchSummary) -> str:
    """At most 100 columns, but for a path; no colour. Ends with a line break."""
    return plain_text(_parts(summary))


def _parts(summary: SearchSummary) -> Iterator[Table | str]:
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
