"""Optuna's study as Tune asks for it: one that an earlier command may have begun.

Tune's own OptunaSearch keeps which trial is which in the driver. One that is killed leaves trials in the store that
nobody takes up, and one that ASHA stopped counts like one that was trained to its end. Here both are known: unfinished
trials are handed out first, and stopped ones are Optuna's pruned ones, which TPE ranks by how far they came.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from raykd.spec.search import Search
from raykd.store.study import Study

NUMBER, SETTING, TOLD = "number", "setting", "told"  # of a trial's config
EPOCHS_DONE, EPOCHS = "epochs_done", "epochs"  # of a trial's result; beside them the search's metrics
# Of a trial's last result: it is unfinished; its configuration failed, and why; what else failed, beside CUT_OFF.
CUT_OFF, FAILED, OUTSIDE = "cut_off", "failed", "outside"
MOST_OUTSIDE = 3  # after so many failures that are no configuration's, a round hands out no more trials


class StudySearcher(Searcher):
    """Gives Tune {number, setting, told: epochs that need not be told again}, and the study what comes of it."""

    def __init__(self, study: Study, search: Search, is_stopping: Callable[[], bool]) -> None:
        super().__init__()
        self._study, self._metrics, self._is_stopping = study, search.metrics, is_stopping
        trials = study.trials()
        self._unfinished = [trial for trial in trials if trial.state == "begun"]
        self._left = search.num_trials - sum(trial.is_ended for trial in trials)
        self._numbers: dict[str, int] = {}  # by Tune's name for a trial
        self.outside: dict[int, str] = {}  # why trials of this round are unfinished, by number

    @property
    def num_left(self) -> int:
        """Trials to go on with or to begin."""
        return max(0, self._left)

    def suggest(self, trial_id: str) -> Any:
        """A trial's config, or the word that there are no more."""
        is_hopeless = len(self.outside) >= MOST_OUTSIDE
        if self._is_stopping() or is_hopeless or len(self._numbers) == self.num_left:
            return Searcher.FINISHED
        if self._unfinished:
            intermediate_values = self._unfinished[0].intermediate_values
            trial = self._study.resume_trial(self._unfinished.pop(0).number)
        else:
            intermediate_values, trial = {}, self._study.begin()
        self._numbers[trial_id] = trial.number
        return {NUMBER: trial.number, SETTING: dict(trial.setting), TOLD: len(settled(intermediate_values))}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if len(self._metrics) == 1 and self._metrics[0] in result:
            self._study.report_value(self._numbers[trial_id], result[EPOCHS_DONE], result[self._metrics[0]])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        number, result = self._numbers[trial_id], result or {}
        if error:
            self._study.end(number, "failed", reason="its worker died, again and again")
        elif FAILED in result:
            self._study.end(number, "failed", reason=result[FAILED])
        elif OUTSIDE in result:
            self.outside[number] = result[OUTSIDE]
        elif CUT_OFF not in result:
            self.on_trial_result(trial_id, result)
            state = "done" if result[EPOCHS_DONE] == result[EPOCHS] else "stopped"
            values = [result[name] for name in self._metrics]
            self._study.end(number, state, values, seconds=result["seconds"])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's journal is ahead of whatever Tune would save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing; see `save`. Tune pickles what it was given, for a restore of its own."""
        return {}


def settled(intermediate_values: Mapping[int, float]) -> dict[int, float]:
    """Of what was heard of an unfinished trial, that which was acted upon: a command may be killed after it has heard
    an epoch and before it has stopped the trial for it, so the last one is told and judged once more.
    """
    return dict(list(intermediate_values.items())[:-1])
