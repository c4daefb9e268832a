"""Weights & Biases: a run for each of raykd's runs, grouped by family or search.

W&B works offline unless WANDB_MODE names another mode: it writes files that `wandb sync` uploads from a machine with
internet access. A run that resumes offline gets a second folder with the same id, and `wandb sync` joins them.
"""

import logging
import os
import secrets
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raykd.config import fingerprint
from raykd.trackers.tracker import Epoch, State, TrackedRun, Tracker

FOLDER = "wandb"  # W&B writes below a folder of this name
_PROJECT = "raykd"  # unless WANDB_PROJECT is set
_SERVICE = "wandb-core"  # W&B's process
_INIT_S = 10.0  # how long W&B waits for its server before `init` fails; a later pass repeats it


class WandB(Tracker):
    """Writes below `folder`, and uploads if WANDB_MODE is 'online'. A process of W&B serves all runs until `close`."""

    name = "wandb"

    def __init__(self, folder: Path) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        self._folder, self._mode = folder.absolute(), mode
        if mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            os.environ.setdefault("WANDB_DATA_DIR", str(self._folder / FOLDER))  # copies of artifacts, else in $HOME
        import wandb

        self._wandb: Any = wandb
        account = [os.environ.get(name, "") for name in ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT")]
        self.store = "local" if mode == "offline" else fingerprint([mode, *account])[:12]
        self.where = (
            f"wandb sync {shlex.quote(str(self._folder / FOLDER))}/offline-run-*"
            if mode == "offline"
            else f"WANDB_MODE={mode}"
        )
        self._runs: dict[str, Any] = {}

    def open(self, run: TrackedRun, run_id: str | None, parent_id: str | None) -> str:
        if run_id in self._runs:
            return run_id
        new = run_id or secrets.token_hex(8)
        quiet = {"silent": True, "console": "off", "disable_git": True, "save_code": False}
        not_of_the_worker = {"x_disable_stats": True, "x_disable_machine_info": True, "init_timeout": _INIT_S}
        self._folder.mkdir(parents=True, exist_ok=True)
        with _quiet_log():
            self._runs[new] = self._wandb.init(
                id=new,
                name=run.name,
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                group=run.group,
                job_type=run.kind,
                config=dict(run.settings),
                dir=str(self._folder),
                mode=self._mode,
                resume=None if self._mode == "offline" else "allow",
                reinit="create_new",  # several runs side by side, beside one of the user's process
                settings=self._wandb.Settings(**quiet, **not_of_the_worker),
            )
        return new

    def log_epochs(self, run_id: str, epochs: Sequence[Epoch]) -> None:
        for epoch in epochs:
            self._runs[run_id].log({"seconds": epoch.seconds, **epoch.values}, step=epoch.number)

    def log_results(self, run_id: str, results: Mapping[str, float]) -> None:
        self._runs[run_id].summary.update(dict(results))

    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        artifact = self._wandb.Artifact(f"report-{self._runs[run_id].group}".replace("/", "-"), type="report")
        for file in files:
            artifact.add_file(str(file))
        self._runs[run_id].log_artifact(artifact)

    def end(self, run_id: str, state: State) -> None:
        self._runs.pop(run_id).finish(exit_code=0 if state == "done" else 1)

    def close(self) -> None:
        """Close runs that are open, and end the process of W&B, unless the user's code has a run of its own."""
        for run_id in list(self._runs):
            self.end(run_id, "interrupted")
        if self._wandb.run is None:
            self._wandb.teardown()

    def abort(self) -> None:
        """Kill the process of W&B, for which this process would otherwise wait at its exit until all is uploaded."""
        if self._wandb.run is None:
            for process in _children_named(_SERVICE):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Print no traceback for a line of W&B's log file that a full disk cannot hold, in the block or later."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before
        for handler in logging.getLogger("wandb").handlers:
            handler.handleError = lambda record: None  # type: ignore[method-assign]


def _children_named(name: str) -> Iterator[int]:
    """Yield the ids of this process's children with this name."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            before, _, after = path.read_text().rpartition(")")
            if before.partition("(")[2] == name and int(after.split()[1]) == os.getpid():
                yield int(path.parent.name)
