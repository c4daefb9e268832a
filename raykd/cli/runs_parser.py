"""The arguments of `raykd runs` with its actions show, rm and tag, of `raykd clean` and of `raykd compare`.

runs.py and compare.py implement them.
"""

from argparse import SUPPRESS
from collections.abc import Callable
from typing import Any

from raykd.cli.argument_parser import Parser
from raykd.cli.experiment_parser import add_results
from raykd.spec.stages import STAGES

RUN_COMMANDS = ("runs", "clean", "compare")
RUN = "a run: the beginning of its name, of family/name or of its fingerprint, if no other run begins so; or its folder"
RUN_OR_SEARCH = f"{RUN}; or a search: FAMILY/SEARCH, as 'tune show' prints it, or its folder"
STATUSES = ("running", "interrupted", "failed", "pruned", "done", "damaged")
TABLE_FORMATS = ("latex", "markdown", "csv")
SORTS = ("name", "age", "size", "val", "test")


def add_run_commands(add_command: Callable[[str, str], Parser]) -> None:
    """Add RUN_COMMANDS to the command line. add_command: makes the parser of a command from its name and help."""
    text = "list all runs in the results folder with their sizes, also those that no plan names any more"
    runs = add_command("runs", text)
    add_results(runs)
    _add_filters(runs)
    _add_actions(runs.add_subparsers(dest="action", metavar="show|rm|tag", help="default: list the runs"))
    text = "remove checkpoints of finished runs, unused caches and leftovers, after printing their sizes"
    clean = add_command("clean", text)
    add_results(clean)
    clean.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    _add_yes(clean)
    text = "compare the results of several results folders: test top-1, differences paired by seed, fields that differ"
    compare = add_command("compare", text)
    text = "results folders, which --results names for a run; the first one is the reference"
    compare.add_argument("folder", metavar="DIR", nargs="+", help=text)
    text = "print a table for a paper instead; default: text for a terminal"
    compare.add_argument("--format", choices=TABLE_FORMATS, help=text)
    text = "with --format: write the table to FILE; default: print it"
    compare.add_argument("--output", metavar="FILE", help=text)


def _add_filters(runs: Parser) -> None:
    runs.add_argument("--family", help="list only this family; default: all")
    runs.add_argument("--stage", choices=STAGES, help="list only this stage; default: all")
    runs.add_argument("--method", help="list only this method, such as kd, or ce for baselines; default: all")
    runs.add_argument("--status", choices=STATUSES, help="list only runs with this status; default: all")
    runs.add_argument("--tag", help="list only runs with this tag; default: all")
    text = "list only runs that ended, or last saved, longer ago: 30m, 12h, 7d or 2w; default: any age"
    runs.add_argument("--older-than", metavar="AGE", help=text)
    runs.add_argument("--unplanned", action="store_true", help="list only runs that no plan names")
    runs.add_argument(
        "--trials", action="store_true", help="list the trials of searches instead of one line per search"
    )
    text = "order: newest, largest or best first, or by name; default: %(default)s"
    runs.add_argument("--sort", choices=SORTS, default="name", help=text)
    runs.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def _add_actions(actions: Any) -> None:
    show = _add_action(actions, "show", "print a run's record, metrics and files, and what refers to it")
    show.add_argument("run", metavar="RUN", help=RUN)
    show.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON instead of lines")
    remove = _add_action(actions, "rm", "remove whole runs and searches, after printing them with their sizes")
    remove.add_argument("run", metavar="RUN", nargs="+", help=RUN_OR_SEARCH)
    text = "also remove teachers that other runs still need, and searches while a command trains in the results folder"
    remove.add_argument("--force", action="store_true", help=text)
    _add_yes(remove)
    tag = _add_action(actions, "tag", "add tags to a run, which 'runs --tag TAG' selects")
    tag.add_argument("run", metavar="RUN", help=RUN)
    tag.add_argument("tag", metavar="TAG", nargs="+", help="a word, such as paper")
    tag.add_argument("--untag", action="store_true", help="remove these tags instead")


def _add_action(actions: Any, name: str, text: str) -> Parser:
    """Return the parser of an action. Its --results keeps the value of one that precedes the action."""
    action: Parser = actions.add_parser(name, help=text, description=text)
    text = "default: ray_results"
    action.add_argument("--results", default=SUPPRESS, metavar="DIR", help=text)
    return action


def _add_yes(command: Parser) -> None:
    command.add_argument("--yes", action="store_true", help="do not ask")
