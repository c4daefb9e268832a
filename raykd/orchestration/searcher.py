"""Tune's searcher over an Optuna study that survives interruptions.

Tune's own OptunaSearch keeps the mapping of trials in the driver's memory. After a kill nothing resumes its unfinished
trials, and a trial that ASHA stopped counts like one that was trained to its end. Here the study's journal knows both:
unfinished trials are suggested first, and stopped ones are pruned trials, which TPE ranks by their last epoch.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from raykd.spec.search import Search
from raykd.store.study import Study

NUMBER, SETTING, NUM_REPORTED = "number", "setting", "num_reported"  # keys of a trial's config
EPOCHS_DONE, EPOCHS = "epochs_done", "epochs"  # keys of a trial's results, beside the search's metrics
# Keys of a trial's last result: it is unfinished; the reason why its configuration failed; the reason of a failure
# outside of the configuration, which comes with INTERRUPTED.
INTERRUPTED, FAILED, OUTSIDE = "interrupted", "failed", "outside"
MAX_OUTSIDE = 3  # after this many failures outside of the configuration, a round starts no more trials


class StudySearcher(Searcher):
    """Suggests the study's trials to Tune, and records their results in the study.

    A trial's config is {NUMBER, SETTING, NUM_REPORTED: number of epochs that the study acted on in earlier commands}.
    """

    def __init__(self, study: Study, search: Search, is_stopping: Callable[[], bool]) -> None:
        super().__init__()
        self._study, self._metrics, self._is_stopping = study, search.metrics, is_stopping
        trials = study.trials()
        self._unfinished = [trial for trial in trials if trial.state == "begun"]
        self._num_left = search.num_trials - sum(trial.is_ended for trial in trials)
        self._numbers: dict[str, int] = {}  # by Tune's id of a trial
        self.outside: dict[int, str] = {}  # why trials of this round are unfinished, by number

    @property
    def num_left(self) -> int:
        """Number of trials to resume or to start."""
        return max(0, self._num_left)

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the next trial, or Searcher.FINISHED."""
        is_hopeless = len(self.outside) >= MAX_OUTSIDE
        if self._is_stopping() or is_hopeless or len(self._numbers) == self.num_left:
            return Searcher.FINISHED
        if self._unfinished:
            intermediate_values = self._unfinished[0].intermediate_values
            trial = self._study.resume_trial(self._unfinished.pop(0).number)
        else:
            intermediate_values, trial = {}, self._study.begin()
        self._numbers[trial_id] = trial.number
        num_reported = len(acted_on(intermediate_values))
        return {NUMBER: trial.number, SETTING: dict(trial.setting), NUM_REPORTED: num_reported}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if len(self._metrics) == 1 and self._metrics[0] in result:
            self._study.report_value(self._numbers[trial_id], result[EPOCHS_DONE], result[self._metrics[0]])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        number, result = self._numbers[trial_id], result or {}
        if error:
            self._study.end(number, "failed", reason="its worker died repeatedly")
        elif FAILED in result:
            self._study.end(number, "failed", reason=result[FAILED])
        elif OUTSIDE in result:
            self.outside[number] = result[OUTSIDE]
        elif INTERRUPTED not in result:
            self.on_trial_result(trial_id, result)
            state = "done" if result[EPOCHS_DONE] == result[EPOCHS] else "stopped"
            values = [result[name] for name in self._metrics]
            self._study.end(number, state, values, seconds=result["seconds"])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study's journal is always ahead of Tune's own snapshots."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing, see `save`."""
        return {}


def acted_on(intermediate_values: Mapping[int, float]) -> dict[int, float]:
    """Return the reported values that the scheduler has certainly acted on: all but the last one.

    A command may be killed after it recorded an epoch and before it stopped the trial for it.
    """
    return dict(list(intermediate_values.items())[:-1])
