"""What each command does, once its words are parsed; those for a running job are in service_commands.py."""

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from raykd.config import override
from raykd.errors import ConfigError
from raykd.experiment import Experiment
from raykd.experiment_file import EXPERIMENTS, apply_settings, load_experiment, load_experiments
from raykd.methods import KD, FeatureKD
from raykd.ray_variables import address_in
from raykd.stages import STAGES, Stage


def run_experiments(experiments: Sequence[Experiment], arguments: Namespace) -> None:
    """What an experiment file does when it is run."""
    if arguments.teacher_checkpoint:
        experiments = [
            replace(experiment, teacher_checkpoint=arguments.teacher_checkpoint) for experiment in experiments
        ]
    experiments = apply_settings(_taught(experiments, arguments), arguments.settings)
    if families := getattr(arguments, "family", None):
        experiments = [experiment for experiment in experiments if experiment.family in families]
    if arguments.plan or not any(experiment.search for experiment in experiments):
        _run(experiments, arguments, arguments.stage or STAGES, arguments.plan)
        return
    if arguments.stage:
        raise ConfigError(f"--stage {arguments.stage[0]}: an experiment that searches has no stages; leave it out")
    for experiment in experiments:
        _search(experiment, arguments)


def _taught(experiments: Sequence[Experiment], arguments: Namespace) -> list[Experiment]:
    """As --teacher has it."""
    source = arguments.teacher_source
    return [replace(experiment, teacher_source=source) if source else experiment for experiment in experiments]


def train_teacher(arguments: Namespace) -> None:
    experiment = _with(
        _recipe(arguments, arguments.model), {"teacher.model": arguments.model, "teacher.epochs": arguments.epochs}
    )
    _run(apply_settings([experiment], arguments.settings), arguments, ("teacher",))


def train_student(arguments: Namespace) -> None:
    experiment = _with(
        _recipe(arguments, arguments.model), {"student.model": arguments.model, "student.epochs": arguments.epochs}
    )
    _run(apply_settings([experiment], arguments.settings), arguments, ("baseline",))


def distill(arguments: Namespace) -> None:
    experiment = _recipe(arguments, arguments.student)
    if arguments.feature_distill:
        method = FeatureKD(distance=arguments.feature_distill)
        if isinstance(own := experiment.method, KD):
            method = replace(method, alpha=own.alpha, temperature=own.temperature)
        experiment = replace(experiment, method=method)
    experiment = _with(
        experiment,
        {
            "teacher.model": arguments.teacher,
            "student.model": arguments.student,
            "student.epochs": arguments.epochs,
            "method.alpha": arguments.alpha,
            "method.temperature": arguments.temperature,
            "teacher_checkpoint": arguments.teacher_checkpoint,
        },
    )
    _run(apply_settings([experiment], arguments.settings), arguments, ("teacher", "distilled"))


def plan(arguments: Namespace) -> None:
    experiments = apply_settings(_taught(load_experiments(arguments.file), arguments), arguments.settings)
    _run(experiments, arguments, STAGES, only_plan=True)


def tune(arguments: Namespace) -> None:
    if arguments.file == "show":
        _show_searches(Path(arguments.results))
        return
    experiment = load_experiment(arguments.file)
    if experiment.search is None:
        raise ConfigError(f"experiment file '{arguments.file}' has no search; add search=Search(space={{...}})")
    experiment = _with(experiment, {"search.trials": arguments.trials})
    _search(apply_settings(_taught([experiment], arguments), arguments.settings)[0], arguments)


def report(arguments: Namespace) -> None:
    from raykd.orchestration.reporting import report_results
    from raykd.orchestration.saved_models import report_models

    options = _options(arguments, STAGES)
    if arguments.models_dir:
        recipes = [load_experiment(EXPERIMENTS / f"distill_{family}.py") for family in ("cnn", "vit")]
        report_models(Path(arguments.models_dir), recipes, options.data_folder, Console())
    else:
        report_results(options.results, options.data_folder, Console())


def prefetch(arguments: Namespace) -> None:
    from raykd.prefetch import fetch

    files = arguments.file or [EXPERIMENTS / "distill_cnn.py", EXPERIMENTS / "distill_vit.py"]
    experiments = [experiment for file in files for experiment in load_experiments(file)]
    options = _options(arguments, STAGES)
    fetch(apply_settings(experiments, arguments.settings), options.data_folder, options.weights_folder, Console())


def bench(arguments: Namespace) -> None:
    import torch

    from raykd.atomic import write_json
    from raykd.bench.run import benchmark
    from raykd.bench.show import show
    from raykd.training.compute import device_of

    for name in ("threads", "rounds"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} {getattr(arguments, name)}: must be at least 1")
    if arguments.json and not Path(arguments.json).absolute().parent.is_dir():
        raise ConfigError(f"--json {arguments.json}: its folder does not exist; make it, or name another")
    device = device_of(arguments.device == "cuda")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    figures = benchmark(
        arguments.family or ("cnn", "vit"), device, arguments.rounds, Console(stderr=True, highlight=False).print
    )
    show(figures, Console(highlight=False))
    if arguments.json:
        write_json(Path(arguments.json), figures)


def export(arguments: Namespace) -> None:
    from raykd.export.export import export_run

    output = Path(arguments.output) if arguments.output else None
    print(export_run(Path(arguments.results), arguments.run, arguments.format, output, arguments.overwrite))


def doctor(arguments: Namespace) -> None:
    from raykd.cluster.doctor import Places, examine
    from raykd.data.inventory import inventory

    options, bad = _options(arguments, STAGES), 0
    data = options.data_folder
    for finding in examine(Places(options.results, data, options.weights_folder, lambda: inventory(data))):
        print(finding, flush=True)
        bad += finding.verdict == "bad"
    if bad:
        raise ConfigError(f"{bad} finding{'' if bad == 1 else 's'} above must be remedied")


COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "train-teacher": train_teacher,
    "train-student": train_student,
    "distill": distill,
    "tune": tune,
    "plan": plan,
    "report": report,
    "prefetch": prefetch,
    "bench": bench,
    "export": export,
    "doctor": doctor,
}


def _run(
    experiments: Sequence[Experiment], arguments: Namespace, stages: Sequence[Stage], only_plan: bool = False
) -> None:
    from raykd.orchestration.lab import run_lab
    from raykd.plan_text import print_plan

    options = _options(arguments, stages)
    if only_plan:
        print_plan(experiments, options)
    else:
        address_in(os.environ)  # raises before anything is written
        run_lab(experiments, options, Console())


def _search(experiment: Experiment, arguments: Namespace) -> None:
    from raykd.orchestration.tune_job import search

    address_in(os.environ)
    search(experiment, _options(arguments, STAGES), Console())


def _show_searches(results: Path) -> None:
    """Every search under `results`, running or finished."""
    from raykd.report.build import summaries_of_searches
    from raykd.report.search_text import render_search

    summaries = summaries_of_searches(results)
    if not summaries:
        raise ConfigError(f"no search under '{results}'; start one with python -m raykd tune experiments/tune_cnn.py")
    print("\n".join(render_search(summary) for summary in summaries), end="")


def _options(arguments: Namespace, stages: Sequence[Stage]) -> Any:
    from raykd.data.dataset import find_folder
    from raykd.orchestration.options import Options

    return Options(Path(arguments.results), find_folder(arguments.data_dir, os.environ), tuple(stages))


def _recipe(arguments: Namespace, model: str | None) -> Experiment:
    """The experiment whose recipe a single stage follows; stages of one experiment share their runs."""
    family = "vit" if model and ("vit" in model or "deit" in model) else "cnn"
    return load_experiment(arguments.experiment or EXPERIMENTS / f"distill_{family}.py")


def _with(experiment: Experiment, changes: dict[str, str | None]) -> Experiment:
    for path, value in changes.items():
        if value is not None:
            experiment = override(experiment, path, value)
    return experiment
