"""Tests of fp32, tf32 and fp16: which products are rounded, where a precision is refused, and fp16's loss scaling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from fake_gpu import GPU
from resume_cases import outcome
from small_runs import CPU, digits, experiment, recipe, run_of, teacher_of, train
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from raykd.errors import ConfigError, Interrupted, RunDiverged
from raykd.spec.experiment import Workers
from raykd.spec.optimizers import Optimizer
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.training import run_record, training_step
from raykd.training.checkpoint import read_checkpoint
from raykd.training.compute import Compute, why_not_graph
from raykd.training.failure import classify_failure
from raykd.training.loss_scale import MIN_SCALE, make_scaler, require_scale, zero_momentum
from raykd.training.training_step import TrainState, make_train_state

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")


def tf32_flags() -> tuple[bool, bool]:
    """Whether a GPU would use TF32 for matrix products and for convolutions."""
    return bool(torch.backends.cuda.matmul.allow_tf32), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("has_fp32_precision", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_tf32_rounds_float32_products_and_the_process_is_left_as_it_was(
    precision: Precision, has_fp32_precision: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_fp32_precision:  # as in torch before 2.9
        monkeypatch.delattr(type(torch.backends.cudnn), "conv", raising=False)
        assert not hasattr(torch.backends.cudnn, "conv")
    before, compute = tf32_flags(), Compute(CPU, precision, 1)
    with compute.autocast():
        assert tf32_flags() == (precision == "tf32",) * 2
        assert torch.is_autocast_enabled("cpu") == (precision in ("bf16", "fp16"))
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    assert tf32_flags() == before
    with pytest.raises(ZeroDivisionError), compute.autocast():
        raise ZeroDivisionError
    assert tf32_flags() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has no fp32_precision")
def test_a_process_that_set_fp32_precision_itself_can_train_and_keeps_its_setting() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
            assert matmul.allow_tf32
        with Compute(CPU, "fp32", 1).autocast():
            assert tf32_flags() == (False, False)
        assert matmul.fp32_precision == "tf32" and tf32_flags() == (True, True)
    finally:
        matmul.allow_tf32 = False
        matmul.fp32_precision = before
    assert tf32_flags() == (False, True), "torch's defaults"


def test_forward_and_backward_of_each_run_of_a_process_have_its_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_record, "require_precision", lambda *_: None)
    forward, backward, found = TrainState._terms, Tensor.backward, []

    def noting(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: (found.append(tf32_flags()), call(*arguments))[1]

    monkeypatch.setattr(TrainState, "_terms", noting(forward))
    monkeypatch.setattr(Tensor, "backward", noting(backward))
    before = tf32_flags()
    for precision, allowed in (("tf32", True), ("fp32", False), ("tf32", True)):
        train(run_of("baseline", student=recipe(precision=precision, epochs=1)), RunFolder(tmp_path / "run"))
        assert len(found) == 8 and set(found) == {(allowed, allowed)}
        assert tf32_flags() == before
        (tmp_path / "run").rename(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        found.clear()


def test_tf32_without_a_gpu_is_refused_with_the_experiment() -> None:
    line = r"^precision = 'tf32' in Recipe: requires a GPU, and workers.gpus = 0; set student.precision to auto or"
    with pytest.raises(ConfigError, match=line):
        experiment(student=recipe(precision="tf32"), workers=Workers(gpus=0))


def test_a_device_without_tf32_refuses_it_and_writes_nothing(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = r"^student\.precision = tf32: requires a GPU with TF32 \(Ampere or later\), and {}; set student\.precision"
    with pytest.raises(ConfigError, match=line.format("this run trains on the CPU")) as raised:
        train(run_of("baseline", student=recipe(precision="tf32")), run_folder)
    assert classify_failure(raised.value) == "rejected", "for a search, it is the result of this configuration"
    assert not run_folder.record_path.exists()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    for capability, is_refused in (((7, 0), True), ((8, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        if is_refused:
            with pytest.raises(ConfigError, match=line.format("the Tesla V100 has none")):
                run_record.require_precision("tf32", "student", GPU)
        else:
            run_record.require_precision("tf32", "student", GPU)


# ---- fp16 ----


def fp16_run(**changes: Any) -> Run:
    return run_of("distilled", student=recipe(precision="fp16", **changes))


def training_of(run: Run) -> TrainState:
    return make_train_state(run, digits(), Compute(CPU, "fp16", 1), teacher_of(run))


def with_scale(monkeypatch: pytest.MonkeyPatch, scale: float, growth_interval: int = 2000) -> None:
    """Start every run in fp16 with this loss scale, doubled after so many updates."""
    monkeypatch.setattr(
        training_step, "make_scaler", lambda _: GradScaler("cpu", scale, growth_interval=growth_interval)
    )


def weights_of(training: TrainState) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in training.objective.parameters()])


def one_step(training: TrainState) -> dict[str, Tensor]:
    return training.step(next(training.loader.epoch(0)), training.term_weights(0))


def test_fp16_run_has_nearly_the_losses_of_fp32_and_records_its_precision(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "fp16"):
        folder, run = RunFolder(tmp_path / precision), run_of("distilled", student=recipe(precision=precision))
        reports = train(run, folder)
        losses[precision] = [report.terms["loss"] for report in reports]
        assert folder.require_record().compute.precision == precision and reports[0].compute.startswith(precision)
    assert losses["fp16"] != losses["fp32"]
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_fp16_run_stopped_at_any_step_resumes_to_the_same_bits_and_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_scale(monkeypatch, 2.0**10, growth_interval=3)
    run = fp16_run(epochs=2, clip_gradient_norm=1.0, ema_decay=0.7, gradient_accumulation=2)
    train(run, RunFolder(tmp_path / "whole"))
    stopped = RunFolder(tmp_path / "stopped")
    for num_steps in (2, 3):
        left = iter([False] * (num_steps - 1) + [True])
        with pytest.raises(Interrupted):
            train(run, stopped, should_stop=lambda left=left: next(left))
    train(run, stopped)
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "stopped")
    scales = []
    for folder in (RunFolder(tmp_path / "whole"), stopped):
        checkpoint = read_checkpoint(folder.checkpoint, run.fingerprint)
        assert checkpoint is not None
        scales.append(checkpoint.progress.loss_scale)
    assert scales[0] == scales[1] and scales[0]["scale"] == 2.0**12 and scales[0]["_growth_tracker"] == 2


def test_only_fp16_runs_have_a_loss_scale_in_their_checkpoints(tmp_path: Path) -> None:
    for precision, has_scale in (("fp32", False), ("bf16", False), ("fp16", True)):
        run = run_of("baseline", student=recipe(precision=precision, epochs=1))
        train(run, RunFolder(tmp_path / precision))
        checkpoint = read_checkpoint(RunFolder(tmp_path / precision).checkpoint, run.fingerprint)
        assert checkpoint is not None and (checkpoint.progress.loss_scale is not None) == has_scale


def test_an_update_of_infinite_gradients_is_skipped_halves_the_scale_and_counts_as_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_scale(monkeypatch, 2.0**60)
    run = fp16_run(epochs=2, ema_decay=0.5)
    training = training_of(run)
    before = weights_of(training)
    terms = one_step(training)
    assert torch.equal(weights_of(training), before) and terms["loss"].isfinite()
    assert training.scaler.get_scale() == 2.0**59
    reports = train(run, RunFolder(tmp_path))
    checkpoint = read_checkpoint(RunFolder(tmp_path).checkpoint, run.fingerprint)
    assert checkpoint is not None and checkpoint.progress.loss_scale is not None
    assert [report.epoch for report in reports] == [0, 1] and checkpoint.progress.loss_scale["scale"] == 2.0 ** (60 - 8)


@pytest.mark.parametrize("norm", [None, 1e-3])
def test_gradients_are_unscaled_before_they_are_clipped(norm: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = []
    for scale in (1.0, 2.0**8):
        with_scale(monkeypatch, scale)
        training = training_of(fp16_run(clip_gradient_norm=norm))
        before = weights_of(training)
        one_step(training)
        updates.append(weights_of(training) - before)
    assert updates[0].norm() > 0
    assert (updates[0] - updates[1]).norm() < 0.05 * updates[0].norm()


@pytest.mark.parametrize("fused", [True, False])
def test_sgd_whose_first_update_is_skipped_takes_the_next_as_its_first(fused: bool) -> None:
    networks = [nn.Linear(3, 2, bias=False) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    for network, gradients in zip(networks, ([float("inf"), 0.25, 0.5], [0.25, 0.5]), strict=True):
        optimizer, scaler = torch.optim.SGD(network.parameters(), 0.1, 0.9, fused=fused), GradScaler("cpu", 4.0)
        if network is networks[0]:
            zero_momentum(optimizer)
        for gradient in gradients:
            optimizer.zero_grad()
            scaler.scale(network.weight.sum() * gradient).backward()
            scaler.step(optimizer)
            scaler.update()
    assert networks[0].weight.isfinite().all() and torch.equal(networks[0].weight, networks[1].weight)


def test_every_fp16_run_with_sgd_starts_with_zero_momentum() -> None:
    training = training_of(fp16_run())
    assert all(not training.optimizer.state[p]["momentum_buffer"].any() for p in training.objective.parameters())


def test_fp16_run_whose_updates_are_skipped_at_every_scale_fails_with_one_line(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_scale(monkeypatch, MIN_SCALE)
    scale = GradScaler.scale
    monkeypatch.setattr(GradScaler, "scale", lambda self, loss: scale(self, loss) * float("inf"))
    with pytest.raises(
        RunDiverged, match=r"^gradients were NaN or infinite at every loss scale in epoch 0, .*precision"
    ):
        train(fp16_run(), run_folder)
    assert run_folder.require_record().failure == "diverged"


def test_no_other_precision_scales_its_loss() -> None:
    for precision in PRECISIONS:
        scaler = make_scaler(Compute(CPU, precision, 1))
        assert scaler.is_enabled() == (precision == "fp16")
        require_scale(scaler, 0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("sgd", ""), ("adamw", ""), ("adam", ""), ("rmsprop", "fp16 with the optimizer rmsprop reads from the GPU")],
)
def test_fp16_step_is_captured_if_the_optimizer_skips_updates_on_the_gpu(name: str, reason: str) -> None:
    run = run_of("baseline", student=recipe(optimizer=Optimizer.from_text(name)))
    found = why_not_graph(run, Compute(GPU, "fp16", 1), 1)
    assert found.startswith(reason) and bool(found) == bool(reason)
    assert not why_not_graph(run, Compute(GPU, "bf16", 1), 1)


def test_log_has_the_reason_why_auto_became_fp16() -> None:
    shown = {asked: training_of(run_of("baseline", student=recipe(precision=asked))) for asked in ("auto", "fp16")}
    assert shown["auto"].description == "fp16, 1 thread (auto: this GPU has no bf16)"
    assert shown["fp16"].description == "fp16, 1 thread"
