"""One trial of a search, as Tune calls it: a plain function that trains one configuration.

A failure of the configuration itself (NaN, out of memory, an error in a custom method) is the trial's result. After a
failure outside of it (a full disk, a locked folder) the trial stays unfinished, and the search trains it again. Tune
sees an error only of a worker that dies: another worker then resumes the trial from its checkpoint.
"""

import os
import traceback
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.exceptions import RayError

from raykd.errors import Interrupted, RaykdError
from raykd.orchestration.nested_trial import train_by_workers
from raykd.orchestration.searcher import FAILED, INTERRUPTED, OUTSIDE
from raykd.orchestration.trial_loop import TrialConfig, train_trial
from raykd.orchestration.worker_link import StopPoller
from raykd.training.compute import release_memory
from raykd.training.failure import classify_failure, loses_gpu

# How long the worker of a stopped trial may take to close its files before Tune gives up the next trial.
THREAD_TIMEOUT = ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")


def run_trial(config: Mapping[str, Any], shared: TrialConfig) -> None:
    """Train the distilled student with the setting in `config`, and report each new epoch to Tune."""
    os.environ.setdefault(*THREAD_TIMEOUT)
    try:
        with StopPoller(shared.stop.is_set.remote) as stop:
            if shared.workers > 1:
                last = train_by_workers(config, shared, stop.should_stop)
            else:
                last = train_trial(config, shared, tune.report, stop.should_stop)
    except Interrupted:
        last = {INTERRUPTED: True}
    except Exception as error:
        if loses_gpu(error):
            raise  # this process can train no other trial
        last = _failed(error)
    finally:
        release_memory()
    tune.report(last | {"done": True})


def _failed(error: Exception) -> dict[str, Any]:
    """Return the last result of a trial that ended with `error`."""
    failure = "outside" if isinstance(error, RayError) else classify_failure(error)
    if failure == "code":
        traceback.print_exc()
    text = str(error).splitlines()[0] if str(error) else "no reason given"
    reason = text if isinstance(error, RaykdError) else f"{type(error).__name__}: {text}"
    return {INTERRUPTED: True, OUTSIDE: reason} if failure == "outside" else {FAILED: reason}
