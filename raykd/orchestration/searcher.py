"""Tune's searcher for an Optuna study that an earlier command may have started.

Tune's own OptunaSearch maps its trials to Optuna's in the driver's memory. After a killed driver, unfinished trials
stay in the study and are never resumed, and a trial that ASHA stopped early counts like a completed one. This searcher
resumes unfinished trials first, and records trials that ASHA stopped as pruned; TPE ranks those by how long they
trained.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from raykd.spec.search import Search
from raykd.store.records import EndState
from raykd.store.study import SearchStudy, num_ended

NUMBER, CONFIGURATION, REPORTED = "number", "configuration", "reported"  # keys of a trial's config
FAILURES = "failures"  # key of a trial's config: how many of its processes have failed, none if it is missing
EPOCHS_DONE, EPOCHS = "epochs_done", "epochs"  # keys of a trial's result, in addition to the search's metrics
LINES = "lines"  # the key of lines for the log
# Keys of a trial's last result: the trial is unfinished; why its configuration failed; or, with INTERRUPTED, why
# something outside of its configuration failed.
INTERRUPTED, FAILED, EXTERNAL_FAILURE = "interrupted", "failed", "outside"
MAX_OUTSIDE = 3  # after this many failures outside of the configuration, no more trials are started in this round


class StudySearcher(Searcher):
    """Return trials of the study to Tune, and record their results in the study.

    The config of a trial is {number, configuration, reported}. reported: the number of epochs whose results Tune
    already has. remove_checkpoint: called with the number of a trial that has ended, and again after the ends of other
    trials until it returns True.
    """

    def __init__(
        self,
        study: SearchStudy,
        search: Search,
        is_stopping: Callable[[], bool],
        remove_checkpoint: Callable[[int], bool] = lambda _: True,
    ) -> None:
        super().__init__()
        self._remove_checkpoint, self._with_checkpoint = remove_checkpoint, list[int]()
        self._study, self._metrics, self._is_stopping = study, search.metrics, is_stopping
        trials = study.trials()
        self._unfinished = [trial for trial in trials if trial.state == "running"]
        self.num_left = max(0, search.num_trials - num_ended(trials))  # trials to resume or to start
        self._numbers: dict[str, int] = {}  # trial numbers by Tune's trial id
        self._open: set[str] = set()  # ids of the trials that have not ended
        self._max_concurrent = self.num_left
        self.outside: dict[int, str] = {}  # why trials of this round are unfinished, by number

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Limit the trials that run side by side, and return that Tune need not.

        Tune's limit counts a trial until it reports the trial's end here, which it leaves out for some; see `release`.
        """
        self._max_concurrent = max_concurrent
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's config, None while enough trials run, or FINISHED when no trials are left."""
        is_hopeless = len(self.outside) >= MAX_OUTSIDE
        if self._is_stopping() or is_hopeless or len(self._numbers) == self.num_left:
            return Searcher.FINISHED
        if len(self._open) >= self._max_concurrent:
            return None
        if self._unfinished:
            trial = self._study.resume_trial(self._unfinished.pop(0).number)
        else:
            trial = self._study.start_trial()
        self._numbers[trial_id] = trial.number
        self._open.add(trial_id)
        return {
            NUMBER: trial.number,
            CONFIGURATION: dict(trial.configuration),
            REPORTED: len(acted_on(trial.intermediate_values)),
        }

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if len(self._metrics) == 1 and self._metrics[0] in result:
            self._study.report_value(self._numbers[trial_id], result[EPOCHS_DONE], result[self._metrics[0]])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        number, result = self._numbers[trial_id], result or {}
        self._open.discard(trial_id)
        if error:
            self._finish(number, "failed", reason="its workers died repeatedly")
        elif FAILED in result:
            self._finish(number, "failed", reason=result[FAILED])
        elif EXTERNAL_FAILURE in result:
            self.outside[number] = result[EXTERNAL_FAILURE]
        elif INTERRUPTED not in result:
            self.on_trial_result(trial_id, result)
            state = "done" if result[EPOCHS_DONE] == result[EPOCHS] else "pruned"
            values = [result[name] for name in self._metrics]
            self._finish(number, state, values, seconds=result["seconds"])

    def _finish(self, number: int, state: EndState, *result: Any, **named: Any) -> None:
        self._study.finish_trial(number, state, *result, **named)
        self._with_checkpoint.append(number)
        self.remove_checkpoints()

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of ended trials, except those whose process still has them locked."""
        self._with_checkpoint = [number for number in self._with_checkpoint if not self._remove_checkpoint(number)]

    def release(self, trials: Iterable[Trial]) -> list[int]:
        """Return the numbers of the trials that Tune has given up without a call of `on_trial_complete`.

        Tune does so if the process that a trial was given is still busy with the trial before it. They stay unfinished,
        and others take their place.
        """
        given_up = [trial.trial_id for trial in trials if trial.status == Trial.ERROR and trial.trial_id in self._open]
        self._open.difference_update(given_up)
        return [self._numbers[trial_id] for trial_id in given_up]

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's journal is always newer than what Tune would save."""

    restore = save

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing; see `save`. Tune pickles the searcher for its own restore, which is not used."""
        return {}


def acted_on(intermediate_values: Mapping[int, float]) -> dict[int, float]:
    """Return the reported values that the scheduler has certainly acted on: all but the last one.

    A command may be killed between the report of an epoch and the stop of its trial, so the last value is reported and
    judged again.
    """
    return dict(list(intermediate_values.items())[:-1])
