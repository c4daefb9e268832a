"""`raykd runs` and `raykd clean`, as a user types them, also while another process trains in the results folder."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import children
import pytest
from search_folders import Outcome, make_search, outcome_with_asha
from small_runs import CPU, NO_WEIGHTS, digits, experiment, plan_of, recipe
from written_records import search_record
from written_results import finish, finished, interrupt, write_cache

from raykd.bench.without_ray import train_plan
from raykd.cli import parser, runs
from raykd.config import to_dict
from raykd.methods import KD
from raykd.spec.plan import make_plan
from raykd.spec.search import Search, uniform
from raykd.store.run_catalog import tags_of
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder, SearchStudy, SearchTrial


@pytest.fixture
def results(tmp_path):
    """Five planned runs, and a distilled one at another temperature that no plan names."""
    finished(tmp_path)
    finish(RunStore(tmp_path), plan_of(experiment(method=KD(alpha=0.5, temperature=2.0))).runs[-1])
    return tmp_path


@pytest.fixture
def type_in(results, capsys):
    def type_command(*words: str, code: int = 0) -> str:
        """Run a command on the results folder, and return its stdout, or its line on stderr if it fails."""
        assert parser.entry([words[0], "--results", str(results), *words[1:]]) == code
        captured = capsys.readouterr()
        assert captured.err.count("\n") == (1 if code else 0), captured.err
        return captured.err if code else captured.out

    return type_command


def outcome_of_each_state(trial: SearchTrial) -> Outcome:
    """Return a trial that was pruned, failed, or is not ended, whose run.json is that of a run in progress."""
    return Outcome(
        ("pruned", "failed", "running")[trial.number % 3], [50.0], reason="NaN" if trial.number % 3 == 1 else ""
    )


def test_runs_of_all_configurations_are_listed_within_100_columns(type_in):
    lines = type_in("runs").splitlines()
    assert lines[0].split() == [
        "RUN",
        "FAMILY",
        "STAGE",
        "MODEL",
        "METHOD",
        "SEED",
        "STATUS",
        "VAL",
        "TEST",
        "SIZE",
        "AGE",
    ]
    assert max(map(len, lines)) <= 100
    assert [line.split()[1] for line in lines[1:4]] == ["+"] * 3
    assert "    differs in method.temperature=2.0" in lines
    assert lines[-1].startswith("6 runs, ")


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (["--stage", "baseline"], 2),
        (["--family", "teachers"], 1),
        (["--method", "kd"], 3),
        (["--unplanned"], 1),
        (["--status", "interrupted"], 0),
        (["--older-than", "1w"], 6),
        (["--older-than", "9999w"], 0),
    ],
)
def test_each_filter_selects_runs(type_in, filters, count):
    assert len(json.loads(type_in("runs", "--json", *filters))) == count


def test_runs_are_sorted_by_size_and_accuracy(type_in, results):
    (teacher,) = (results / "teachers").iterdir()
    (teacher / "large").write_bytes(b"x" * 500_000)
    assert json.loads(type_in("runs", "--json", "--sort", "size"))[0]["stage"] == "teacher"
    tests = [row["test_top1"] for row in json.loads(type_in("runs", "--json", "--sort", "test"))]
    assert tests == sorted(tests, reverse=True)


def test_a_search_is_one_line_and_its_trials_are_listed_on_request(type_in, results):
    search = Search(space={"method.alpha": uniform(0, 1)}, trials=3, scheduler="none")
    folder = SearchFolder(results / "small" / "search")
    with folder.lock():
        folder.write_record(search_record(family="small", search=to_dict(search)))
        study = SearchStudy(folder, search, {"method.alpha": 0.5})
        study.start_trial()
        study.finish_trial(0, "pruned")
    (student, *_) = (results / "small").glob("distilled-*-s0-*")
    folder.run(0).path.parent.mkdir()
    student.rename(folder.run(0).path)
    assert "search small/search: 1 pruned, best validation top-1 89.00; unfinished" in type_in("runs")
    assert [row["name"] for row in json.loads(type_in("runs", "--json", "--trials"))] == ["search/0000"]
    assert "small/search/trials/0000" in type_in("runs", "show", "small/search/0000")


def test_trials_that_ended_early_have_the_status_that_the_study_records(type_in, results):
    make_search(results, Search(space={"method.alpha": uniform(0, 1)}, trials=6, confirm=0), outcome_of_each_state)
    rows = json.loads(type_in("runs", "--json", "--trials"))
    assert [row["status"] for row in rows] == ["pruned", "failed", "interrupted"] * 2
    assert len(json.loads(type_in("runs", "--json", "--trials", "--status", "pruned"))) == 2
    assert json.loads(type_in("runs", "show", "cnn/search/0000", "--json"))["status"] == "pruned"


def test_show_prints_the_results_the_files_and_who_refers_to_the_run(type_in, results):
    (teacher,) = (results / "teachers").iterdir()
    cache = write_cache(results, RunFolder(teacher))
    text = type_in("runs", "show", "teach")
    for part in (str(teacher), "top1 90", "checkpoint/last.safetensors (", "small/distilled-", str(cache)):
        assert part in text
    facts = json.loads(type_in("runs", "show", "teach", "--json"))
    assert len(facts["students"]) == 3 and facts["plans"] == ["small"] and facts["record"]["stage"] == "teacher"


def test_the_list_of_an_empty_folder_names_the_option_for_another(type_in, results):
    shutil.rmtree(results)
    results.mkdir()
    assert type_in("runs").startswith("this folder has no runs; name another with --results\n")


def test_rm_prints_what_it_removes_and_asks(type_in, results, monkeypatch):
    (path,) = (results / "small").glob("baseline-*-s0-*")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert "nothing is removed" in type_in("runs", "rm", path.name) and path.is_dir()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    text = type_in("runs", "rm", path.name)
    assert f"small/{path.name}: done, test top-1 90.00, in the family's plan" in text and not path.exists()


def test_files_that_cannot_be_deleted_are_reported_with_the_remedy(type_in, results, monkeypatch):
    def fail(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path / "code"))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", fail)
        line = type_in("runs", "rm", "small/baseline-resnet8-w8-s0", "teach", "--yes", code=1)
        assert line.startswith("raykd: removed, but files remain in '") and line.count("(Permission denied)") == 2
        assert "remove the cause and run" in line and line.endswith(" clean'\n")
        assert not list((results / "small").glob("baseline-*-s0-*"))
        assert "files remain" in type_in("clean", "--yes", code=1)
    type_in("clean", "--yes")
    assert not list(results.glob("*/.removed-*"))


def test_rm_without_an_answer_removes_nothing(type_in, results):
    assert "add --yes" in type_in("runs", "rm", "teach", code=2)
    assert len(list(results.glob("*/*/run.json"))) == 6
    assert "removed 1 run" in type_in("runs", "rm", "teach", "--yes")


def test_rm_of_a_search_lists_what_it_removes_asks_and_keeps_other_runs(type_in, results, monkeypatch):
    make_search(results, Search(space={"method.alpha": uniform(0, 1)}, trials=12, confirm=0), outcome_with_asha)
    assert "add --yes" in type_in("runs", "rm", "cnn/search", code=2)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "y" if question == "remove 1 search? [y/N] " else "n")
    text = type_in("runs", "rm", "cnn/search")
    for part in ("search cnn/search: 4 done", "  cnn/search/study.journal (", "trials/0007 (", "  and 4 more trials"):
        assert part in text
    assert text.endswith("removed 1 search\n") and not (results / "cnn" / "search").exists()
    assert len(list(results.glob("*/*/run.json"))) == 6


def test_runs_and_searches_are_removed_by_one_command_also_by_their_folders(type_in, results):
    space = {"method.alpha": uniform(0, 1)}
    folder = make_search(results, Search(space=space, trials=2, confirm=0), outcome_with_asha).path
    text = type_in("runs", "rm", str(folder), "small/baseline", "small/baseline", "--yes", code=2)
    assert "names 2 runs" in text and folder.is_dir()
    assert "removed 1 run and 1 search" in type_in("runs", "rm", str(folder), "teach", "--yes")
    assert not folder.exists() and not list((results / "teachers").iterdir())


def test_tags_are_added_listed_and_removed(type_in):
    type_in("runs", "tag", "teach", "paper", "best")
    assert "    tags best, paper" in type_in("runs", "--tag", "paper").splitlines()
    assert "best" in type_in("runs", "tag", "teach", "paper", "--untag")
    assert "no run has it; there are best" in type_in("runs", "--tag", "paper", code=2)


def test_tags_that_two_commands_add_concurrently_are_both_kept(type_in, results, monkeypatch, capsys):
    """The second command comes when the first one has read the tags. It waits, here for no time, and is repeated."""
    second = ["runs", "--results", str(results), "tag", "teach", "second"]

    def read_and_tag(folder: RunFolder) -> tuple[str, ...]:
        before = tags_of(folder)
        monkeypatch.setattr(runs, "tags_of", tags_of)
        if parser.entry(second):
            assert "was locked by another process" in capsys.readouterr().err
            waiting.append(second)
        return before

    waiting: list[list[str]] = []
    monkeypatch.setattr(runs, "PLAN_WAIT_S", 0.0, raising=False)
    monkeypatch.setattr(runs, "tags_of", read_and_tag)
    type_in("runs", "tag", "teach", "first")
    assert all(parser.entry(command) == 0 for command in waiting)
    assert "    tags first, second" in type_in("runs").splitlines()


def test_clean_shows_sizes_by_kind_and_removes_them_once(type_in, results):
    write_cache(results, RunFolder(next((results / "teachers").iterdir())))
    dry = type_in("clean", "--dry-run")
    assert [line.split()[0] for line in dry.splitlines() if not line.startswith(" ")] == [
        "checkpoints",
        "logit",
        "total",
    ]
    assert len(list(results.rglob("last.safetensors"))) == 6
    assert type_in("clean", "--yes").endswith("removed 7 entries\n")
    assert not list(results.rglob("last.safetensors")) and not list((results / ".logit_caches").iterdir())
    assert type_in("clean", "--yes") == "nothing to remove\n"


def test_clean_names_the_runs_for_which_it_keeps_a_cache(type_in, results):
    cache = write_cache(results, RunFolder(next((results / "teachers").iterdir())))
    interrupt(RunFolder(next((results / "small").glob("distilled-*"))))
    kept = next(line for line in type_in("clean", "--yes").splitlines() if line.startswith("kept"))
    assert "needed by small/distilled-" in kept and cache.is_dir()


def test_lists_and_cleaning_load_no_torch(results):
    """Loading it takes seconds, and a login node may have none."""
    code = "import sys; from raykd.cli import parser\n"
    for words in (["runs"], ["runs", "--json"], ["clean", "--dry-run"]):
        code += f"assert parser.entry({[words[0], '--results', str(results), *words[1:]]!r}) == 0\n"
    code += "assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def train_all(results: Path) -> None:
    """Train a plan of five short runs, as a user's second command does. Runs in a child process."""
    made = experiment(seeds=(0, 1), student=recipe(epochs=2), teacher=recipe(epochs=2), family="other")
    store, plan = RunStore(results), make_plan(made, digits(), NO_WEIGHTS)
    store.write_plan(plan)
    train_plan(plan, digits(), CPU, store)


def test_runs_are_removed_and_the_folder_cleaned_while_another_process_trains(results, capsys):
    """All runs that it trains finish. Its teacher is refused at any time, and finished runs of other families go."""
    others, teachers = list((results / "small").glob("*-*")), results / "teachers"
    (unneeded,) = teachers.iterdir()
    process, was_training = children.start(train_all, results), False
    deadline = time.monotonic() + children.TIMEOUT_S
    while process.is_alive() and time.monotonic() < deadline:
        assert parser.entry(["clean", "--results", str(results), "--yes"]) == 0
        for path in [path for path in teachers.glob("*-*/run.json") if path.parent != unneeded]:
            assert parser.entry(["runs", "--results", str(results), "rm", str(path.parent), "--yes"]) == 2
            if not was_training:
                names = [path.name for path in others]
                assert parser.entry(["runs", "--results", str(results), "rm", *names, "--yes"]) == 0
                was_training = process.is_alive()
    assert children.wait(process) == 0 and was_training and not list((results / "small").glob("*-*"))
    statuses = [RunFolder(path.parent).status() for path in results.glob("*/*/run.json")]
    assert statuses == ["done"] * 6, "five trained runs and the first teacher"
