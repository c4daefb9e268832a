"""`targets.progress` is the share of a run's steps that are done: in every pass, after a resume, and on the device."""

from pathlib import Path

import pytest
from fake_gpu import on_fake_gpu
from methods_by_progress import Annealed, Vanishing
from small_runs import CPU, curve, digits, recipe, run_of, teacher_of, train

from raykd.errors import ConfigError, Interrupted
from raykd.spec.recipe import Recipe
from raykd.store.run_folder import RunFolder
from raykd.training.compute import Compute
from raykd.training.cuda_graph import DeviceSteps, EagerSteps
from raykd.training.network_checks import NetworkChecks
from raykd.training.training_step import make_train_state

STEPS = 4  # of each of 3 epochs


def progress_of(folder: RunFolder) -> list[float]:
    return [row["progress"] for row in curve(folder)]


@pytest.mark.parametrize("student", [recipe(), recipe(gradient_accumulation=2)], ids=["", "accumulated"])
def test_terms_receive_the_share_of_the_steps_that_are_done(student: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(run_of("distilled", method=Annealed(), student=student), folder)
    means = [sum(range(STEPS * epoch, STEPS * (epoch + 1))) / STEPS / (3 * STEPS) for epoch in range(3)]
    assert progress_of(folder) == pytest.approx(means, abs=1e-7)


def test_a_resumed_run_continues_at_the_same_progress(tmp_path: Path) -> None:
    run, whole, stopped = run_of("distilled", method=Annealed()), RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    train(run, whole)
    left = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        train(run, stopped, should_stop=lambda: next(left))
    train(run, stopped)
    assert curve(stopped) == curve(whole) and stopped.best.read_bytes() == whole.best.read_bytes()


@pytest.mark.parametrize("way", [EagerSteps, DeviceSteps])
def test_a_term_that_depends_on_progress_keeps_to_the_gpu(way: type) -> None:
    run = run_of("distilled", method=Annealed())
    training = make_train_state(run, digits(), Compute(CPU, "fp32", 1), teacher_of(run))
    with on_fake_gpu(training, "bf16"):
        training.parallelize()
        steps = way(training)
        steps._captures = False
        steps.start_epoch(0, 0)
        for step in range(2):
            steps.run_step(step)


def test_a_term_that_fails_at_the_end_of_the_training_is_refused_before_it() -> None:
    with pytest.raises(ConfigError, match=r"method = Vanishing: terms\(\) in the last step returns 'kd' as inf on 8"):
        NetworkChecks(digits()).require_method_fits(run_of("distilled", method=Vanishing()))
