"""The commands, each a function of its parsed arguments; parser.py has their flags and help texts.

Commands for a running Slurm job are in job_commands.py.
"""

import json
import os
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from raykd.cli.benchmark import selected_pairs, with_published_teacher
from raykd.cli.command_parts import command_parts, run_program
from raykd.cli.experiment_file import Flag, apply_settings, load_experiment, load_experiments, settings_by_family
from raykd.cli.experiment_parser import parser_of, words_of
from raykd.cli.paper_output import check_paper_flags, write_tables
from raykd.config.custom_file import is_path
from raykd.disk.lookup import is_folder
from raykd.errors import COMMAND, ConfigError, shortened
from raykd.methods import KD, AlphaWeighted, FeatureKD
from raykd.models import find
from raykd.models.hf_files import PREFIX as HF_PREFIX
from raykd.orchestration.console import LogConsole
from raykd.spec.experiment import Experiment
from raykd.spec.stages import STAGES, Stage

DEFAULT_EXPERIMENTS = ("distill_cnn", "distill_vit")


def run(arguments: Namespace) -> None:
    experiments = load_experiments(arguments.experiment)
    parser = parser_of(experiments, f"{COMMAND} run {shlex.quote(arguments.experiment)}")
    run_experiment_file(experiments, parser.parse_args(arguments.arguments), run_program(arguments.experiment))


def run_experiment_file(experiments: Sequence[Experiment], arguments: Namespace, program: tuple[str, ...]) -> None:
    """Run the experiments of a file: those without a search together on one Ray cluster, then each search.

    With --plan, print what would run. program: the words that run the file, see `CommandParts`.
    """
    experiments, flags = chosen_experiments(experiments, arguments)
    _run(experiments, arguments, arguments.stage or STAGES, program, flags, is_plan=arguments.plan)


def chosen_experiments(
    experiments: Sequence[Experiment], arguments: Namespace
) -> tuple[Sequence[Experiment], list[Flag]]:
    """Return the experiments of a file that `arguments` select, with their settings, and the flags that set fields.

    Raises ConfigError for settings and flags that do not fit the experiments. Reads no data.
    """
    families = {experiment.family for experiment in experiments}
    selected = set(getattr(arguments, "family", None) or families)
    if "pair" in arguments:
        selected = {experiment.family for experiment in selected_pairs(experiments, arguments.pair)}
    experiments = [experiment for experiment in experiments if experiment.family in selected]
    flags = _flags(arguments, {"--teacher-checkpoint": "teacher_checkpoint", "--teacher-source": "teacher_source"})
    flags = _with_teacher_model(flags)
    experiments = apply_settings(experiments, arguments.settings, flags, families - selected)
    if teachers := getattr(arguments, "teachers", None):
        experiments = [with_published_teacher(experiment, Path(teachers)) for experiment in experiments]
    searches = [experiment for experiment in experiments if experiment.search is not None]
    if searches and arguments.stage:
        raise ConfigError(f"--stage {arguments.stage[0]}: a search has no stages; leave the flag out")
    return experiments, flags


def train(role: str, stage: Stage, arguments: Namespace) -> None:
    """Train the runs of one stage. role: 'teacher' or 'student', whose recipe --model and --epochs change."""
    flags = _flags(arguments, {"--model": f"{role}.model", "--epochs": f"{role}.epochs"})
    file = _file_of(arguments, arguments.model)
    experiments = apply_settings([load_experiment(file)], arguments.settings, flags)
    _run(experiments, arguments, (stage,), run_program(file), flags)


def distill(arguments: Namespace) -> None:
    file = _file_of(arguments, arguments.student)
    experiment = load_experiment(file)
    flags = _flags(
        arguments,
        {
            "--teacher": "teacher.model",
            "--student": "student.model",
            "--epochs": "student.epochs",
            "--alpha": "method.alpha",
            "--temperature": "method.temperature",
            "--teacher-checkpoint": "teacher_checkpoint",
            "--teacher-source": "teacher_source",
        },
    )
    if distance := arguments.feature_distill:
        text = f"--feature-distill {distance}"
        flags += [Flag(text, "method", _feature_kd(experiment)), Flag(text, "method.distance", distance)]
    flags = _with_teacher_model(flags)
    experiments = apply_settings([experiment], arguments.settings, flags)
    method = experiments[0].method
    if arguments.alpha is not None and not (isinstance(method, AlphaWeighted) or method.is_custom):
        raise ConfigError(
            f"--alpha {arguments.alpha}: method '{method.kind}' has no alpha that weights the labels; "
            "use --set method.FIELD=VALUE with the fields of the method"
        )
    _run(experiments, arguments, ("teacher", "distilled"), run_program(file), flags)


def _feature_kd(experiment: Experiment) -> FeatureKD:
    """Return the experiment's method if it is FeatureKD, else FeatureKD with the alpha and temperature of its KD."""
    method = experiment.method
    if type(method) is FeatureKD:
        return method
    return FeatureKD(alpha=method.alpha, temperature=method.temperature) if isinstance(method, KD) else FeatureKD()


def plan(arguments: Namespace) -> None:
    """Print the plan of an experiment, as `raykd run` with the same options and --plan does."""
    options = Namespace(**{name: value for name, value in vars(arguments).items() if name not in ("command", "file")})
    experiments = load_experiments(arguments.file)
    parser = parser_of(experiments, f"{COMMAND} plan {shlex.quote(arguments.file)}")
    run_experiment_file(experiments, parser.parse_args([*words_of(options), "--plan"]), run_program(arguments.file))


def list_fields(arguments: Namespace) -> None:
    """Print the fields of an experiment; of the default one, if none is named."""
    from raykd.cli.field_list import field_lines, print_fields

    named = load_experiments(arguments.file) if arguments.file else (Experiment(family="experiment"),)
    experiments = apply_settings(named, arguments.settings)
    prefixes = [f"{experiment.family}." if len(experiments) > 1 else "" for experiment in experiments]
    lines = [
        line
        for experiment, prefix in zip(experiments, prefixes, strict=True)
        for line in field_lines(experiment, prefix)
    ]
    if arguments.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
    else:
        print_fields(lines)


def tune(arguments: Namespace) -> None:
    if arguments.search and arguments.file != "dashboard":
        raise ConfigError(f"unexpected argument '{shortened(arguments.search)}': only tune dashboard names a search")
    if arguments.file == "show":
        _show_searches(Path(arguments.results))
        return
    if arguments.file == "dashboard":
        from raykd.cli.search_dashboard import serve_dashboard

        serve_dashboard(Path(arguments.results), arguments.search)
        return
    teacher = {"--teacher-checkpoint": "teacher_checkpoint", "--teacher-source": "teacher_source"}
    flags = _with_teacher_model(_flags(arguments, {"--trials": "search.trials", **teacher}))
    experiment = load_experiment(arguments.file)
    if experiment.search is not None:
        (experiment,) = apply_settings([experiment], arguments.settings, flags)
    if experiment.search is None:
        raise ConfigError(f"experiment file '{arguments.file}' has no search; add search=Search(space={{...}})")
    _run([experiment], arguments, STAGES, run_program(arguments.file), flags)


def report(arguments: Namespace) -> None:
    from raykd.orchestration.command import Command
    from raykd.orchestration.models_dir import report_models
    from raykd.orchestration.reporting import evaluate_and_report

    check_paper_flags(arguments)
    options = _options(arguments)
    if arguments.models_dir:
        options = replace(options, results=Path(arguments.models_dir))
        report_models(_experiments_of(arguments), Command(options, LogConsole()))
    elif given := [*arguments.file, *(f"--set {setting}" for setting in arguments.settings)]:
        raise ConfigError(f"{given[0]}: a report on runs reads their plans; leave it out, or add --models-dir DIR")
    else:
        console = LogConsole(stderr=bool(arguments.format))  # stdout has nothing but the tables
        built = evaluate_and_report(Command(options, console), arguments.figures)
        if arguments.format:
            write_tables(built, arguments.format, arguments.output)


def prefetch(arguments: Namespace) -> None:
    from raykd.cli.prefetch import fetch

    experiments, options = _experiments_of(arguments), _options(arguments)
    fetch(experiments, options.data_folder, options.weights_folder, LogConsole())


def pack(arguments: Namespace) -> None:
    from raykd.cli.pack import pack_dataset

    pack_dataset(arguments, LogConsole())


def bench(arguments: Namespace) -> None:
    import torch

    from raykd.bench.families import pair
    from raykd.bench.run import benchmark, benchmark_data, benchmark_pair
    from raykd.bench.show import show
    from raykd.data.dataset_names import find_folder
    from raykd.disk.atomic import write_json
    from raykd.training.compute import device_for

    for name in ("threads", "rounds"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} {getattr(arguments, name)}: must be at least 1")
    if arguments.json and not is_folder(Path(arguments.json).absolute().parent):
        raise ConfigError(f"--json {arguments.json}: the folder does not exist; make it, or name another one")
    if bool(arguments.student) != bool(arguments.teacher):
        raise ConfigError("bench: --student and --teacher name a pair of models; give both, or neither")
    if arguments.student and arguments.family:
        raise ConfigError("bench: --family times raykd's pairs; leave it out beside --student and --teacher")
    if arguments.data is not None and (arguments.family or arguments.student or arguments.device != "cpu"):
        raise ConfigError("bench: --data times the loading of images on the CPU; leave out models and --device")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device cuda: torch {torch.__version__} finds no GPU that it can use here; run it on a machine with a "
            "GPU, install a torch for the driver's CUDA (docs/cluster.md, 'Which torch'), or leave --device out to "
            "time CPUs"
        )
    device = device_for(arguments.device == "cuda")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    log = LogConsole(stderr=True, highlight=False).print
    if arguments.data is not None:
        data_folder = find_folder(arguments.data_dir, os.environ)
        results = benchmark_data(arguments.data, data_folder, arguments.rounds, log)
    elif arguments.student:
        results = benchmark_pair(pair(arguments.teacher, arguments.student), device, arguments.rounds, log)
    else:
        results = benchmark(arguments.family or ("cnn", "vit"), device, arguments.rounds, log)
    show(results, LogConsole(highlight=False))
    if arguments.json:
        write_json(Path(arguments.json), results)


def export(arguments: Namespace) -> None:
    from raykd.export.export import export_run

    output = Path(arguments.output) if arguments.output else None
    print(export_run(Path(arguments.results), arguments.run, arguments.format, output, arguments.overwrite))


def migrate(arguments: Namespace) -> None:
    from raykd.cli.migrate import migrate_results

    migrate_results(Path(arguments.results), arguments.dry_run)


def models(arguments: Namespace) -> None:
    from raykd.cli.models_text import models_text

    print(models_text(arguments.part))


COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "run": run,
    "train-teacher": partial(train, "teacher", "teacher"),
    "train-student": partial(train, "student", "baseline"),
    "distill": distill,
    "tune": tune,
    "plan": plan,
    "fields": list_fields,
    "report": report,
    "prefetch": prefetch,
    "pack": pack,
    "bench": bench,
    "export": export,
    "migrate": migrate,
    "models": models,
}


def _run(
    experiments: Sequence[Experiment],
    arguments: Namespace,
    stages: Sequence[Stage],
    program: tuple[str, ...],
    flags: Sequence[Flag],
    *,
    is_plan: bool = False,
) -> None:
    """Run experiments, to which settings and flags are applied already, or print what would run if `is_plan`.

    program: see `CommandParts`.
    """
    settings = settings_by_family(experiments, arguments.settings, flags)
    parts = {one.family: command_parts(one, program, arguments, settings[one.family]) for one in experiments}
    known = {family: part for family, part in parts.items() if part is not None}
    options = replace(_options(arguments, stages), command_parts=known)
    if is_plan:
        from raykd.cli.plan_text import print_plan

        print_plan(experiments, options)
    else:
        from raykd.orchestration.command import Command
        from raykd.orchestration.library import run_all

        run_all(experiments, Command(options, LogConsole()))


def _show_searches(results: Path) -> None:
    """Print every search under `results`, running or finished."""
    from raykd.report.read.search_summary import summarize_searches
    from raykd.report.render.terminal import comparing_lines, render_search

    summaries = summarize_searches(results)
    if not summaries:
        raise ConfigError(f"no search under '{results}'; start one with {COMMAND} tune experiments/tune_cnn.py")
    parts = (*(render_search(summary) for summary in summaries), *(f"{line}\n" for line in comparing_lines(summaries)))
    print("\n".join(parts), end="")


def _options(arguments: Namespace, stages: Sequence[Stage] = STAGES) -> Any:
    from raykd.data.dataset_names import find_folder
    from raykd.orchestration.options import Options

    return Options(Path(arguments.results), find_folder(arguments.data_dir, os.environ), tuple(stages))


def _experiments_of(arguments: Namespace) -> Sequence[Experiment]:
    """Return the experiments of all files that a command names, or of the default ones."""
    files = arguments.file or DEFAULT_EXPERIMENTS
    experiments = [experiment for file in files for experiment in load_experiments(file)]
    return apply_settings(experiments, arguments.settings)


def _file_of(arguments: Namespace, model: str | None) -> str:
    """Return the experiment of a single-stage command: that of --experiment, or the default for `model`.

    Commands for different stages reuse each other's runs if they have the same experiment.
    """
    return arguments.experiment or ("distill_vit" if model and _is_vit(model) else "distill_cnn")


def _is_vit(model: str) -> bool:
    """Return whether a model's name stands for a ViT. It does not for a user's class, nor if the name is unknown."""
    if is_path(model):
        return False
    try:
        return find(model).is_vit
    except ConfigError:  # the recipe raises it again, with the flag
        return False


def _with_teacher_model(flags: list[Flag]) -> list[Flag]:
    """Return `flags`, with teacher.model added if --teacher-checkpoint names a folder of transformers.

    Such a folder has the model and its weights.
    """
    paths = {flag.path for flag in flags}
    folders = [flag for flag in flags if flag.path == "teacher_checkpoint" and flag.value.startswith(HF_PREFIX)]
    return flags + [Flag(flag.text, "teacher.model", flag.value) for flag in folders if "teacher.model" not in paths]


def _flags(arguments: Namespace, paths: Mapping[str, str]) -> list[Flag]:
    """Return the flags among `paths`, {flag: dotted path of its field}, that the command line has."""
    values = {flag: getattr(arguments, flag[2:].replace("-", "_")) for flag in paths}
    return [Flag(f"{flag} {value}", paths[flag], value) for flag, value in values.items() if value is not None]
