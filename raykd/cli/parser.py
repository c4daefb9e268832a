"""Words on the command line -> one function call. Imports neither torch nor ray: `--help` is for impatient people.

main(experiment)          the last line of an experiment file
python -m raykd plan ...  the other commands, see COMMANDS in commands.py
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from raykd.cli.job_commands import SERVICE_COMMANDS
from raykd.errors import RESUME, ConfigError, Interrupted, RaykdError, is_being_read, is_environment_error

if TYPE_CHECKING:
    from raykd.spec.experiment import Experiment

EXIT_CODES = (
    "exit codes: 0 done; 1 a run failed; 2 a mistake in what was asked for; 75 cut off, the same command goes on"
)

_BENCH = "measure the loop on this machine, against its bare step and against the usual way to distill"
_EXPORT = "take a run's best weights away, with a model card: safetensors, ONNX, torch.export, or a folder of timm's"
EXPORT_FORMATS = ("safetensors", "onnx", "torch-export", "timm")
TEACHER_SOURCES = ("auto", "live", "cache")
IN_MAIN = "if __name__ == '__main__':"
TAKE_OVER = "take this teacher over instead of training one"


def main(*experiments: "Experiment") -> None:
    """Run one experiment, or several on one Ray, with the flags of the command line; ends the process."""
    if is_being_read():
        raise ConfigError(f"main() is called while the file is read; put {IN_MAIN} above that line")
    parser = argparse.ArgumentParser(
        description="Run this experiment; what is done already is not run again.", epilog=EXIT_CODES
    )
    _add_places(parser)
    _add_settings(parser)
    parser.add_argument(
        "--stage",
        action="append",
        choices=("teacher", "baseline", "distilled"),
        help="run this stage alone (repeat for more); distilled brings its teacher along",
    )
    if len(experiments) > 1:
        families = [experiment.family for experiment in experiments]
        text = "run this family alone (repeat for more)"
        parser.add_argument("--family", action="append", choices=families, help=text)
    parser.add_argument("--teacher-checkpoint", metavar="FILE", help=TAKE_OVER)
    _add_teacher_source(parser)
    parser.add_argument("--plan", action="store_true", help="print the runs and how far each is, and start nothing")
    arguments = parser.parse_args()

    def run() -> None:
        from raykd.cli import commands

        commands.run_experiments(experiments, arguments)

    sys.exit(guarded(run))


def entry(argv: Sequence[str] | None = None) -> int:
    """`python -m raykd`: returns the exit code."""
    arguments = _parser().parse_args(argv)

    def run() -> None:
        if command := SERVICE_COMMANDS.get(arguments.command):
            command(arguments)
            return
        from raykd.cli import commands

        commands.COMMANDS[arguments.command](arguments)

    return guarded(run)


def guarded(run: Callable[[], None]) -> int:
    """Call `run`; an error of raykd's becomes one line on stderr and its exit code."""
    try:
        run()
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush must not fail again
        return 128 + signal.SIGPIPE
    except OSError as error:
        if not is_environment_error(error):
            raise
        print(f"raykd: {error}; {RESUME}", file=sys.stderr)
        return RaykdError.exit_code
    except KeyboardInterrupt:
        print("raykd: interrupted; what was saved is kept, and the same command goes on", file=sys.stderr)
        return Interrupted.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raykd",
        description="Knowledge-distillation experiments on Ray, inside Slurm.",
        epilog=EXIT_CODES,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_stages(commands)
    tune = _add_command(
        commands, "tune", "search an experiment's fields with Tune and Optuna; 'tune show' prints how far searches are"
    )
    tune.add_argument("file", metavar="experiments/X.py|show")
    tune.add_argument("--trials", help="settings to try, instead of the file's")
    _add_teacher_source(tune)
    plan = _add_command(commands, "plan", "print an experiment's runs and how far each is; start nothing")
    plan.add_argument("file", metavar="experiments/X.py")
    _add_teacher_source(plan)
    report = _add_command(commands, "report", "write report.json and the page from what is done", settings=False)
    models = (
        "evaluate {cnn,vit}_{teacher,student_baseline,student_kd}.{safetensors,pth} in DIR, and write DIR/report.json"
    )
    report.add_argument("--models-dir", metavar="DIR", help=models)
    prefetch = _add_command(
        commands, "prefetch", "download data and pretrained weights; run it where there is a network"
    )
    prefetch.add_argument(
        "file", nargs="*", metavar="experiments/X.py", help="default: distill_cnn.py and distill_vit.py"
    )
    bench = commands.add_parser("bench", help=_BENCH, description=_BENCH, epilog=EXIT_CODES)
    bench.add_argument("--family", action="append", choices=("cnn", "vit"), help="measure this one alone")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    bench.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: one a core")
    bench.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each; default: 5")
    bench.add_argument("--json", metavar="FILE", help="write the figures and the raw rounds there too")
    _add_export(commands)
    _add_command(commands, "doctor", "look for what this machine lacks, with the remedy", settings=False)
    _add_service(commands)
    return parser


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help=_EXPORT, description=_EXPORT, epilog=EXIT_CODES)
    export.add_argument("run", metavar="RUN", help="a run's folder, its name, or family/name, as `plan` prints it")
    export.add_argument("--format", required=True, choices=EXPORT_FORMATS, help="docs/export.md says who reads which")
    export.add_argument("--output", metavar="FOLDER", help="default: DIR/exported/RUN-FORMAT")
    export.add_argument("--overwrite", action="store_true", help="replace an earlier export in that folder")
    _add_results(export)


def _add_service(commands: Any) -> None:
    """Commands for a job that runs on a cluster, typed on its login node."""

    def add(name: str, text: str, named_first: bool = False) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        job = "the Slurm job (default: the only one of raykd's that runs)"
        if named_first:
            added.add_argument("job", nargs="?", type=int, metavar="JOBID", help=job)
        else:
            added.add_argument("--job", type=int, metavar="JOBID", help=job)
        return added

    which = "as `status` lists it (default: the last)"
    submit = add("submit", "send an experiment to the Ray of a running job")
    submit.add_argument("-f", "--follow", action="store_true", help="print what it prints; its exit code is then ours")
    submit.add_argument("words", nargs=argparse.REMAINDER, metavar="experiments/X.py [ARGS...]")
    add("status", "list the experiments that were sent to a running job")
    logs = add("logs", "print what an experiment that was sent has printed")
    logs.add_argument("-f", "--follow", action="store_true", help="and prints, until it ends")
    stop = add("stop", "ask an experiment that was sent to save and end")
    for command in (logs, stop):
        command.add_argument("name", nargs="?", default="", metavar="NAME", help=which)
    add("dashboard", "how to see a running job's Ray dashboard from your own machine", named_first=True)


def _add_stages(commands: Any) -> None:
    """The commands that run one stage of the experiments."""
    teacher = _add_command(commands, "train-teacher", "train a teacher alone")
    teacher.add_argument("--model", help="default: the recipe's, resnet18")
    student = _add_command(commands, "train-student", "train student baselines, without a teacher")
    student.add_argument("--model", help="default: the recipe's, resnet8")
    distill = _add_command(
        commands, "distill", "train students under a teacher, and the teacher where it is not there yet"
    )
    distill.add_argument("--teacher", metavar="MODEL", help="default: the recipe's, resnet18")
    distill.add_argument("--student", metavar="MODEL", help="default: the recipe's, resnet8")
    distill.add_argument("--teacher-checkpoint", metavar="FILE", help=TAKE_OVER)
    distill.add_argument("--alpha", help="weight of the labels, 0 to 1; the teacher's is 1 - alpha")
    distill.add_argument("--temperature", help="softens both outputs; above 0")
    distill.add_argument(
        "--feature-distill", choices=("mse", "cosine"), help="distance between embeddings as a further term"
    )
    recipe = "where the recipe stands; default: experiments/distill_cnn.py, or distill_vit.py for a ViT"
    for stage in (teacher, student, distill):
        stage.add_argument("--epochs", help="instead of the recipe's")
        stage.add_argument("--experiment", metavar="FILE", help=recipe)


def _add_command(commands: Any, name: str, text: str, settings: bool = True) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
    _add_places(added)
    if settings:
        _add_settings(added)
    return added


def _add_teacher_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teacher",
        choices=TEACHER_SOURCES,
        help="ask the teacher at every step (live), or once for each view, on disk (cache); default: what is cheaper",
    )


def _add_places(parser: argparse.ArgumentParser) -> None:
    _add_results(parser)
    parser.add_argument("--data-dir", metavar="DIR", help="default: $RAYKD_DATA, else ./data")


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="ray_results", metavar="DIR", help="default: ray_results")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="settings",
        help="change a field by its dotted path, such as method.temperature=2 (repeat for more)",
    )


def report_mistakes_in_one_line() -> None:
    """Install a hook for mistakes in an experiment file's own lines, before `main` is called: one line and exit 2.

    `from raykd import main` calls this, since nothing else of raykd runs before those lines do.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, RaykdError):
            print(f"raykd: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code)
        previous(kind, error, trace)

    sys.excepthook = hook
