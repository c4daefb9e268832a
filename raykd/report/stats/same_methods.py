"""Which methods of several families are the same: those of one kind with equal hyperparameters.

A hyperparameter that the authors set for each pair of networks, such as DKD's beta, is equal in two families if both
have the published value of their own pair. A method without a started run has no recorded hyperparameters. It counts as
the method that has its name in another family.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from raykd.report.read.provenance import flatten
from raykd.report.read.run_results import Family, RunResult
from raykd.report.stats.comparison import recorded_method
from raykd.spec.published import fields_set_per_pair

# Hyperparameter -> family -> its value as text, 'unset' where the method does not have it.
ValuesByFamily = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class SameMethod:
    """A method that several families compare. name: unique among the methods of all families.

    labels: {family: its name in the family's own table}. per_pair: hyperparameters that differ, because each family has
    the published value of its pair.
    """

    name: str
    labels: Mapping[str, str]
    per_pair: ValuesByFamily


@dataclass(frozen=True)
class _Entry:
    """A method as one family compares it. kind: None if no run has started. published: fields with a pair's value."""

    family: str
    label: str
    kind: str | None
    values: Mapping[str, str]
    published: frozenset[str]

    @cached_property
    def identity(self) -> Hashable:
        fixed = {field: value for field, value in self.values.items() if field not in self.published}
        return self.kind, frozenset(fixed.items()), self.published


def same_methods(families: Sequence[Family]) -> tuple[SameMethod, ...]:
    """Return the methods that at least two of the families compare, in the families' order."""
    groups = [group for group in _groups(families) if len({entry.family for entry in group}) > 1]
    return tuple(
        SameMethod(
            _name(group, groups),
            {entry.family: entry.label for entry in group},
            _differing(group, {field for entry in group for field in entry.published}),
        )
        for group in groups
    )


def different_methods(families: Sequence[Family]) -> dict[str, ValuesByFamily]:
    """Return {name: hyperparameters that differ} of the methods that have one name in families, and are not the same.

    A hyperparameter that has the published value of each pair is no difference.
    """
    by_label: dict[str, list[_Entry]] = {}
    for entry in _entries(families):
        if entry.kind is not None:
            by_label.setdefault(entry.label, []).append(entry)
    differing = {
        label: _differing(entries, {field for entry in entries for field in entry.values.keys() - entry.published})
        for label, entries in by_label.items()
        if len({entry.identity for entry in entries}) > 1
    }
    return {label: fields for label, fields in differing.items() if fields}


def _groups(families: Sequence[Family]) -> list[list[_Entry]]:
    """Return the entries of each method."""
    groups: dict[Hashable, list[_Entry]] = {}
    unstarted: list[_Entry] = []
    for entry in _entries(families):
        (unstarted if entry.kind is None else groups.setdefault(entry.identity, [])).append(entry)
    for entry in unstarted:
        named = [group for group in groups.values() if entry.label in {other.label for other in group}]
        (named or [groups.setdefault(("not started", entry.label), [])])[0].append(entry)
    return [*groups.values()]


def _entries(families: Sequence[Family]) -> Iterable[_Entry]:
    for family in families:
        for label, runs in family.compared.items():
            started = next((run for run in runs if run.record), None)
            yield _entry(family, label, started)


def _entry(family: Family, label: str, run: RunResult | None) -> _Entry:
    if run is None or run.record is None:
        return _Entry(family.name, label, None, {}, frozenset())
    kind, recorded = run.record.method, recorded_method(run)
    of_pair = family.published.settings.get(kind, {}) if family.published else {}
    published = {field for field in fields_set_per_pair(kind) & of_pair.keys() if recorded.get(field) == of_pair[field]}
    return _Entry(family.name, label, kind, flatten(recorded), frozenset(published))


def _differing(entries: Sequence[_Entry], fields: Iterable[str]) -> ValuesByFamily:
    """Return those of `fields` whose values differ between the families, sorted."""
    values = {field: {entry.family: entry.values.get(field, "unset") for entry in entries} for field in sorted(fields)}
    return {field: by_family for field, by_family in values.items() if len(set(by_family.values())) > 1}


def _name(group: Sequence[_Entry], groups: Sequence[Sequence[_Entry]]) -> str:
    """Return the longest name that a family's table has for the method.

    Methods with the same name have the hyperparameters in which they differ in brackets.
    """
    name = _longest_label(group)
    namesakes = [other[0] for other in groups if _longest_label(other) == name]
    fields = sorted({field for entry in namesakes for field in entry.values})
    differing = [field for field in fields if len({_shown(entry, field) for entry in namesakes}) > 1]
    if not differing:
        return name
    return f"{name} ({', '.join(f'{field} {_shown(group[0], field)}' for field in differing)})"


def _shown(entry: _Entry, field: str) -> str:
    return "as published" if field in entry.published else entry.values.get(field, "unset")


def _longest_label(group: Sequence[_Entry]) -> str:
    return max((entry.label for entry in group), key=len)
