"""What each command does, once its words are parsed; those for a running job are in service_commands.py."""

import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from raykd.cli.experiment_file import EXPERIMENTS, Flag, apply_settings, load_experiment, load_experiments
from raykd.cluster.ray_variables import address_in, start_timeout_s
from raykd.errors import ConfigError, plural
from raykd.methods import KD, FeatureKD
from raykd.spec.experiment import Experiment
from raykd.spec.stages import STAGES, Stage


def run_experiments(experiments: Sequence[Experiment], arguments: Namespace) -> None:
    """What an experiment file does when it is run: its labs together on one Ray, then its searches one by one."""
    chosen = set(getattr(arguments, "family", None) or [experiment.family for experiment in experiments])
    left_out = {experiment.family for experiment in experiments} - chosen
    experiments = [experiment for experiment in experiments if experiment.family in chosen]
    flags = _flags(arguments, {"--teacher-checkpoint": "teacher_checkpoint", "--teacher": "teacher_source"})
    experiments = apply_settings(experiments, arguments.settings, flags, left_out)
    searches = [experiment for experiment in experiments if experiment.search is not None]
    if searches and arguments.stage:
        raise ConfigError(f"--stage {arguments.stage[0]}: an experiment that searches has no stages; leave it out")
    stages = arguments.stage or STAGES
    if arguments.plan:
        _plan(experiments, arguments, stages)
        return
    from raykd.orchestration.run_experiments import require_together

    require_together(experiments)
    if labs := [experiment for experiment in experiments if experiment.search is None]:
        _run(labs, arguments, stages)
    for experiment in searches:
        _search(experiment, arguments)


def train_teacher(arguments: Namespace) -> None:
    flags = _flags(arguments, {"--model": "teacher.model", "--epochs": "teacher.epochs"})
    experiment = _recipe(arguments, arguments.model)
    _run(apply_settings([experiment], arguments.settings, flags), arguments, ("teacher",))


def train_student(arguments: Namespace) -> None:
    flags = _flags(arguments, {"--model": "student.model", "--epochs": "student.epochs"})
    experiment = _recipe(arguments, arguments.model)
    _run(apply_settings([experiment], arguments.settings, flags), arguments, ("baseline",))


def distill(arguments: Namespace) -> None:
    experiment = _recipe(arguments, arguments.student)
    flags = _flags(
        arguments,
        {
            "--teacher": "teacher.model",
            "--student": "student.model",
            "--epochs": "student.epochs",
            "--alpha": "method.alpha",
            "--temperature": "method.temperature",
            "--teacher-checkpoint": "teacher_checkpoint",
        },
    )
    if distance := arguments.feature_distill:
        words = f"--feature-distill {distance}"
        flags += [Flag(words, "method", _feature_kd(experiment)), Flag(words, "method.distance", distance)]
    _run(apply_settings([experiment], arguments.settings, flags), arguments, ("teacher", "distilled"))


def _feature_kd(experiment: Experiment) -> FeatureKD:
    """The experiment's own method if it is FeatureKD, else FeatureKD with the alpha and temperature of its KD."""
    own = experiment.method
    if type(own) is FeatureKD:
        return own
    return FeatureKD(alpha=own.alpha, temperature=own.temperature) if isinstance(own, KD) else FeatureKD()


def plan(arguments: Namespace) -> None:
    flags = _flags(arguments, {"--teacher": "teacher_source"})
    _plan(apply_settings(load_experiments(arguments.file), arguments.settings, flags), arguments, STAGES)


def tune(arguments: Namespace) -> None:
    if arguments.file == "show":
        _show_searches(Path(arguments.results))
        return
    flags = _flags(arguments, {"--trials": "search.trials", "--teacher": "teacher_source"})
    experiment = load_experiment(arguments.file)
    if experiment.search is not None:
        (experiment,) = apply_settings([experiment], arguments.settings, flags)
    if experiment.search is None:
        raise ConfigError(f"experiment file '{arguments.file}' has no search; add search=Search(space={{...}})")
    _search(experiment, arguments)


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
    from raykd.cli.prefetch import fetch

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
        raise ConfigError(f"{plural(bad, 'finding')} marked bad above; follow the remedies there")


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


def _run(experiments: Sequence[Experiment], arguments: Namespace, stages: Sequence[Stage]) -> None:
    from raykd.orchestration.run_experiments import run_experiments

    _require_ray_variables()
    run_experiments(experiments, _options(arguments, stages), Console())


def _require_ray_variables() -> None:
    """Raise ConfigError for variables that Ray could not be started with, before anything is written."""
    address_in(os.environ)
    start_timeout_s(os.environ)


def _plan(experiments: Sequence[Experiment], arguments: Namespace, stages: Sequence[Stage]) -> None:
    from raykd.cli.plan_text import print_plan

    print_plan(experiments, _options(arguments, stages))


def _search(experiment: Experiment, arguments: Namespace) -> None:
    from raykd.orchestration.run_search import search

    _require_ray_variables()
    search(experiment, _options(arguments, STAGES), Console())


def _show_searches(results: Path) -> None:
    """Every search under `results`, running or finished."""
    from raykd.report.read.search_summary import summarize_searches
    from raykd.report.render.terminal import render_search

    summaries = summarize_searches(results)
    if not summaries:
        raise ConfigError(f"no search under '{results}'; start one with python -m raykd tune experiments/tune_cnn.py")
    print("\n".join(render_search(summary) for summary in summaries), end="")


def _options(arguments: Namespace, stages: Sequence[Stage]) -> Any:
    from raykd.data.load import find_folder
    from raykd.orchestration.options import Options

    return Options(Path(arguments.results), find_folder(arguments.data_dir, os.environ), tuple(stages))


def _recipe(arguments: Namespace, model: str | None) -> Experiment:
    """The experiment whose recipe a single stage follows; stages of one experiment share their runs."""
    family = "vit" if model and ("vit" in model or "deit" in model) else "cnn"
    return load_experiment(arguments.experiment or EXPERIMENTS / f"distill_{family}.py")


def _flags(arguments: Namespace, paths: Mapping[str, str]) -> list[Flag]:
    """The flags among `paths`, {flag: dotted path of its field}, that were given."""
    given = {flag: getattr(arguments, flag[2:].replace("-", "_")) for flag in paths}
    return [Flag(f"{flag} {value}", paths[flag], value) for flag, value in given.items() if value is not None]
