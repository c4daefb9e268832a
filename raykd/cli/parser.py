"""Parse the command line and call one function. Imports neither torch nor ray, so that `--help` is fast.

main(experiment)   the last line of an experiment file
raykd plan ...     COMMANDS in commands.py, PROJECT_COMMANDS in project.py, JOB_COMMANDS in job_commands.py,
                   RUN_COMMANDS in runs.py
"""

import shlex
import signal
import sys
from argparse import REMAINDER, SUPPRESS, Action
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from raykd.cli.argument_parser import Parser
from raykd.cli.experiment_parser import (
    add_data_dir,
    add_folders,
    add_results,
    add_selection,
    add_settings,
    add_teacher,
    parser_of,
)
from raykd.cli.job_commands import JOB_COMMANDS, add_job_commands, run_job_command
from raykd.cli.project import PROJECT_COMMANDS
from raykd.cli.runs_parser import RUN, RUN_COMMANDS, TABLE_FORMATS, add_run_commands
from raykd.environment import import_remedy
from raykd.errors import (
    COMMAND,
    RESUME,
    ConfigError,
    Interrupted,
    RaykdError,
    is_being_read,
    is_environment_error,
    is_removed_below,
    one_line,
    removed_meanwhile,
)

if TYPE_CHECKING:
    from raykd.spec.experiment import Experiment

FIGURE_FORMATS = ("pdf", "svg")
_OF_EXPERIMENT = "default: the experiment's"
EXPORT_FORMATS = ("safetensors", "onnx", "torch-export", "timm")


def main(*experiments: "Experiment") -> None:
    """Run one experiment, or several on one Ray cluster, with the flags of the command line. Ends the process."""
    from raykd.spec.experiment import require_experiments

    if is_being_read():
        raise ConfigError("main() is called while the file is read; put if __name__ == '__main__': above that line")
    require_experiments(experiments, "main")
    arguments = parser_of(experiments, shlex.join(["python", *sys.argv[:1]])).parse_args()

    def run() -> None:
        from raykd.cli import command_parts, commands

        commands.run_experiment_file(experiments, arguments, command_parts.script_program())

    sys.exit(run_reporting_errors(run, arguments.results))


def entry(argv: Sequence[str] | None = None) -> int:
    """Run the command `raykd`, or `python -m raykd`, and return its exit code."""
    arguments = make_parser().parse_args(argv)

    def run() -> None:
        if arguments.command in JOB_COMMANDS:
            run_job_command(arguments)
            return
        if arguments.command in PROJECT_COMMANDS:
            PROJECT_COMMANDS[arguments.command](arguments)
            return
        if arguments.command == "doctor":
            from raykd.cli.doctor import doctor

            doctor(arguments)
            return
        if arguments.command in RUN_COMMANDS:
            from raykd.cli import runs

            runs.RUN_COMMANDS[arguments.command](arguments)
            return
        from raykd.cli import commands

        commands.COMMANDS[arguments.command](arguments)

    return run_reporting_errors(run, getattr(arguments, "results", None))


def run_reporting_errors(run: Callable[[], None], results: str | None = None) -> int:
    """Call `run` and return the exit code. Errors of the user or of the environment are printed in one line.

    results: the results folder that the command reads, in which another command may remove runs meanwhile.
    """
    try:
        run()
        if sys.stdout is not None:
            sys.stdout.flush()  # the flush at the end of the process would print a traceback for a closed pipe
    except RaykdError as error:
        _print_error(str(error))
        return error.exit_code
    except BrokenPipeError:  # a reader such as `| head` has closed the pipe
        _discard_output(sys.stdout)
        return 128 + signal.SIGPIPE
    except OSError as error:
        if is_removed_below(results, error):
            _print_error(removed_meanwhile(error.filename))
            return RaykdError.exit_code
        if not is_environment_error(error):
            raise
        _print_error(f"{error}; {RESUME}")
        return RaykdError.exit_code
    except ImportError as error:
        if not (remedy := import_remedy(error)):
            raise
        _print_error(f"{one_line(str(error))}; {remedy}")
        return ConfigError.exit_code
    except KeyboardInterrupt:
        _print_error("interrupted; what was saved is kept; rerun the same command to resume")
        return Interrupted.exit_code
    return 0


def _print_error(text: str) -> None:
    """Print a line to stderr. If its reader has ended or its disk is full, only the exit code reports the error."""
    try:
        print(f"raykd: {text}", file=sys.stderr, flush=True)
    except OSError:
        _discard_output(sys.stderr)


def _discard_output(stream: TextIO | None) -> None:
    from raykd.orchestration.console import discard_output  # imports rich, which would slow down --help

    discard_output(stream)


def report_errors_in_one_line() -> None:
    """Make Python report raykd's errors as one line with their exit code, in an experiment file that runs as a script.

    Its lines run before `main` is called, and `run_reporting_errors` sees none of their errors.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, RaykdError):
            print(f"raykd: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code)
        previous(kind, error, trace)

    sys.excepthook = hook


class _PrintVersion(Action):
    """Print the versions of raykd, Python, torch and Ray, and end the process. They are read only then."""

    def __call__(self, parser: Any, *_: object) -> None:
        from raykd.provenance import VERSION, versions

        found = versions()
        names = {"Python": "python", "torch": "torch", "Ray": "ray"}
        others = ", ".join(f"{title} {found.get(name, 'not installed')}" for title, name in names.items())
        print(f"raykd {VERSION} ({others})")
        parser.exit()


def make_parser(prog: str = COMMAND) -> Parser:
    """Return the parser of the command `raykd`. prog: how it was started."""
    parser = Parser(prog=prog, description="Knowledge-distillation experiments on Ray, inside Slurm.")
    text = "print the versions of raykd, Python, torch and Ray"
    parser.add_argument("--version", action=_PrintVersion, nargs=0, default=SUPPRESS, help=text)  # no value is parsed
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_experiments(commands)
    _add_stages(commands)
    _add_tune_and_plan(commands)
    _add_report_and_prefetch(commands)
    _add_pack(commands)
    models = _add(commands, "models", "list the networks that a recipe's model can name")
    models.add_argument(
        "part",
        nargs="?",
        default="",
        help="list all names that contain it, timm's and torchvision's too; default: raykd's names",
    )
    _add_bench(commands)
    _add_export(commands)
    add_run_commands(partial(_add, commands))
    text = "move runs that an earlier version of raykd wrote to where this one reads them"
    migrate = _add(commands, "migrate", text, add_results)
    migrate.add_argument("--dry-run", action="store_true", help="print what would be moved, and change nothing")
    _add(commands, "doctor", "check this machine for what raykd requires, and print remedies", add_folders)
    add_job_commands(partial(_add, commands))
    return parser


def _add_experiments(commands: Any) -> None:
    """Add the commands that run, list and copy the bundled experiments."""
    text = "run an experiment: its name, as 'experiments' lists it, or a file"
    run = _add(commands, "run", text)
    run.add_argument("experiment", metavar="NAME|FILE", help="such as distill_cnn, or experiments/distill_cnn.py")
    text = "options of the experiment, which 'run NAME --help' lists"
    run.add_argument("arguments", nargs=REMAINDER, metavar="...", help=text).required = False  # they may be none
    _add(commands, "experiments", "list the experiments that a name stands for")
    text = "copy the bundled experiments and the scripts for Slurm, to edit them"
    init = _add(commands, "init", text)
    text = "folder of the project, which gets experiments/ and slurm/; default: the current one"
    init.add_argument("folder", nargs="?", default=".", metavar="DIR", help=text)


def _add_stages(commands: Any) -> None:
    """Add one command for each stage of an experiment."""
    teacher = _add(commands, "train-teacher", "train only the teacher", add_folders, add_settings)
    teacher.add_argument("--model", help="default: the recipe's, resnet18")
    text = "train student baselines, without a teacher"
    student = _add(commands, "train-student", text, add_folders, add_settings)
    student.add_argument("--model", help="default: the recipe's, resnet8")
    text = "train distilled students, and their teacher if it is not trained yet"
    distill = _add(commands, "distill", text, add_folders, add_settings)
    distill.add_argument("--teacher", metavar="MODEL", help="default: the recipe's, resnet18")
    distill.add_argument("--student", metavar="MODEL", help="default: the recipe's, resnet8")
    add_teacher(distill)
    distill.add_argument("--alpha", help=f"weight of the labels' cross-entropy, 0 to 1; {_OF_EXPERIMENT}")
    distill.add_argument("--temperature", help=f"softens the outputs of student and teacher, above 0; {_OF_EXPERIMENT}")
    text = "add the distance between embeddings to the loss; default: none, or the experiment's"
    distill.add_argument("--feature-distill", choices=("mse", "cosine"), help=text)
    text = "experiment with the recipe; default: distill_cnn, or distill_vit for a ViT"
    for stage in (teacher, student, distill):
        stage.add_argument("--epochs", help="default: the recipe's")
        stage.add_argument("--experiment", metavar="NAME|FILE", help=text)


def _add_tune_and_plan(commands: Any) -> None:
    text = "search hyperparameters with Ray Tune and Optuna; 'tune show' prints the progress of all searches, and "
    text += "'tune dashboard' opens the study of one in optuna-dashboard"
    tune = _add(commands, "tune", text, add_folders, add_settings)
    tune.add_argument(
        "file", metavar="NAME|FILE|show|dashboard", help="an experiment with a search; or show, or dashboard"
    )
    text = "with dashboard: FAMILY/NAME of a search, its name, or the beginning of one; default: the only search"
    tune.add_argument("search", nargs="?", default="", metavar="SEARCH", help=text)
    tune.add_argument("--trials", help=f"number of trials; {_OF_EXPERIMENT}")
    text = "print an experiment's runs and their progress; start nothing"
    plan = _add(commands, "plan", text, add_folders, add_settings)
    plan.add_argument("file", metavar="NAME|FILE", help="experiment, such as distill_cnn")
    add_selection(plan)
    for command in (tune, plan):
        add_teacher(command)
    text = "list the fields that --set takes, with their types, values and defaults"
    list_fields = _add(commands, "fields", text, add_settings)
    text = "experiment whose values are listed; default: an experiment without changes"
    list_fields.add_argument("file", nargs="?", metavar="NAME|FILE", help=text)
    list_fields.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def _add_report_and_prefetch(commands: Any) -> None:
    report = _add(
        commands, "report", "write report.json and the page from the runs that are done", add_folders, add_settings
    )
    models = "FAMILY_{teacher,student_baseline,student_kd}.{safetensors,pth}"
    report.add_argument(
        "--models-dir",
        metavar="DIR",
        help=f"evaluate {models} in DIR, and write DIR/report.json; default: the runs in --results",
    )
    text = "also write each figure of the pages as a file in report/figures/ (repeat for both); default: none"
    report.add_argument("--figures", action="append", default=[], choices=FIGURE_FORMATS, help=text)
    text = (
        "also print the tables for a paper: families, and methods compared; nothing else goes to stdout; default: none"
    )
    report.add_argument("--format", choices=TABLE_FORMATS, help=text)
    report.add_argument("--output", metavar="FILE", help="with --format: write the tables to FILE; default: print them")
    text = "with --models-dir: the families; default: distill_cnn and distill_vit"
    report.add_argument("file", nargs="*", metavar="NAME|FILE", help=text)
    text = "download data and pretrained weights; requires internet access"
    prefetch = _add(commands, "prefetch", text, add_folders, add_settings)
    text = "default: distill_cnn and distill_vit"
    prefetch.add_argument("file", nargs="*", metavar="NAME|FILE", help=text)


def _add_pack(commands: Any) -> None:
    text = "pack a data set into few large files, from which images are decoded while a run trains"
    pack = _add(commands, "pack", text)
    text = "imagenet, tiny_imagenet, folder:PLACE, parquet:PLACE or webdataset:PLACE"
    pack.add_argument("name", metavar="NAME", help=text)
    add_data_dir(pack)
    text = "default: packed/NAME[-N] in the data folder, where data.name=packed:NAME[-N] finds it"
    pack.add_argument("--to", metavar="FOLDER", help=text)
    text = "reduce larger images to a shorter side of N pixels, and encode them as JPEG; default: keep all bytes"
    pack.add_argument("--resize", type=int, metavar="N", help=text)
    pack.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="quality of these JPEGs, 1 to 100; default: %(default)s"
    )
    text = "store the pixels of the middle squares at NxN, which need no decoding; default: images stay encoded"
    pack.add_argument("--raw", type=int, metavar="N", help=text)
    text = "leave out up to N damaged images, and list them in skipped.txt; default: %(default)s"
    pack.add_argument("--skip-damaged", type=int, default=0, metavar="N", help=text)
    pack.add_argument("--jobs", type=int, metavar="N", help="processes; default: one per CPU")


def _add_bench(commands: Any) -> None:
    text = "time raykd's training loop, the training step alone and the standard pipeline on this machine"
    bench = _add(commands, "bench", text)
    bench.add_argument("--family", action="append", choices=("cnn", "vit"), help="time only this family; default: both")
    text = "time these two models instead, such as cifar_resnet8x4 and cifar_resnet32x4; default: --family"
    bench.add_argument("--student", metavar="MODEL", help=text)
    bench.add_argument("--teacher", metavar="MODEL", help="the teacher of --student; default: none")
    text = "time the loading of images on disk instead: photos that are generated, or those of the data set NAME; "
    text += "default: training is timed"
    bench.add_argument("--data", metavar="NAME", nargs="?", const="", help=text)
    add_data_dir(bench)
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    bench.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: one per core")
    bench.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="rounds of measurements; default: %(default)s"
    )
    bench.add_argument("--json", metavar="FILE", help="also write the results and the raw times to FILE; default: none")


def _add_export(commands: Any) -> None:
    text = "write a run's best weights as safetensors, ONNX, torch.export or a timm folder, with a model card"
    export = _add(commands, "export", text)
    export.add_argument("run", metavar="RUN", help=RUN)
    export.add_argument("--format", required=True, choices=EXPORT_FORMATS, help="docs/export.md compares them")
    export.add_argument("--output", metavar="FOLDER", help="default: DIR/exported/RUN-FORMAT")
    export.add_argument("--overwrite", action="store_true", help="replace an earlier export in that folder")
    add_results(export)


def _add(commands: Any, name: str, text: str, *add_options: Callable[[Parser], None]) -> Parser:
    """Return the parser of a new command. add_options: functions that add what several commands have."""
    command: Parser = commands.add_parser(name, help=text, description=text)
    for add in add_options:
        add(command)
    return command
