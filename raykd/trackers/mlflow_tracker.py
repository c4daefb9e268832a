"""MLflow: an experiment for each family, a run for each of its runs, nested below that of the family or search.

Without MLFLOW_TRACKING_URI the store is SQLite in the results folder, as MLflow recommends (it refuses its store of
plain files since version 3.13). SQLite is fragile with several writers on a shared filesystem. Therefore only the
driver process writes it, and another command on the same folder waits for a lock (tracking.py).
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from raykd.config import fingerprint
from raykd.trackers.tracker import Epoch, State, TrackedRun, Tracker

Item = TypeVar("Item")
DATABASE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # compute nodes have no internet access
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # a new SQLite file is otherwise announced on stderr
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a later pass repeats what failed
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
}
_STATUS: dict[State, str] = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_MAX_METRICS, _MAX_PARAMS, _MAX_LENGTH = 1000, 100, 6000  # of one call; characters of a parameter
_NOT_ALLOWED = re.compile(r"[^\w./: -]")  # in names of metrics and parameters


class MLflow(Tracker):
    """Writes to MLFLOW_TRACKING_URI, or to a SQLite file in `folder`."""

    name = "mlflow"

    def __init__(self, folder: Path) -> None:
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        local = f"sqlite:///{folder.absolute() / DATABASE}"
        self._artifacts = None if uri else (folder.absolute() / ARTIFACTS).as_uri()
        # A local file is found again after its folder was moved; the address of a server may contain a password.
        self.store = fingerprint(uri)[:12] if uri else "local"
        self.where = "MLFLOW_TRACKING_URI" if uri else f"mlflow ui --backend-store-uri {shlex.quote(local)}"
        self._client: Any = MlflowClient(tracking_uri=uri or local)
        self._started: dict[str, int] = {}  # milliseconds since 1970, by run id

    def open(self, run: TrackedRun, run_id: str | None, parent_id: str | None) -> str:
        if run_id in self._started:
            return run_id
        started = int(1000 * run.started)
        if run_id is None or not self._exists(run_id):
            parent = {"mlflow.parentRunId": parent_id} if parent_id else {}
            tags = parent | {"raykd.kind": run.kind, "raykd.group": run.group}
            created = self._client.create_run(self._experiment(run.family), started, tags, run.name)
            run_id = str(created.info.run_id)
            self._log_settings(run_id, run.settings)
        else:
            self._client.update_run(run_id, status="RUNNING")
        self._started[run_id] = started
        return run_id

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _experiment(self, family: str) -> str:
        """Return the id of MLFLOW_EXPERIMENT_NAME or of the experiment named after the family; create it if missing."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or family
        experiment = self._client.get_experiment_by_name(name)
        return experiment.experiment_id if experiment else self._client.create_experiment(name, self._artifacts)

    def _log_settings(self, run_id: str, settings: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(_NOT_ALLOWED.sub("_", path), value[:_MAX_LENGTH]) for path, value in settings.items()]
        for part in _parts(params, _MAX_PARAMS):
            self._client.log_batch(run_id, params=part)

    def log_epochs(self, run_id: str, epochs: Sequence[Epoch]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_NOT_ALLOWED.sub("_", name), value, self._started[run_id] + int(1000 * epoch.seconds), epoch.number)
            for epoch in epochs
            for name, value in epoch.values.items()
        ]
        for part in _parts(metrics, _MAX_METRICS):
            self._client.log_batch(run_id, metrics=part)

    def log_results(self, run_id: str, results: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        moment = self._started[run_id]
        self._client.log_batch(run_id, metrics=[Metric(name, value, moment, 0) for name, value in results.items()])

    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        for file in files:
            self._client.log_artifact(run_id, str(file))

    def end(self, run_id: str, state: State) -> None:
        self._client.set_terminated(run_id, _STATUS[state])
        del self._started[run_id]

    def close(self) -> None:
        """Nothing stays open: the client has no thread and no process."""

    def abort(self) -> None:
        """The client's calls end by their timeouts, and keep no process from ending."""


def _parts(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Yield `items` in lists of at most `size`."""
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
