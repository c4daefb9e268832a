"""Early stopping of trials by Tune's schedulers (ASHA, median), across the commands of a resumed search."""

from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from raykd.orchestration.searcher import EPOCHS_DONE, NUMBER, acted_on
from raykd.spec.search import Search
from raykd.store.study import SearchTrial

MEDIAN_OF = 3  # trials that must have reached an epoch before another trial is compared with their median
_PastTrial = namedtuple("_PastTrial", ["trial_id"])  # the only attribute that schedulers read
_NO_CONTROLLER: Any = None  # in place of Tune's controller, which schedulers that pause no trial do not use


def make_scheduler(search: Search, epochs: int, past: Iterable[SearchTrial]) -> TrialScheduler:
    """Return the scheduler that `search` names, for `epochs` epochs, with the results of the `past` trials."""
    if search.scheduler == "none":
        return FIFOScheduler()
    settings: dict[str, Any] = {"time_attr": EPOCHS_DONE, "metric": search.metrics[0], "mode": search.directions[0]}
    settings["grace_period"] = search.grace_of(epochs)
    if search.scheduler == "median":
        # Without it, the rule pauses trials until others have trained as long, and a paused trial loses its worker.
        settings["min_time_slice"] = float("inf")
        inner = MedianStoppingRule(**settings, min_samples_required=MEDIAN_OF)
    else:
        inner = ASHAScheduler(**settings, max_t=epochs, reduction_factor=search.reduction_factor)
    return DeduplicatingScheduler(inner, search.metrics[0], past)


class DeduplicatingScheduler(TrialScheduler):
    """Pass each epoch of each trial to `inner` once.

    A trial that resumes from a checkpoint trains, and reports, some epochs again. A new scheduler has no results of the
    trials that ended in earlier commands, so it receives them first.
    """

    def __init__(self, inner: TrialScheduler, metric: str, past: Iterable[SearchTrial]) -> None:
        super().__init__()
        self._inner, self._metric_name = inner, metric
        self._last_epochs: dict[int, int] = {}  # last reported epoch by trial number
        self._unfinished: dict[int, Mapping[int, float]] = {}
        for trial in past:
            if trial.state in ("done", "pruned"):
                ended: Any = _PastTrial(f"past-{trial.number}")
                inner.on_trial_add(_NO_CONTROLLER, ended)
                if last := self._report(ended, trial.intermediate_values):
                    inner.on_trial_complete(_NO_CONTROLLER, ended, last)
            elif trial.state == "running":
                self._unfinished[trial.number] = acted_on(trial.intermediate_values)

    def _report(self, trial: Any, intermediate_values: Mapping[int, float]) -> dict[str, Any]:
        """Pass values of an earlier command to `inner`, and return the last result, {} without values."""
        result: dict[str, Any] = {}
        for epochs, value in intermediate_values.items():
            result = {EPOCHS_DONE: epochs, self._metric_name: value}
            self._inner.on_trial_result(_NO_CONTROLLER, trial, result)
        return result

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._inner.on_trial_add(tune_controller, trial)
        intermediate_values = self._unfinished.pop(trial.config[NUMBER], {})
        self._report(trial, intermediate_values)
        # Tune adds a trial again when its process has failed, and then its last epoch is known.
        number = trial.config[NUMBER]
        self._last_epochs[number] = max(intermediate_values, default=self._last_epochs.get(number, 0))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number, epochs = trial.config[NUMBER], result.get(EPOCHS_DONE, 0)
        if epochs <= self._last_epochs[number] or self._metric_name not in result:
            return TrialScheduler.CONTINUE
        self._last_epochs[number] = epochs
        return self._inner.on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._metric_name in result:
            self._inner.on_trial_complete(tune_controller, trial, result)
        else:  # it failed, or was interrupted
            self._inner.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return self._inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return self._inner.debug_string()
