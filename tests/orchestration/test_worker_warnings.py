"""raykd's warnings in Ray's workers are passed on. That they reach a command's log is in test_run_experiments.py."""

import logging
import threading

import pytest

from raykd.orchestration.worker_warnings import warnings_to


def test_warnings_of_any_thread_are_passed_on_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    logger = logging.getLogger("raykd.data.decoded_cache")
    with warnings_to(lines.append):
        thread = threading.Thread(target=logger.warning, args=("%s: damaged,\ndecoding again", "cache"))
        thread.start()
        thread.join()
        logger.info("nothing that a user reads")
        logging.getLogger("another.package").warning("not raykd's")
    logger.warning("after the block")
    assert lines == [r"warning: cache: damaged,\ndecoding again"], "one line"
    assert "decoding again" not in capsys.readouterr().err


def test_a_warning_that_cannot_be_passed_on_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(line: str) -> None:
        raise ConnectionError("the queue is lost")

    with warnings_to(fail):
        logging.getLogger("raykd").warning("the disk is full")
    assert "the queue is lost" in capsys.readouterr().err
