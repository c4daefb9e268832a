"""Invalid searches: spaces, fields and damaged search folders."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from written_records import search_record

from bad_inputs.case import EXPERIMENT, BadInput, experiment_file
from raykd.spec.search import Search, choice
from raykd.store.study import SearchFolder, SearchStudy

SEARCH = "space={'method.alpha': uniform(0, 1)}, trials=1"


def tune(search: str = SEARCH, *arguments: str, damage: Callable[[SearchFolder], None] | None = None) -> Any:
    """Return `raykd tune` on the small experiment with Search(`search`). `damage` changes its folder before."""

    def make(folder: Path) -> Sequence[str | Path]:
        imports = "from raykd import Search, choice, integer, loguniform, uniform\nimport dataclasses\n"
        text = f"{imports}{EXPERIMENT}experiment = dataclasses.replace(experiment, search=Search({search}))\n"
        if damage:
            damage(SearchFolder(folder / "results" / "tiny" / "search"))
        return ["tune", experiment_file(folder, text), *arguments]

    return make


def written(name: str, content: Any) -> Callable[[SearchFolder], None]:
    """Return a function that writes `content`, text or JSON, as the file `name` of a search folder."""

    def write(folder: SearchFolder) -> None:
        folder.path.mkdir(parents=True)
        (folder.path / name).write_text(content if isinstance(content, str) else json.dumps(content))

    return write


def searched(**changes: Any) -> Callable[[SearchFolder], None]:
    """Write the search.json of another search, with `changes`."""
    return written("search.json", asdict(search_record()) | changes)


def confirmed(content: Any) -> Callable[[SearchFolder], None]:
    """Return a function that writes a search with one trial that is done, and confirmed.json with `content`."""

    def write(folder: SearchFolder) -> None:
        request = {"metric": "val_top1", "num_requested": 3, "num_trials": 1, "seeds": [0]}
        written("confirmed.json", {**request, **content})(folder)
        study = SearchStudy(folder, Search(space={"method.alpha": choice(0.5)}, trials=1), {"method.alpha": 0.5})
        study.finish_trial(study.start_trial().number, "done", [80.0])

    return write


def show(damage: Callable[[SearchFolder], None] | None = None) -> Any:
    """Return `raykd tune show` on results whose only search folder is written by `damage`."""

    def make(folder: Path) -> Sequence[str | Path]:
        (folder / "results").mkdir()
        if damage:
            damage(SearchFolder(folder / "results" / "tiny" / "search"))
        return ["tune", "show"]

    return make


def folder_at_journal(folder: SearchFolder) -> None:
    folder.journal.mkdir(parents=True)


DAMAGED = "is damaged"
CASES = [
    BadInput("tune of an experiment without a search", lambda folder: ["tune", experiment_file(folder)],
             ("has no search; add search=Search(",)),
    BadInput("tune show where nothing was searched", show(), ("no search under", "start one with")),
    BadInput("tune dashboard where nothing was searched", lambda folder: ["tune", "dashboard"],
             ("no search under", "start one with")),
    BadInput("tune show of one search", lambda folder: ["tune", "show", "wide"],
             ("unexpected argument 'wide'", "only tune dashboard")),
    BadInput("a search without trials", tune(SEARCH, "--trials", "0"), ("trials = 0 in Search", "at least 1")),
    BadInput("trials that are not a number", tune(SEARCH, "--trials", "many"), ("trials", "many")),
    BadInput("a searched field that is misspelt", tune("space={'method.temprature': uniform(1, 9)}"),
             ("method.temprature", "did you mean 'temperature'?")),
    BadInput("a searched field of the data", tune("space={'data.val_images': integer(100, 200)}"),
             ("names 'data.val_images'", "only method.* and student.* can be searched")),
    BadInput("a space that reaches beyond its field", tune("space={'method.alpha': uniform(0, 1.5)}"),
             ("alpha = 1.5", "must lie in [0, 1]")),
    BadInput("a choice of an unknown method", tune("space={'method': choice('kd', 'dkdd')}"),
             ("dkdd", "did you mean 'dkd'?")),
    BadInput("a choice without the default method", tune("space={'method': choice('dkd', 'dist')}"),
             ("default of 'method'", "add it")),
    BadInput("a batch larger than the images, in a space", tune("space={'student.batch_size': choice(64, 100000)}"),
             ("search.space: student.batch_size", "100000")),
    BadInput("a logarithmic space from 0", tune("space={'method.temperature': loguniform(0, 9)}"),
             ("low = 0", "must be above 0 on a log scale")),
    BadInput("a space without an end", tune("space={'method.temperature': uniform(1, float('inf'))}"), ("inf",)),
    BadInput("a grid of a continuous field", tune("space={'method.alpha': uniform(0, 1)}, sampler='grid'"),
             ("is a grid", "list its values")),
    BadInput("an unknown metric", tune(f"{SEARCH}, metric='val_top'"), ("val_top", "did you mean 'val_top1'?")),
    BadInput("early stopping by two metrics", tune(f"{SEARCH}, metric=('val_top1', 'parameters')"),
             ("scheduler", "search.scheduler=none")),
    BadInput("a trial seed that confirms too", tune(f"{SEARCH}, trial_seed=0"), ("trial_seed = 0", "seeds = (0,)")),
    BadInput("a search whose name is a path", tune(f"{SEARCH}, name='../wide'"), ("name = '../wide'",)),
    BadInput("a search.json that is a list", tune(damage=written("search.json", [1])), ("search.json", DAMAGED)),
    BadInput("a search.json whose identity is a number", tune(damage=searched(identity=5)),
             ("search.json", DAMAGED, "'identity' is 5")),
    BadInput("a search.json whose resumes are a word", tune(damage=searched(resumes="two")),
             ("search.json", DAMAGED, "'resumes' is 'two'", "search again")),
    BadInput("another search in the folder", tune(damage=searched(identity={"version": 0})),
             ("holds another search", "version was 0", "search.name=NAME")),
    BadInput("a journal of half a line in its middle", tune(damage=written("study.journal", '{"op\n{"op_code": 0}\n')),
             ("study.journal", DAMAGED, "search again")),
    BadInput("a journal of numbers", tune(damage=written("study.journal", "5\n[]\n")), ("study.journal", DAMAGED)),
    BadInput("a folder in the place of the journal", tune(damage=folder_at_journal), ("study.journal", DAMAGED)),
    BadInput("a confirmation without its candidates", tune(damage=confirmed({})),
             ("confirmed.json", DAMAGED, "remove it")),
    BadInput("a confirmation of numbers", tune(damage=confirmed({"candidates": [5], "baseline": {}, "winner": 0})),
             ("confirmed.json", DAMAGED, "remove it")),
    BadInput("tune show of a search.json without fields", show(written("search.json", {})),
             ("search.json' is damaged", "field 'family' is missing", "search again")),
    BadInput("tune show of a search.json that is truncated", show(written("search.json", '{"family": "ti')),
             ("search.json' is damaged", "search again")),
]  # fmt: skip
