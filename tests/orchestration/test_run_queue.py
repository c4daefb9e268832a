"""The order in which slots get jobs: the queue alone, without Ray and without training."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from small_runs import NO_WEIGHTS, digits, experiment, run_of

from raykd.errors import Interrupted, OutOfMemory, RunLocked
from raykd.orchestration import run_queue as queue_module
from raykd.orchestration.run_queue import (
    LOST_AFTER_S,
    MAX_PAUSE_S,
    PAUSE_S,
    Job,
    Pause,
    RunQueue,
    State,
    max_concurrent,
    plan_jobs,
)
from raykd.spec.plan import Run, make_plan
from raykd.training.failure import MAX_ATTEMPTS, Decision, decide_job
from raykd.training.hooks import EpochReport
from raykd.training.teacher.choose import PlannedCache

LOCKED = decide_job(RunLocked("locked by process 1 on elsewhere"), gpus=0)
INTERRUPTED = decide_job(Interrupted("stopped after epoch 3"), gpus=0)


def failed(reason: str, blames_gpu: bool = False) -> Decision:
    """Return the decision after an error that fails a job."""
    return Decision("code", reason, "no", blames_gpu=blames_gpu)


def lost(reason: str, blames_gpu: bool = False) -> Decision:
    """Return the decision after an error that ends the worker, whose replacement retries the job."""
    return Decision("outside", reason, "another process", ends_process=True, blames_gpu=blames_gpu)


class Clock:
    """A clock that stands still unless the test moves it."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(queue_module, "time", clock)
    return clock


def planned(**changes: object) -> list[Run]:
    """Return a teacher, two baselines and two distilled students."""
    return list(make_plan(experiment(seeds=(0, 1), **changes), digits(), NO_WEIGHTS).runs)


def new_queue() -> RunQueue:
    return RunQueue(plan_jobs(planned(), set(), set()))


def stage(job: Job | None) -> str:
    return f"{job.kind} {job.run.stage}" if job else "nothing"


def states(queue: RunQueue) -> dict[str, State]:
    return {f"{stage(s.job)} {s.job.run.seed}": s.state for s in queue.statuses()}


def do_all(queue: RunQueue, slot: int = 0) -> list[Job]:
    """Let one slot do all jobs, and return them in order."""
    done = []
    while job := queue.next_job(slot):
        queue.finish(slot, job.name)
        done.append(job)
    return done


def test_teacher_is_trained_first_and_each_run_is_evaluated_as_soon_as_it_is_trained() -> None:
    queue = new_queue()
    stages = ["teacher", *["baseline"] * 2, *["distilled"] * 2]
    expected = [f"{kind} {name}" for name in stages for kind in ("train", "evaluate")]
    assert [stage(job) for job in do_all(queue)] == expected
    assert queue.is_over()


def test_workers_wait_for_the_final_jobs_unless_the_queue_stops() -> None:
    runs = planned()
    trains = [Job("train", run) for run in runs[:2]]
    queue = RunQueue(trains, is_complete=False)
    assert do_all(queue) == trains
    assert queue.is_done() and not queue.is_over()
    queue.add_final([Job("evaluate", runs[1])])
    assert not queue.is_done()
    assert [stage(job) for job in do_all(queue)] == ["evaluate baseline"]
    assert queue.is_done() and queue.is_over()
    stopped = RunQueue(trains, is_complete=False)
    stopped.stop()
    assert stopped.is_over()


def test_teachers_of_all_families_come_before_the_first_students() -> None:
    jobs = plan_jobs([*planned(), *planned(family="other", teacher_seed=1)], set(), set())
    assert [job.run.seed for job in jobs if job.run.stage == "teacher"] == [0, 0, 1, 1]
    assert all(job.run.stage == "teacher" for job in jobs[:4])


def test_student_is_distilled_only_after_its_teacher_is_trained() -> None:
    queue = new_queue()
    assert [stage(queue.next_job(slot)) for slot in range(4)] == ["train teacher", *["train baseline"] * 2, "nothing"]
    assert not queue.is_over(), "a slot without a job must request one again"
    queue.finish(0, queue.statuses()[0].job.name)
    assert [stage(queue.next_job(slot)) for slot in (3, 0)] == ["evaluate teacher", "train distilled"]


def test_run_is_evaluated_only_after_its_training() -> None:
    for job in plan_jobs(planned(), set(), set()):
        assert (job.needs == (f"train {job.run.name}",)) == (job.kind == "evaluate")


def test_trained_run_is_only_evaluated_and_no_job_waits_for_it() -> None:
    teacher, *students = planned()
    jobs = plan_jobs([teacher, *students], {teacher.name, students[0].name}, {teacher.name})
    assert [stage(job) for job in jobs if not job.needs] == [
        "evaluate baseline",
        "train baseline",
        "train distilled",
        "train distilled",
    ]
    assert not plan_jobs([teacher], {teacher.name}, {teacher.name})


def test_slot_whose_worker_was_replaced_gets_its_job_back() -> None:
    queue = new_queue()
    first = queue.next_job(0)
    assert stage(queue.next_job(1)) == "train baseline"
    assert queue.next_job(0) == first


def test_run_that_kills_every_worker_fails_after_the_last_attempt_and_the_slot_gets_another() -> None:
    queue = new_queue()
    for _ in range(MAX_ATTEMPTS):
        assert stage(queue.next_job(0)) == "train teacher"
    assert stage(queue.next_job(0)) == "train baseline"
    failed = queue.statuses()[0]
    assert failed.state is State.FAILED and f"worker died {MAX_ATTEMPTS} times" in failed.reason


def test_job_that_a_gpu_could_not_do_is_tried_once_on_another_one(clock: Clock) -> None:
    queue = new_queue()
    teacher = queue.next_job(0)
    assert teacher is not None and stage(queue.next_job(1)) == "train baseline"
    queue.carry_out(0, teacher.name, failed("no code for this GPU\nmore", blames_gpu=True))
    status = queue.statuses()[0]
    assert (status.state, status.attempts) == (State.WAITING, 0)
    assert status.lines == ["failed on its GPU, and is tried on another one: no code for this GPU"]
    assert stage(queue.next_job(0)) == "train baseline", "the slot that failed does another job"
    assert State.SKIPPED not in states(queue).values()
    queue.finish(1, f"train {planned()[1].name}")
    assert queue.next_job(1) == teacher
    queue.carry_out(1, teacher.name, failed("no code for this GPU either", blames_gpu=True))
    assert status.state is State.FAILED and State.SKIPPED in states(queue).values()


@pytest.mark.parametrize("blames_gpu", [True, False])
def test_run_that_loses_its_gpu_every_time_is_tried_on_another_one(blames_gpu: bool, clock: Clock) -> None:
    queue = new_queue()
    queue.is_stopping(1)
    for _ in range(MAX_ATTEMPTS):
        job = queue.next_job(0)
        assert job is not None
        queue.carry_out(0, job.name, lost("CUDA error: ECC", blames_gpu))
    queue.next_job(0)
    assert queue.statuses()[0].state is (State.WAITING if blames_gpu else State.FAILED)


def test_without_another_slot_a_gpu_that_cannot_do_a_job_fails_it(clock: Clock) -> None:
    queue = new_queue()
    job = queue.next_job(0)
    assert job is not None
    queue.carry_out(0, job.name, failed("out of memory", blames_gpu=True))
    assert queue.statuses()[0].state is State.FAILED


def test_job_goes_back_to_the_gpu_that_failed_it_if_the_others_are_lost(clock: Clock) -> None:
    queue = new_queue()
    job = queue.next_job(0)
    assert job is not None
    queue.is_stopping(1)
    queue.carry_out(0, job.name, failed("out of memory", blames_gpu=True))
    clock.time += LOST_AFTER_S + 1
    assert queue.next_job(0) == job


def test_failure_skips_all_jobs_that_depend_on_it() -> None:
    queue = new_queue()
    job = queue.next_job(0)
    assert job is not None
    queue.carry_out(0, job.name, failed("NaN"))
    skipped = [name for name, state in states(queue).items() if state is State.SKIPPED]
    assert skipped == [
        "evaluate teacher 0",
        "train distilled 0",
        "evaluate distilled 0",
        "train distilled 1",
        "evaluate distilled 1",
    ]
    reasons = {s.job.name: s.reason for s in queue.statuses() if s.state is State.SKIPPED}
    assert all(reason.startswith(("train teacher", "train distilled")) for reason in reasons.values())
    assert [stage(job) for job in do_all(queue)] == ["train baseline", "evaluate baseline"] * 2
    assert queue.is_over()


def test_stop_assigns_no_more_jobs_and_waits_for_the_running_ones() -> None:
    queue = new_queue()
    job = queue.next_job(0)
    assert job is not None and not queue.is_stopping(0)
    queue.stop()
    assert queue.is_stopping(0) and queue.next_job(1) is None
    assert not queue.is_over()
    queue.carry_out(0, job.name, INTERRUPTED)
    assert queue.next_job(0) is None and queue.is_over()


def test_run_whose_worker_died_while_it_was_stopping_counts_as_stopped() -> None:
    queue = new_queue()
    queue.next_job(0)
    queue.stop()
    assert queue.next_job(0) is None, "the replacement worker requests a job"
    assert queue.statuses()[0].state is State.STOPPED
    assert queue.is_over()


def test_run_that_another_command_has_locked_waits_while_others_are_trained(clock: Clock) -> None:
    queue = new_queue()
    teacher = queue.next_job(0)
    assert teacher is not None
    queue.carry_out(0, teacher.name, LOCKED)
    assert queue.statuses()[0].reason == "locked by process 1 on elsewhere"
    assert [stage(job) for job in do_all(queue)] == ["train baseline", "evaluate baseline"] * 2
    assert queue.next_job(0) is None and not queue.is_over(), "retried immediately, or given up"
    clock.time += PAUSE_S
    assert queue.next_job(0) == teacher
    assert queue.statuses()[0].reason == ""


def test_a_warning_that_several_workers_send_is_kept_once() -> None:
    queue = new_queue()
    first, other = (status.job.name for status in queue.statuses()[:2])
    queue.warn(first, "warning: the cache is damaged")
    queue.warn(other, "warning: the cache is damaged")
    queue.warn(other, "warning: the disk is full")
    assert [status.lines for status in queue.statuses()[:2]] == [
        ["warning: the cache is damaged"],
        ["warning: the disk is full"],
    ]


@pytest.mark.parametrize(
    ("decision", "pause", "reason"),
    [
        (LOCKED, Pause.LOCKED, "locked by process 1 on elsewhere"),
        (decide_job(OutOfMemory("out of memory: lower it"), gpus=0.5), Pause.OUT_OF_MEMORY, "out of memory: lower it"),
        (INTERRUPTED, Pause.UNREACHABLE, "the queue was unreachable; stopped after epoch 3"),
    ],
    ids=lambda value: value if isinstance(value, Pause) else "",
)
def test_job_that_is_put_back_has_the_reason_until_a_slot_takes_it_again(
    decision: Decision, pause: Pause, reason: str, clock: Clock
) -> None:
    queue = RunQueue(plan_jobs([run_of("baseline")], set(), set()))
    job = queue.next_job(0)
    assert job is not None
    queue.carry_out(0, job.name, decision)
    status = queue.statuses()[0]
    assert (status.state, status.pause, status.reason, status.attempts) == (State.WAITING, pause, reason, 0)
    assert queue.next_job(0) is None, "it waits for the pause's end"
    clock.time += PAUSE_S
    assert queue.next_job(0) == job and status.pause is None


def test_failed_job_has_the_kind_of_its_failure_unless_its_workers_died() -> None:
    queue = new_queue()
    teacher, baseline = queue.next_job(0), queue.next_job(1)
    assert teacher is not None and baseline is not None
    queue.carry_out(0, teacher.name, failed("NaN"))
    for _ in range(MAX_ATTEMPTS):
        queue.next_job(1)
    failures = {status.job.name: status.failure for status in queue.statuses() if status.state is State.FAILED}
    assert failures == {teacher.name: "code", baseline.name: None}


def test_waiting_for_another_command_does_not_count_as_an_attempt(clock: Clock) -> None:
    queue = RunQueue(plan_jobs([run_of("teacher")], set(), set()))
    for _ in range(3 * MAX_ATTEMPTS):
        job = queue.next_job(0)
        assert job is not None
        queue.carry_out(0, job.name, LOCKED)
        clock.time += MAX_PAUSE_S
    assert len(do_all(queue)) == 2


def test_attempts_at_a_run_that_another_command_trains_for_hours_become_rare(clock: Clock) -> None:
    """Each attempt opens the run's files on the shared filesystem."""
    queue, attempts = RunQueue(plan_jobs([run_of("teacher")], set(), set())), []
    for _ in range(24 * 3600):
        if (job := queue.next_job(0)) is not None:
            attempts.append(clock.time)
            queue.carry_out(0, job.name, LOCKED)
        clock.time += 1
    pauses = [after - before for before, after in pairwise(attempts)]
    assert pauses[:5] == [5, 10, 20, 40, 60] and set(pauses[5:]) == {60}


def test_job_of_a_slot_on_a_lost_node_goes_to_another_slot(clock: Clock) -> None:
    queue = new_queue()
    lost = queue.next_job(0)
    assert lost is not None
    others = [queue.next_job(1), queue.next_job(2)]
    clock.time += LOST_AFTER_S - 1
    for slot, job in enumerate(others, start=1):
        assert job is not None and not queue.is_stopping(slot), "polling is the heartbeat of a running slot"
        queue.finish(slot, job.name)
    do_all(queue, slot=1)
    assert queue.next_job(1) is None, "counted as lost too early"
    clock.time += 2
    assert queue.next_job(1) == lost
    queue.carry_out(0, lost.name, failed("the lost slot came back too late"))
    assert queue.statuses()[0].state is State.RUNNING
    queue.finish(1, lost.name)
    do_all(queue, slot=1)
    assert set(states(queue).values()) == {State.DONE} and queue.is_over()


def test_stop_does_not_wait_for_the_job_of_a_lost_slot(clock: Clock) -> None:
    queue = new_queue()
    lost, other = queue.next_job(0), queue.next_job(1)
    assert lost is not None and other is not None
    clock.time += LOST_AFTER_S + 1
    queue.stop()
    assert queue.is_stopping(1) and not queue.is_over(), "the other slot is still saving"
    queue.carry_out(1, other.name, INTERRUPTED)
    assert queue.is_over() and queue.lost_slots() == {0}


def test_reports_are_kept_from_the_first_epoch_to_the_last(clock: Clock) -> None:
    queue = new_queue()
    queue.next_job(0)
    name = queue.statuses()[0].job.run.name
    reports = [EpochReport(name, e, 3, {"loss": 1.0}, 1.0, 1.0, 1.0, 1.0, 0.1, 1.0, e + 1.0) for e in range(3)]
    for report in reports:
        clock.time += 1
        queue.report(report)
    status = queue.statuses()[0]
    assert (status.first_report, status.report) == (reports[0], reports[-1])
    assert status.times == {"started": 0.0, "first epoch": 1.0, "last epoch": 3.0}


def random_jobs(draw: random.Random) -> list[Job]:
    """Return an acyclic graph, in an order in which a job may come before those that it needs."""
    run = run_of("baseline")
    runs = [replace(run, seed=seed) for seed in range(draw.randint(1, 12))]
    jobs: list[Job] = []
    for each in runs:
        needs = draw.sample([job.name for job in jobs], draw.randint(0, min(2, len(jobs))))
        jobs.append(Job("train", each, tuple(needs)))
    draw.shuffle(jobs)
    return jobs


def events(draw: random.Random, queue: RunQueue, slots: int, clock: Clock) -> Iterator[Callable[[], None]]:
    """Yield random events until the queue is over.

    Slots request jobs and finish them in any state, workers are lost, runs are locked elsewhere, and the queue stops.
    """
    current: dict[int, Job] = {}

    def request(slot: int) -> None:
        job = queue.next_job(slot)
        current.pop(slot, None)
        if job is not None:
            assert all(other.name != job.name for other in current.values()), f"{job.name} was assigned to two slots"
            statuses = {s.job.name: s.state for s in queue.statuses()}
            assert all(statuses[name] is State.DONE for name in job.needs), f"{job.name} came too early"
            current[slot] = job

    def end(slot: int) -> None:
        if slot in current:
            name = current.pop(slot).name
            decision = draw.choices([None, failed("a reason"), LOCKED], [8, 1, 1])[0]
            if queue.is_stopping(slot) and draw.random() < 0.5:
                decision = INTERRUPTED
            if decision is None:
                queue.finish(slot, name)
            else:
                queue.carry_out(slot, name, decision)

    while not queue.is_over():
        clock.time += draw.random() * PAUSE_S
        for busy in current:
            queue.is_stopping(busy)  # as the thread of a live worker polls
        slot = draw.randrange(slots)
        # A slot requests a job while it has one only when its worker was lost.
        lost = draw.random() < 0.1
        yield lambda slot=slot, lost=lost: request(slot) if slot not in current or lost else end(slot)
        if draw.random() < 0.005:
            queue.stop()


@pytest.mark.parametrize("seed", range(60))
def test_every_random_graph_completes_and_no_job_is_assigned_twice(seed: int, clock: Clock) -> None:
    draw = random.Random(seed)
    queue = RunQueue(random_jobs(draw))
    for count, event in enumerate(events(draw, queue, draw.randint(1, 4), clock)):
        event()
        assert count < 20_000, f"deadlock: {states(queue)}"
    by_name = {s.job.name: s for s in queue.statuses()}
    for status in by_name.values():
        assert status.state is not State.RUNNING
        unlucky = any(by_name[name].state in (State.FAILED, State.SKIPPED) for name in status.job.needs)
        assert unlucky == (status.state is State.SKIPPED) or status.state is State.WAITING
        assert status.state not in (State.FAILED, State.SKIPPED) or status.reason
        assert status.attempts <= MAX_ATTEMPTS


def test_queue_imports_no_torch() -> None:
    program = "import sys, raykd.orchestration.run_queue; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


def test_first_workers_reason_becomes_the_jobs_after_the_last_attempt(clock: Clock) -> None:
    queue = new_queue()
    job = queue.next_job(0)
    assert job is not None
    for attempt in range(MAX_ATTEMPTS):
        queue.carry_out(1, job.name, lost("a slot without this job"))
        queue.carry_out(0, job.name, lost(f"disk full in attempt {attempt}"))
        queue.carry_out(0, job.name, lost("Connection closed by peer"))
        queue.next_job(0)
    failed = next(status for status in queue.statuses() if status.job == job)
    assert failed.state is State.FAILED
    assert failed.reason.endswith(f"; one worker reported: disk full in attempt {MAX_ATTEMPTS - 1}")


def test_resumed_run_has_no_reason_left_from_the_worker_that_died(clock: Clock) -> None:
    queue = new_queue()
    job = queue.next_job(0)
    assert job is not None
    queue.carry_out(0, job.name, lost("Connection closed by peer"))
    assert queue.next_job(0) == job
    assert next(status for status in queue.statuses() if status.job == job).reason == ""


def test_second_worker_that_fails_a_job_fails_it_once(clock: Clock) -> None:
    queue = new_queue()
    job = queue.next_job(0)
    assert job is not None
    queue.carry_out(0, job.name, failed("teacher's file is damaged"))
    queue.carry_out(0, job.name, failed("another reason"))
    status = next(status for status in queue.statuses() if status.job == job)
    assert status.reason == "teacher's file is damaged"


def caches_of(*runs: Run) -> tuple[PlannedCache, ...]:
    """Return one logit cache of the runs' teacher, in 3 parts."""
    teacher = next(run for run in runs if run.stage == "teacher")
    families = frozenset(run.family for run in runs if run.teacher)
    return (PlannedCache((teacher,), teacher.data, "fp32", (), True, 3, families=families),)


def test_cache_is_filled_after_its_teacher_and_before_the_runs_that_read_it() -> None:
    runs = planned()
    jobs = plan_jobs(runs, set(), set(), caches_of(*runs))
    queue = RunQueue(jobs)
    assert stage(queue.next_job(0)) == "train teacher" and stage(queue.next_job(1)) == "train baseline"
    queue.finish(0, jobs[0].name)
    assert [stage(queue.next_job(slot)) for slot in (0, 2, 3, 4)] == ["evaluate teacher"] + 3 * ["fill teacher"]
    assert stage(queue.next_job(5)) == "train baseline"
    assert queue.next_job(6) is None, "the others wait for the logit cache"
    for slot, job in zip((2, 3), jobs[2:4], strict=True):
        queue.finish(slot, job.name)
    assert queue.next_job(2) is None, "one part is not filled yet"
    queue.finish(4, jobs[4].name)
    job = queue.next_job(4)
    assert stage(job) == "train distilled" and job is not None and job.cache == jobs[2].cache
    assert [j.name.rsplit(" ", 1)[1] for j in jobs if j.kind == "fill"] == ["1/3", "2/3", "3/3"]


def test_failed_part_skips_only_the_runs_that_read_its_cache() -> None:
    runs = planned()
    queue = RunQueue(plan_jobs(runs, set(), set(), caches_of(*runs)))
    while job := queue.next_job(0):
        if job.part == 1:
            queue.carry_out(0, job.name, failed("NaN"))
        else:
            queue.finish(0, job.name)
    ended = {f"{stage(s.job)} {s.job.part}": s.state for s in queue.statuses() if s.job.kind != "evaluate"}
    assert ended.pop("fill teacher 1") is State.FAILED
    assert {name for name, state in ended.items() if state is State.SKIPPED} == {"train distilled 0"}


def test_cache_of_a_trained_teacher_waits_for_no_job() -> None:
    runs = planned()
    jobs = plan_jobs(runs, {runs[0].name}, {runs[0].name}, caches_of(*runs))
    assert [stage(job) for job in jobs[:3]] == 3 * ["fill teacher"] and not jobs[0].needs


def test_cache_of_several_teachers_and_a_run_with_them_live_wait_for_all_of_them() -> None:
    runs = planned(teacher_seeds=(0, 1))
    teachers = runs[:2]
    cache = PlannedCache(tuple(teachers), teachers[0].data, "fp32", (), True, 2, families=frozenset({"small"}))
    both = tuple(f"train {teacher.name}" for teacher in teachers)
    fills = [job for job in plan_jobs(runs, set(), set(), [cache]) if job.kind == "fill"]
    assert [job.needs for job in fills] == [both, both]
    names = tuple(job.name for job in fills)
    assert [job.needs for job in plan_jobs(runs, set(), set(), [cache]) if job.cache and job.kind == "train"] == 2 * [
        names
    ]
    live = [job for job in plan_jobs(runs, set(), set()) if stage(job) == "train distilled"]
    assert [job.needs for job in live] == [both, both]
    left = [job for job in plan_jobs(runs, {teachers[0].name}, set()) if stage(job) == "train distilled"]
    assert [job.needs for job in left] == [both[1:], both[1:]]


def test_run_that_resumes_with_a_live_teacher_waits_for_no_cache() -> None:
    runs = planned()
    jobs = plan_jobs(runs, {runs[0].name}, set(), caches_of(*runs), live={runs[-1].name})
    live, other = (next(job for job in jobs if job.kind == "train" and job.run == run) for run in runs[:-3:-1])
    assert live.cache is None and not live.needs
    assert other.cache is not None and len(other.needs) == 3


def test_max_concurrent_counts_the_runs_that_can_train_side_by_side() -> None:
    runs = planned()
    assert max_concurrent(plan_jobs(runs, set(), set())) == 3, "a teacher and two baselines"
    assert max_concurrent(plan_jobs(runs[:1], set(), set())) == 1
    assert max_concurrent(plan_jobs(runs, {runs[0].name}, set(), caches_of(*runs))) == 2
    assert max_concurrent(plan_jobs([runs[0], *runs[3:]], {runs[0].name}, set())) == 2
    assert max_concurrent([]) == 1
