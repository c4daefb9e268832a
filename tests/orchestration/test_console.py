"""The output of commands whose reader ends early, such as `| head`: work continues, and listings end with 141."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest
from finished_results import copy_to

from raykd.cli import parser
from raykd.errors import Interrupted
from raykd.orchestration.console import LogConsole
from raykd.orchestration.progress import log


@pytest.fixture
def closed_pipe() -> Iterator[TextIO]:
    """A stream into a pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:  # noqa: PTH123 - a descriptor
        yield stream


def test_progress_continues_when_its_reader_has_ended(closed_pipe: TextIO) -> None:
    console = LogConsole(file=closed_pipe)
    for line in ("lost", "also lost"):
        log(console, line)
    console.file = kept = io.StringIO()
    log(console, "kept")
    assert kept.getvalue().endswith("kept\n")


def test_report_is_written_although_the_reader_of_its_progress_has_ended(
    closed_pipe: TextIO, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = copy_to(tmp_path)
    tested = sorted(results.glob("*/*/test.json"))
    for path in tested:
        path.unlink()
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert parser.entry(["report", "--results", str(results)]) == 0
    assert sorted(results.glob("*/*/test.json")) == tested and (results / "report" / "index.html").is_file()


def test_listing_ends_like_other_programs_when_its_reader_has_ended(
    closed_pipe: TextIO, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = copy_to(tmp_path)
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert parser.entry(["runs", "--results", str(results)]) == 128 + signal.SIGPIPE
    closed_pipe.flush()  # as at the end of the process: no second error


def test_exit_code_is_that_of_the_error_when_nobody_reads_its_message(
    closed_pipe: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr(sys, "stderr", closed_pipe)
    assert parser.run_reporting_errors(run) == Interrupted.exit_code
    closed_pipe.flush()


def test_command_without_stdout_ends_as_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no stdout if the descriptor is closed at its start (`>&-`)."""
    monkeypatch.setattr(sys, "stdout", None)
    assert parser.run_reporting_errors(lambda: log(LogConsole(), "lost")) == 0
