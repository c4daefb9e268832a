"""raykd's warnings in Ray's workers reach the command's log, each of them once."""

import logging
import threading
from pathlib import Path

import pytest
from experiment_runs import run_here
from small_runs import NO_WEIGHTS, digits, experiment

from raykd.orchestration.worker_warnings import warnings_to
from raykd.spec.plan import make_plan
from raykd.store.run_store import RunStore


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


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_a_warning_of_a_worker_is_in_the_log_of_the_command(cluster: str, tmp_path: Path) -> None:
    made = experiment()
    (baseline,) = make_plan(made, digits(), NO_WEIGHTS, ("baseline",)).runs
    folder = RunStore(tmp_path).folder(baseline)
    folder.path.mkdir(parents=True)
    folder.tensorboard.write_text("not a folder")
    (folder.path / "usage").write_text("not a folder either")
    ended = run_here([made], tmp_path, ("baseline",))
    assert ended.exit_code == 0 and folder.status() == "done"
    warnings = [line.split("] ")[1] for line in ended.lines if "  warning: " in line]
    assert all(line.startswith(f"{baseline.name}  warning: ") for line in warnings)
    assert sum("TensorBoard files in" in line for line in warnings) == 1
    assert sum("resource usage cannot be written" in line for line in warnings) == 1, "it is tried twice at least"
