"""Damaged and exchanged files below a results folder: a command names the file and the remedy, and changes nothing."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import finished_results as finished

from bad_inputs.case import BadInput
from raykd.errors import COMMAND

sys.path.append(str(Path(__file__).parents[1] / "report"))  # for a search that needs no training

Damage = Callable[[Path], None]
RETRAIN = ("move the folder", "rerun the same command to train the run again")
EVALUATE = ("remove it", f"'{COMMAND} report' then evaluates the run again")


def _arguments(command: str, folder: Path, run: Path) -> list[str | Path]:
    return {
        "report": ["report"],
        "plan": ["plan", folder / "tiny.py"],
        "rerun": ["distill", "--experiment", folder / "tiny.py"],
        "export": ["export", run.name, "--format", "safetensors", "--results", folder / "results"],
    }[command]


def _in_run(
    command: str, file: str, damage: Damage, stage: str = "distilled"
) -> Callable[[Path], Sequence[str | Path]]:
    def make(folder: Path) -> Sequence[str | Path]:
        run = finished.run_in(finished.copy_to(folder), stage).path
        damage(run / file)
        return _arguments(command, folder, run)

    return make


def _in_family(command: str, damage: Damage) -> Callable[[Path], Sequence[str | Path]]:
    def make(folder: Path) -> Sequence[str | Path]:
        results = finished.copy_to(folder)
        damage(results / "tiny" / "plan.json")
        return _arguments(command, folder, results)

    return make


def _by_sibling(path: Path) -> None:
    """Replace the file by the baseline's file of the same name."""
    baseline = finished.run_in(path.parents[2], "baseline")
    finished.exchange(path, baseline.path / path.name)


def _without_checkpoint(best: Path) -> None:
    """Remove the weights, and the checkpoint that could restore them."""
    best.unlink()
    (best.parent / "checkpoint" / "last.safetensors").unlink()


def _with_checkpoint(damage: Damage) -> Damage:
    """Damage the weights, and the checkpoint that could restore them."""

    def both(best: Path) -> None:
        finished.flip(best)
        damage(best.parent / "checkpoint" / "last.safetensors")

    return both


def _in_search(file: str, damage: Damage) -> Callable[[Path], Sequence[str | Path]]:
    def make(folder: Path) -> Sequence[str | Path]:
        from search_folders import finished_search as search

        path = search(folder / "results").path
        (path / ".lock").touch()  # a search that ran has left one
        damage(path / file)
        return ["tune", "show"]

    return make


def _in_cache(damage: Damage) -> Callable[[Path], Sequence[str | Path]]:
    """Damage a logit cache that a student is to read."""

    def make(folder: Path) -> Sequence[str | Path]:
        from raykd.store.run_store import RunStore
        from raykd.training.teacher.cache import LogitCache
        from raykd.training.teacher.choose import PlannedCache, teacher_identity

        store = RunStore(finished.copy_to(folder))
        plan = finished.plan_of(folder, ("teacher", "distilled"), seeds=(0, 1, 2), teacher_source="cache")
        store.write_plan(plan)
        run = plan.runs[-1]
        teacher = teacher_identity([store.folder(teacher) for teacher in run.teachers])
        cache = PlannedCache(run.teachers, run.data, run.recipe.precision, (), True, 1)
        key = cache.key(finished.dataset(), teacher)
        damage(LogitCache(store.logit_caches, key).folder / "cache.json")
        return [*_arguments("rerun", folder, folder), "--set", "seeds=0,1,2", "--set", "teacher_source=cache"]

    return make


def _drop_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5] + lines[6:]))


CASES = [
    # run.json
    BadInput("an empty run.json", _in_run("report", "run.json", finished.empty), ("run.json' is damaged", *RETRAIN)),
    BadInput(
        "a truncated run.json", _in_run("plan", "run.json", finished.truncate), ("run.json' is damaged", *RETRAIN)
    ),
    BadInput(
        "a run.json of zeros", _in_run("rerun", "run.json", finished.zero_half), ("run.json' is damaged", *RETRAIN)
    ),
    BadInput("a run.json of 100,000 brackets", _in_run("plan", "run.json", finished.nest), ("run.json'", "nested")),
    BadInput(
        "a run.json nested 150 deep", _in_run("report", "run.json", finished.nest_in_field), ("run.json'", "nested")
    ),
    BadInput(
        "a run.json that is a list",
        _in_run("export", "run.json", finished.to_list),
        ("run.json'", "does not hold a JSON object"),
    ),
    BadInput("a run.json in Latin-1", _in_run("plan", "run.json", finished.to_latin1), ("run.json'", "not UTF-8")),
    BadInput(
        "a folder called run.json", _in_run("plan", "run.json", finished.to_folder), ("run.json'", "it is a folder")
    ),
    BadInput(
        "a pipe called run.json", _in_run("report", "run.json", finished.to_pipe), ("run.json'", "not a regular file")
    ),
    BadInput(
        "a run.json with one digit changed",
        _in_run("report", "run.json", finished.replace('"seed": 0', '"seed": 4')),
        ("run.json' is damaged", "checksum", *RETRAIN),
    ),
    BadInput(
        "the run.json of another run",
        _in_run("plan", "run.json", _by_sibling),
        ("run.json' is damaged", "belongs to another run", *RETRAIN),
    ),
    BadInput(
        "the run.json of another run, read by the report",
        _in_run("report", "run.json", _by_sibling),
        ("run.json' is damaged", "name is 'baseline", *RETRAIN),
    ),
    BadInput(
        "a run.json without its config",
        _in_run("export", "run.json", finished.drop("config")),
        ("run.json' is damaged", "field 'config' is missing", *RETRAIN),
    ),
    BadInput(
        "a run.json without its best epoch",
        _in_run("report", "run.json", finished.drop("best")),
        ("run.json' is damaged", "field 'best' is missing", *RETRAIN),
    ),
    BadInput(
        "a run.json whose compute is a text",
        _in_run("rerun", "run.json", finished.change(compute="fast")),
        ("run.json' is damaged", "field 'compute' is 'fast', not an object", *RETRAIN),
    ),
    BadInput(
        "a run.json with an unknown precision",
        _in_run("plan", "run.json", finished.change(compute={"device": "cpu", "precision": "fp8", "threads": 1})),
        ("run.json' is damaged", "field 'compute.precision' is 'fp8', not 'fp32'", *RETRAIN),
    ),
    BadInput(
        "a run.json with an unknown status",
        _in_run("plan", "run.json", finished.change(status="finished")),
        ("run.json' is damaged", "field 'status' is 'finished'", *RETRAIN),
    ),
    BadInput(
        "a run.json whose config is not a run",
        _in_run("export", "run.json", finished.change(config={"method": {"kind": "kd"}, "recipe": 3})),
        ("run.json' is damaged", "'config'", *RETRAIN),
    ),
    # plan.json
    BadInput(
        "an empty plan.json", _in_family("report", finished.empty), ("plan.json' is damaged", "remove it and rerun")
    ),
    BadInput("a plan.json of 100,000 brackets", _in_family("rerun", finished.nest), ("plan.json'", "nested")),
    BadInput("a folder called plan.json", _in_family("report", finished.to_folder), ("plan.json'", "it is a folder")),
    BadInput(
        "a plan.json with another run's name",
        _in_family("report", finished.replace("distilled-", "distillex-")),
        ("plan.json' is damaged", "checksum", "remove it and rerun"),
    ),
    BadInput(
        "a plan.json whose stages are a list",
        _in_family("rerun", finished.change(stages=["teacher"])),
        ("plan.json' is damaged", "field 'stages' is ['teacher'], not an object"),
    ),
    BadInput(
        "a plan.json with a path outside its folder",
        _in_family("report", finished.change(stages={"baseline": ["../../etc"]})),
        ("plan.json' is damaged", "'../../etc' is not the name of a run's folder"),
    ),
    BadInput(
        "the plan.json of another family",
        _in_family("report", finished.change(family="other")),
        ("plan.json' is damaged", "family is 'other', but the folder is 'tiny'"),
    ),
    # Files of an evaluation
    BadInput(
        "an empty test.json", _in_run("report", "test.json", finished.empty), ("test.json' is damaged", *EVALUATE)
    ),
    BadInput(
        "a truncated test.json", _in_run("rerun", "test.json", finished.truncate), ("test.json' is damaged", *EVALUATE)
    ),
    BadInput(
        "a test.json with one digit changed",
        _in_run("report", "test.json", finished.replace('"top1": ', '"top1": 1')),
        ("test.json' is damaged", "checksum", *EVALUATE),
    ),
    BadInput(
        "a test.json above 100 %",
        _in_run("report", "test.json", finished.change(top1=100.5)),
        ("test.json' is damaged", "field 'top1' is 100.5", *EVALUATE),
    ),
    BadInput("a folder called test.json", _in_run("rerun", "test.json", finished.to_folder), ("test.json'", *EVALUATE)),
    BadInput(
        "a truncated val.json",
        _in_run("report", "val.json", finished.truncate),
        ("val.json' is damaged", "test.json beside"),
    ),
    BadInput(
        "a val.json of other sizes",
        _in_run("report", "val.json", finished.change(classes=["0", "1"])),
        ("val.json' is damaged", "different sizes", "test.json beside"),
    ),
    BadInput(
        "a costs.json of zeros",
        _in_run("report", "costs.json", finished.zero_half),
        ("costs.json'", "test.json beside"),
    ),
    BadInput(
        "a costs.json without its times",
        _in_run("report", "costs.json", finished.change(latency_ms=3)),
        ("costs.json' is damaged", "field 'latency_ms' is 3, not an object"),
    ),
    BadInput(
        "a truncated usage file",
        _in_run("report", "usage/0.json", finished.truncate),
        ("0.json' is damaged", "remove it", "time and energy"),
    ),
    BadInput(
        "a usage file whose pieces are a number",
        _in_run("report", "usage/0.json", finished.change(pieces=7)),
        ("0.json' is damaged", "field 'pieces'", "remove it"),
    ),
    BadInput(
        "a truncated history.parquet",
        _in_run("report", "history.parquet", finished.truncate),
        ("history.parquet' is damaged", "learning curve"),
    ),
    BadInput(
        "the history.parquet of another run",
        _in_run("report", "history.parquet", _by_sibling),
        ("history.parquet' is damaged", "SHA-256 is not the one in run.json"),
    ),
    BadInput(
        "a folder called history.parquet",
        _in_run("report", "history.parquet", finished.to_folder),
        ("history.parquet' is damaged", "learning curve"),
    ),
    # Weights
    BadInput(
        "two flipped bytes in the weights to export",
        _in_run("export", "best.safetensors", finished.flip),
        ("best.safetensors' is damaged", "rerun the experiment, which restores it"),
    ),
    BadInput(
        "the weights of another run to export",
        _in_run("export", "best.safetensors", _by_sibling),
        ("best.safetensors' is damaged", "belongs to another run", "rerun the experiment"),
    ),
    BadInput(
        "weights and checkpoint of zeros",
        _in_run("rerun", "best.safetensors", _with_checkpoint(finished.zero_half)),
        ("best.safetensors' is damaged", "cannot restore it", *RETRAIN),
    ),
    BadInput(
        "damaged weights and no checkpoint",
        _in_run("rerun", "best.safetensors", _with_checkpoint(Path.unlink), "teacher"),
        ("best.safetensors' is damaged", "there is none", *RETRAIN),
    ),
    BadInput(
        "neither weights nor checkpoint of a teacher",
        _in_run("rerun", "best.safetensors", _without_checkpoint, "teacher"),
        ("best.safetensors' is damaged: it is missing", "there is none", *RETRAIN),
    ),
    BadInput(
        "no weights to export",
        _in_run("export", "best.safetensors", _without_checkpoint),
        ("best.safetensors' is damaged: it is missing", "rerun the experiment"),
    ),
    BadInput(
        "damaged weights and the checkpoint of another run",
        _in_run(
            "rerun",
            "best.safetensors",
            _with_checkpoint(
                lambda path: finished.exchange(path, finished.run_in(path.parents[3], "distilled", 1).checkpoint)
            ),
        ),
        ("best.safetensors' is damaged", "belongs to another run", *RETRAIN),
    ),
    # The search and the logit cache
    BadInput(
        "an empty search.json", _in_search("search.json", finished.empty), ("search.json' is damaged", "search again")
    ),
    BadInput("a search.json of 100,000 brackets", _in_search("search.json", finished.nest), ("search.json'", "nested")),
    BadInput(
        "a search.json whose default configuration is a number",
        _in_search("search.json", finished.change(default_configuration=3)),
        ("search.json' is damaged", "field 'default_configuration' is 3, not an object"),
    ),
    BadInput(
        "a study.journal of zeros",
        _in_search("study.journal", finished.zero_half),
        ("study.journal' is damaged", "line"),
    ),
    BadInput(
        "a study.journal without a line",
        _in_search("study.journal", _drop_line),
        ("study.journal'", "line 6", "missing"),
    ),
    BadInput(
        "a study.journal with one digit changed",
        _in_search("study.journal", finished.replace('"values":[', '"values":[1')),
        ("study.journal' is damaged", "checksum", "search again"),
    ),
    BadInput(
        "a folder called study.journal", _in_search("study.journal", finished.to_folder), ("study.journal' is damaged",)
    ),
    BadInput(
        "a truncated confirmed.json", _in_search("confirmed.json", finished.truncate), ("confirmed.json'", "confirm")
    ),
    BadInput(
        "a confirmed.json with a winner out of range",
        _in_search("confirmed.json", finished.change(winner=9)),
        ("confirmed.json' is damaged", "winner is 9", "confirm"),
    ),
    BadInput(
        "an empty cache.json", _in_cache(finished.empty), ("cache.json' is damaged", "to fill the logit cache again")
    ),
    BadInput(
        "a cache.json of another teacher", _in_cache(finished.change(teacher_sha256="00")), ("teacher_sha256", "remove")
    ),
    BadInput("a folder called cache.json", _in_cache(finished.to_folder), ("cache.json' is damaged", "it is a folder")),
]
