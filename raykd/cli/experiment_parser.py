"""The parser of an experiment's options, and those of its options that other commands share."""

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raykd.cli.argument_parser import Parser
from raykd.spec.stages import STAGES
from raykd.store.results_folder import DEFAULT_RESULTS

if TYPE_CHECKING:
    from raykd.spec.experiment import Experiment

_TEACHER_CHECKPOINT = (
    "import this teacher instead of training one; hf:FOLDER names a classifier of transformers; "
    "default: the experiment's, or none"
)
_FAMILY = "run only this family (repeat for more); default: all of them"
_PAIR = "TEACHER:STUDENT"
_TEACHERS = "folder of published teachers to import, such as DIR/resnet32x4_vanilla/ckpt_epoch_240.pth; default: none"


def parser_of(experiments: "Sequence[Experiment]", prog: str) -> Parser:
    """Return the parser of the options of these experiments. prog: the beginning of the command."""
    pairs = [experiment.published for experiment in experiments]
    return make_experiment_parser([item.family for item in experiments], pairs if all(pairs) else (), prog)


def make_experiment_parser(families: Sequence[str], pairs: Sequence[str] = (), prog: str | None = None) -> Parser:
    """Return the parser of the options of experiments with these families.

    pairs: the pairs TEACHER:STUDENT of a benchmark, which are selected instead of families. prog: the beginning of the
    command; None for the name of the running program.
    """
    parser = Parser(prog=prog, description="Run this experiment. Runs that are done are not repeated.")
    add_folders(parser)
    add_settings(parser)
    add_stage(parser)
    if len(pairs) > 1:
        text = f"teacher and student, or all (repeat for more): {', '.join(pairs)}; default: {pairs[0]}"
        parser.add_argument("--pair", action="append", choices=(*pairs, "all"), metavar=_PAIR, help=text)
        parser.add_argument("--teachers", metavar="DIR", help=_TEACHERS)
    elif len(families) > 1:
        parser.add_argument("--family", action="append", choices=families, help=_FAMILY)
    add_teacher(parser)
    parser.add_argument("--plan", action="store_true", help="print the runs and their progress, and start nothing")
    return parser


def add_selection(parser: Parser) -> None:
    """Add what selects experiments of a file that is not read yet."""
    add_stage(parser)
    parser.add_argument("--family", action="append", help=_FAMILY)
    text = "of a benchmark: teacher and student, or all (repeat for more); default: the first pair"
    parser.add_argument("--pair", action="append", metavar=_PAIR, help=text)
    parser.add_argument("--teachers", metavar="DIR", help=f"of a benchmark: {_TEACHERS}")


def words_of(arguments: Namespace) -> list[str]:
    """Return the options in `arguments`, which have the names of those of `parser_of`, as words for that parser."""
    words: list[str] = []
    for name, value in vars(arguments).items():
        option = "--set" if name == "settings" else f"--{name.replace('_', '-')}"
        items = value if isinstance(value, list) else [] if value is None else [value]
        words += [f"{option}={item}" for item in items]
    return words


def add_stage(parser: Parser) -> None:
    text = "run only this stage (repeat for more); distilled includes its teacher; default: all stages"
    parser.add_argument("--stage", action="append", choices=STAGES, help=text)


def add_teacher(parser: Parser) -> None:
    parser.add_argument("--teacher-checkpoint", metavar="FILE", help=_TEACHER_CHECKPOINT)
    text = "run the teacher at every step (live), or once for each view of each image (cache); default: the cheaper"
    parser.add_argument("--teacher-source", choices=("auto", "live", "cache"), help=text)


def add_folders(parser: Parser) -> None:
    add_results(parser)
    add_data_dir(parser)


def add_data_dir(parser: Parser) -> None:
    parser.add_argument("--data-dir", metavar="DIR", help="default: $RAYKD_DATA, else ./data")


def add_results(parser: Parser) -> None:
    parser.add_argument("--results", default=DEFAULT_RESULTS, metavar="DIR", help="default: %(default)s")


def add_settings(parser: Parser) -> None:
    text = "change a field by its dotted path, such as method.temperature=2 (repeat for more; 'fields' lists them)"
    text += "; default: none"
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="FIELD=VALUE", help=text)
