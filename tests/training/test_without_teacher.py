"""A method that needs nothing of a teacher trains students without one: no pass, no job before them, no identity."""

from pathlib import Path

import pytest
from documented_methods import documented_method
from fake_gpu import on_fake_gpu
from small_runs import CPU, NO_WEIGHTS, digits, experiment, plan_of, recipe, run_of, train
from torch import nn

from raykd.errors import ConfigError
from raykd.methods import KD, CrossEntropy, Method
from raykd.models.vit_cifar import ViT
from raykd.orchestration.run_queue import plan_jobs
from raykd.spec.plan import make_plan
from raykd.spec.search import Search, choice
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import Compute, choose_compute
from raykd.training.cuda_graph import DeviceSteps
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.network_checks import NetworkChecks
from raykd.training.teacher.choose import choose_teacher
from raykd.training.teacher.load import load_teacher
from raykd.training.teacher.sources import no_teacher
from raykd.training.training_step import make_train_state

VIT = ViT(depth=2, width=24, heads=2, patch=2)


def own() -> Method:
    return documented_method("SelfDistillation")


def test_a_student_trains_with_its_own_terms_and_no_teacher(tmp_path: Path) -> None:
    run, store = run_of("distilled", method=own()), RunStore(tmp_path)
    assert run.teacher is None and "self-distillation" in run.name
    folder = store.folder(run)
    train(run, folder, load_teacher(run, "", None, store, digits(), CPU))
    evaluate_on_test(run, folder, digits(), choose_compute(CPU, "fp32"))
    first, *_, last = folder.history()
    assert last["heads_ce"] < first["heads_ce"] and last["heads_kd"] > 0
    record = folder.require_record()
    assert (record.teacher_sha256, record.teachers, record.compute.teacher) == ("", (), None)


@pytest.mark.parametrize("model", [recipe().model, VIT], ids=["resnet", "vit"])
def test_its_adapter_is_trained_on_the_students_outputs(model: object) -> None:
    run = run_of("distilled", method=own(), student=recipe(model=model))
    NetworkChecks(digits()).require_method_fits(run)
    training = make_train_state(run, digits(), Compute(CPU, "fp32", 1), no_teacher)
    training.step(next(training.loader.epoch(0)), run.method.weights(0))
    heads = training.objective.adapter
    assert isinstance(heads, nn.ModuleList) and len(heads) > 0
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in heads.parameters())


def test_the_plan_keeps_the_teacher_and_students_do_not_wait_for_it() -> None:
    plan = plan_of(experiment(method=own()))
    assert [run.stage for run in plan.runs] == ["teacher", "baseline", "distilled"]
    needs = {job.name: job.needs for job in plan_jobs(plan.runs, (), ()) if job.kind == "train"}
    assert list(needs.values()) == [(), (), ()]


def test_students_alone_are_planned_without_a_teacher() -> None:
    stages = {
        method: [run.stage for run in make_plan(experiment(method=method), digits(), NO_WEIGHTS, ["distilled"]).runs]
        for method in (own(), KD())
    }
    assert list(stages.values()) == [["distilled"], ["teacher", "distilled"]]


def test_the_teacher_does_not_identify_the_students() -> None:
    one, other = (run_of("distilled", method=own(), teacher=recipe(epochs=epochs)) for epochs in (2, 3))
    assert one == other
    assert run_of("distilled", teacher=recipe(epochs=2)) != run_of("distilled", teacher=recipe(epochs=3))


@pytest.mark.parametrize("compare", [(), (KD(),)], ids=["alone", "compared with kd"])
def test_the_logit_cache_serves_only_the_methods_that_need_a_teacher(
    compare: tuple[Method, ...], tmp_path: Path
) -> None:
    plan = plan_of(experiment(method=own(), compare=compare, student=recipe(epochs=200)))
    choice = choose_teacher(plan, digits(), (), tmp_path, [RunFolder(tmp_path)])
    if not compare:
        assert choice is None
        return
    assert choice is not None and choice.cache is not None
    assert [choice.cache.serves(run) for run in plan.runs if run.stage == "distilled"] == [False, True]
    (alone,) = (run for run in plan_of(experiment(student=recipe(epochs=200))).runs if run.stage == "distilled")
    assert plan.runs[-1] == alone, "the other method does not change what is distilled"


def test_a_search_of_such_a_method_plans_no_teacher_passes(tmp_path: Path) -> None:
    searched = experiment(method=own(), search=Search(space={"method.alpha": choice(0.1, 0.3)}, trials=2))
    assert choose_teacher(plan_of(searched), digits(), (), tmp_path, [RunFolder(tmp_path)]) is None


def test_cross_entropy_is_still_refused_as_a_method() -> None:
    with pytest.raises(ConfigError, match="needs no teacher, so nothing would be distilled; use KD"):
        experiment(method=CrossEntropy())


def test_its_steps_keep_to_the_gpu() -> None:
    training = make_train_state(run_of("distilled", method=own()), digits(), Compute(CPU, "fp32", 1), no_teacher)
    with on_fake_gpu(training, "bf16"):
        training.parallelize()
        steps = DeviceSteps(training)
        steps._captures = False
        steps.start_epoch(0, 0)
        for step in range(2):
            steps.run_step(step)
