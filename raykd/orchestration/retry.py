"""Retry the run of a worker that died, and a job that ran out of memory on a GPU that it shares with others.

Ray replaces a worker that died (killed for its memory, lost with its node). The replacement receives the same
run and resumes it from its checkpoint: from the queue (run_queue.py) for the runs of a plan, from Tune (tuner.py,
trial.py) for the trials of a search. An error in the configuration is not retried, see training/failure.py.

Nothing here imports torch, because the controller of every trainer imports this module and would wait for it.
"""

from raykd.store.records import Failure

MAX_ATTEMPTS = 3  # a run whose workers died three times has failed
MAX_FAILURES = MAX_ATTEMPTS - 1  # for Ray, which counts the failures of a trial before its last attempt

_ran_out_of_memory: set[str] = set()  # names of this process's jobs that ran out of memory on a shared GPU


def max_failures_of_slot(num_jobs: int) -> int:
    """Return how many of its workers a slot's trainer may lose: enough for each job to use up its attempts."""
    return MAX_ATTEMPTS * num_jobs


def give_up_reason(attempts: int, reported: str) -> str:
    """Return why a run is not retried again. reported: what one of its workers reported before it died, or ''."""
    reason = f"its worker died {attempts} times; out of memory, or see the Ray worker's log"
    return f"{reason}; one worker reported: {reported}" if reported else reason


def is_retried(failure: Failure, job: str, gpus: float) -> bool:
    """Return whether to retry `job` although its error was caught: it ran out of memory on a shared GPU.

    Another run may have used that memory. Each worker process retries a job once, after the jobs that are ready.
    """
    if failure != "out of memory" or not 0 < gpus < 1 or job in _ran_out_of_memory:
        return False
    _ran_out_of_memory.add(job)
    return True
