"""Run, plan and read experiments from Python: in a script, in a notebook, or inside a running Ray.

    report = raykd.run(experiment, results="ray_results")
    report.runs                                          a pandas DataFrame, see raykd/report/report.py

Importing raykd changes nothing in the process. While `run` trains, SIGINT, SIGTERM, SIGHUP and SIGUSR2 save all runs
and end the call with `Interrupted`; the previous handlers are restored at its end.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.cluster.ray_variables import address_in, start_timeout_s
from raykd.config.custom_file import require_unchanged
from raykd.data.dataset_names import find_folder
from raykd.errors import ConfigError
from raykd.orchestration.command import Command
from raykd.orchestration.console import LogConsole
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.experiment_plans import plans_of, remembering_digests, require_together
from raykd.orchestration.options import Options
from raykd.orchestration.run_experiments import run_experiments
from raykd.orchestration.run_search import search
from raykd.orchestration.run_states import RunStates
from raykd.report.report import Report
from raykd.spec.experiment import Experiment, require_experiments
from raykd.spec.overrides import override_all
from raykd.spec.stages import STAGES, Stage
from raykd.store.results_folder import DEFAULT_RESULTS

if TYPE_CHECKING:
    from pandas import DataFrame

Settings = Mapping[str, Any]  # {dotted path: value}, such as {"student.epochs": 10}; see raykd/spec/overrides.py


def run(
    *experiments: Experiment,
    results: str | Path = DEFAULT_RESULTS,
    data_dir: str | Path | None = None,
    settings: Settings | None = None,
    stages: Stage | Sequence[Stage] = STAGES,
) -> Report:
    """Run experiments on one Ray cluster, searches after the others, and return the report on `results`.

    Finished runs are not repeated, so the same call resumes an interrupted one. Ray is the cluster that this process is
    connected to (`ray.init`), else the one that RAY_ADDRESS names, else a private one that ends with the call.

    data_dir: the folder of the data sets; None: $RAYKD_DATA, else ./data. settings: fields to change in every
    experiment, as --set does: {"student.epochs": 10}. stages: the stages to run; a search has none.

    Raises ConfigError before anything starts, RunFailed if runs failed, and Interrupted after a signal. The report on
    what is done is then `raykd.load(results)`.
    """
    changed = _changed(experiments, settings, "raykd.run")
    return run_all(changed, Command(_options(results, data_dir, stages), LogConsole()))


def plan(
    *experiments: Experiment,
    results: str | Path = DEFAULT_RESULTS,
    data_dir: str | Path | None = None,
    settings: Settings | None = None,
) -> "DataFrame":
    """Check the experiments and return their runs and progress. Starts and writes nothing.

    Columns: family, stage, name, model, method, seed, epochs, status (see raykd/store/run_folder.py). The runs of a
    search's trials are not known in advance and not listed. Raises ConfigError for what `run` would refuse.
    """
    from pandas import DataFrame

    options = replace(_options(results, data_dir, STAGES), is_plan=True)
    changed = _changed(experiments, settings, "raykd.plan")
    rows = []
    with remembering_digests(changed, options):
        options = with_packs([experiment.data for experiment in changed], options, lambda line: None)
        for made, _ in plans_of(changed, options):
            states = RunStates.read(made.runs, options.store)
            rows += [
                {
                    "family": made.experiment.family,
                    "stage": one.stage,
                    "name": one.name,
                    "model": one.model.label,
                    "method": one.method.kind,
                    "seed": None if one.imported else one.seed,
                    "epochs": 0 if one.imported else one.recipe.epochs,
                    "status": states.statuses[one.name],
                }
                for one in made.runs
                if made.experiment.search is None or one.stage == "teacher"
            ]
    return DataFrame(rows)


def run_all(experiments: Sequence[Experiment], command: Command) -> Report:
    """Run the experiments without a search together, and then each search. Return the report on all of the results.

    Raises what `run` raises.
    """
    require_together(experiments)
    address_in(os.environ)  # raises ConfigError for variables with which Ray cannot start, before anything is written
    start_timeout_s(os.environ)
    plain = [experiment for experiment in experiments if experiment.search is None]
    searches = [experiment for experiment in experiments if experiment.search is not None]
    reports = [run_experiments(plain, command)] if plain else []
    command = replace(command, options=replace(command.options, stages=STAGES))
    reports += [search(experiment, command) for experiment in searches]
    return reports[-1]  # the last one has the runs of all


def _changed(experiments: Sequence[Experiment], settings: Settings | None, call: str) -> list[Experiment]:
    """Return the experiments with `settings` applied. Raises what `require_experiments` raises."""
    require_experiments(experiments, call)
    for experiment in experiments:
        require_unchanged(experiment)
    if not isinstance(settings, Mapping | None):
        raise ConfigError(f"settings = {settings!r}: must be a dictionary, such as {{'student.epochs': 10}}")
    return [override_all(experiment, (settings or {}).items()) for experiment in experiments]


def _options(results: str | Path, data_dir: str | Path | None, stages: Stage | Sequence[Stage]) -> Options:
    stages = (stages,) if isinstance(stages, str) else stages
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ConfigError(f"stages = {list(stages)}: {unknown[0]!r} is not one of {', '.join(STAGES)}")
    folder = find_folder(None if data_dir is None else str(data_dir), os.environ)
    return Options(Path(results), folder, tuple(stages))
