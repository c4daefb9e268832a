"""`raykd tune dashboard` with the real optuna-dashboard over HTTP: it shows a search, and writes nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from search_folders import SPACE, ExampleSearch, Outcome, make_search

from raykd.cli import parser, search_dashboard
from raykd.cli.search_dashboard import find_search
from raykd.errors import ConfigError
from raykd.spec.search import Search
from raykd.store.study import SearchFolder, SearchStudy

ROOT = Path(__file__).parents[2]


def small_search(root: Path, name: str = "search", num_trials: int = 3) -> ExampleSearch:
    search = Search(space=SPACE, trials=8, sampler="random", grace_epochs=1, confirm=0, name=name)
    return make_search(root, search, lambda trial: Outcome("done", [80.0 + trial.number]), num_trials=num_trials)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def dashboard(results: Path, temporary: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the command, and yield the address and the process, which is ended if it still runs."""
    command = [sys.executable, "-m", "raykd", "tune", "dashboard", "--results", str(results)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=temporary, **pipes) as process:
        try:
            assert process.stdout is not None
            first, second, *_ = (process.stdout.readline() for _ in range(5))
            assert first == "cnn/search: 3 trials, for reading only; the page follows a search in progress\n"
            (address,) = re.findall(r"http://127\.0\.0\.1:\d+", second)
            yield address, process
        finally:
            if process.poll() is None:
                process.kill()


def request(url: str, method: str = "GET") -> Any:
    body = b"{}" if method != "GET" else None
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=60) as answer:
        content = answer.read()
        return json.loads(content) if url.partition("/api/")[1] else content


def test_the_dashboard_shows_an_unfinished_search_and_changes_nothing(tmp_path) -> None:
    example, temporary = small_search(tmp_path / "results"), tmp_path / "tmp"
    temporary.mkdir()
    before = files(tmp_path)
    with dashboard(tmp_path / "results", temporary) as (address, process):
        (study,) = request(f"{address}/api/studies")["study_summaries"]
        assert study["study_name"] == "search"
        assert b"<title>Optuna Dashboard" in request(f"{address}/dashboard/studies/{study['study_id']}")
        trials = request(f"{address}/api/studies/{study['study_id']}")["trials"]
        assert [(trial["number"], trial["values"]) for trial in trials] == [(0, [80.0]), (1, [81.0]), (2, [82.0])]
        assert {param["name"] for param in trials[0]["params"]} == set(SPACE)
        for method, path in (("POST", "studies"), ("DELETE", "studies/0"), ("PUT", "studies/0/note")):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                request(f"{address}/api/{path}", method)
        assert files(tmp_path) == before
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert files(tmp_path) == before
    assert not list(temporary.iterdir())
    assert len(example.summary().trials) == 3


def test_the_storage_of_the_dashboard_follows_the_journal_but_cannot_write(tmp_path) -> None:
    example = small_search(tmp_path)
    folder = SearchFolder(example.path)
    storage = search_dashboard.open_storage(folder.journal, is_read_only=True)
    study = storage.get_study_id_from_name("search")
    assert len(storage.get_all_trials(study)) == 3
    search = example.summary().search
    SearchStudy(folder, search, example.summary().record.default_configuration).start_trial()
    assert len(storage.get_all_trials(study)) == 4
    before = folder.journal.read_bytes()
    with pytest.raises(PermissionError, match="for reading only"):
        storage.set_study_user_attr(study, "note", "mine")
    assert folder.journal.read_bytes() == before


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """Return results with the searches cnn/search, cnn/wide and cnn/wider."""
    root = tmp_path_factory.mktemp("several")
    for name in ("search", "wide", "wider"):
        small_search(root, name, num_trials=1)
    return root


@pytest.mark.parametrize(
    ("name", "found"),
    [("search", "search"), ("cnn/search", "search"), ("wide", "wide"), ("se", "search"), ("cnn/wider", "wider")],
)
def test_a_search_is_found_by_family_and_name_or_the_beginning(several, name, found) -> None:
    assert find_search(several, name).path == several / "cnn" / found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "' has 3 searches; name one: cnn/search, cnn/wide, cnn/wider"),
        ("wid", "search 'wid' is ambiguous: it may be cnn/wide, cnn/wider"),
        ("cnn/", "search 'cnn/' is ambiguous: it may be cnn/search, cnn/wide, cnn/wider"),
        ("serch", "unknown search 'serch': known are cnn/search, cnn/wide, cnn/wider; did you mean 'search'?"),
        ("vit/wide", "unknown search 'vit/wide': known are cnn/search, cnn/wide, cnn/wider"),
    ],
)
def test_an_ambiguous_or_unknown_search_is_one_line_with_the_candidates(several, capsys, name, message) -> None:
    before = files(several)
    assert parser.entry(["tune", "dashboard", *([name] if name else []), "--results", str(several)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("raykd: ") and output.err.endswith(f"{message}\n") and output.err.count("\n") == 1
    assert files(several) == before


def test_the_only_search_needs_no_name(tmp_path) -> None:
    example = small_search(tmp_path, num_trials=1)
    assert find_search(tmp_path, "").path == example.path


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(search_dashboard, "find_spec", lambda name: None)
    assert parser.entry(["tune", "dashboard", "--results", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install optuna-dashboard" in line


def test_a_search_without_trials_and_one_with_a_damaged_journal_are_one_line(tmp_path, capsys) -> None:
    example = small_search(tmp_path, num_trials=1)
    journal = SearchFolder(example.path).journal
    content = journal.read_bytes()
    for damage, reason in ((content.replace(b'"line"', b'"lime"', 1), "is damaged"), (b"", "has no trials yet")):
        journal.write_bytes(damage)
        assert parser.entry(["tune", "dashboard", "--results", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line


def test_only_the_dashboard_names_a_search(capsys) -> None:
    for word in ("show", "tune_cnn"):
        assert parser.entry(["tune", word, "wide"]) == 2
        assert "unexpected argument 'wide': only tune dashboard names a search" in capsys.readouterr().err


def test_a_request_to_an_unknown_search_raises_before_a_server_starts(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no search under"):
        search_dashboard.serve_dashboard(tmp_path, "")
