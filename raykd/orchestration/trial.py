"""One trial of a search, as Tune calls it: a plain function that trains one setting, by itself or by several workers.

What goes wrong in a trial is its result and no error: Tune would try it again, and it would go wrong again. Errors
are left to workers that die; their trial is given to another, and goes on from its checkpoint.
"""

import os
import traceback
from collections.abc import Mapping
from typing import Any

from ray import tune

from raykd.errors import RESUME, Interrupted, RaykdError, is_environment_error
from raykd.orchestration.nested_trial import train_by_workers
from raykd.orchestration.searcher import CUT_OFF, FAILED
from raykd.orchestration.stop_flag import StopLink
from raykd.orchestration.trial_loop import TrialConfig, train_trial
from raykd.orchestration.worker import LOST_GPU
from raykd.training.compute import release_memory

# How long the worker of a trial that was stopped has to let go of its files, before Tune gives up the trial after it.
THREAD_TIMEOUT = ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")


def run_trial(config: Mapping[str, Any], shared: TrialConfig) -> None:
    """Train the distilled student with the setting in `config`; Tune hears of each epoch that it was not told."""
    os.environ.setdefault(*THREAD_TIMEOUT)
    try:
        with StopLink(shared.stop) as link:
            if shared.workers > 1:
                last = train_by_workers(config, shared, link.should_stop)
            else:
                last = train_trial(config, shared, tune.report, link.should_stop)
    except Interrupted:
        last = {CUT_OFF: True}
    except (RaykdError, MemoryError) as error:
        last = {FAILED: str(error) or type(error).__name__}
    except Exception as error:
        if any(words in str(error) for words in LOST_GPU):
            raise  # this process can do no other trial
        if is_environment_error(error):  # a full disk, say: nothing is wrong with the setting, and it is tried again
            print(f"raykd: trial interrupted: {error}; {RESUME}")
            tune.report({CUT_OFF: True, "done": True})
            return
        traceback.print_exc()
        last = {FAILED: f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"}
    finally:
        release_memory()
    tune.report(last | {"done": True})
