"""Tests of precision and threads: chosen by the hardware, recorded, kept on resume."""

import resource
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import pytest
import torch
from small_runs import CPU, digits, recipe, run_of, teacher_of, train
from torch._dynamo.testing import CompileCounter

from raykd.errors import ConfigError, Interrupted, RejectedConfiguration
from raykd.methods import KD
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training import compute
from raykd.training.compute import GLIBC_DEFAULT, KEEP_MEMORY, choose_compute, note_on_precision, set_malloc
from raykd.training.group import SINGLE_WORKER
from raykd.training.run_record import _compute_record
from raykd.training.teacher.sources import no_teacher
from raykd.training.train_one import train_one

NAMED = ["fp32", "tf32", "bf16", "fp16"]


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("fpu avx2 avx512f avx512_bf16", "bf16"),
        ("fpu amx_bf16", "bf16"),
        ("fp asimd bf16", "bf16"),
        ("fpu avx2 avx512f", "fp32"),
        ("", "fp32"),
    ],
)
def test_auto_is_bf16_where_the_cpu_has_it(flags: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_cpu_flags", lambda: frozenset(flags.split()))
    assert choose_compute(CPU, "auto").precision == precision
    assert [choose_compute(CPU, asked).precision for asked in NAMED] == NAMED


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")],
)
def test_auto_is_bf16_from_ampere_on_and_fp16_on_older_gpus_with_tensor_cores(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_compute(torch.device("cuda"), "auto").precision == precision


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized\nmore"),
            "Error 802",
        ),
        (AssertionError("Torch not compiled with CUDA enabled"), "not compiled with CUDA"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_one_line_with_cudas_reason(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(ConfigError, match=rf"the GPU that this run was assigned \(.*{reason}.*\); install") as raised:
        compute.device_for(1.0)
    assert "\n" not in str(raised.value) and "--set workers.gpus=0" in str(raised.value)
    assert compute.device_for(0) == CPU


def test_a_gpu_that_torch_has_no_code_for_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "compute_90"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100-SXM2-16GB")
    with pytest.raises(
        ConfigError, match=r"the Tesla V100-SXM2-16GB \(sm_70\).* 'TORCH=torch<2.11' \(see docs/cluster.md"
    ):
        compute.device_for(1.0)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_80"])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert compute.device_for(0.5) == torch.device("cuda", 2), "of the GPUs that a worker of several sees"
    assert compute.device_for(0) == CPU


@pytest.mark.parametrize(("architectures", "kind"), [(["sm_75", "sm_80"], "cpu"), (["sm_70"], "cuda")])
def test_a_report_evaluates_on_the_cpu_if_torch_has_no_code_for_the_gpu(
    architectures: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login node may have an old GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    assert compute.best_device().type == kind


def test_run_json_has_the_kind_of_device_without_the_number_of_its_gpu() -> None:
    on_third = replace(choose_compute(CPU, "fp32"), device=torch.device("cuda", 2))
    assert _compute_record(run_of("baseline"), on_third, digits(), SINGLE_WORKER, no_teacher, None).device == "cuda"


def test_resumed_run_keeps_its_precision_and_says_if_it_is_emulated(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("baseline", student=recipe(precision="auto"))
    monkeypatch.setattr(compute, "has_bf16", lambda device: True)
    with pytest.raises(Interrupted):
        train(run, run_folder, should_stop=lambda: True)
    monkeypatch.setattr(compute, "has_bf16", lambda device: False)
    reports = train(run, run_folder)
    assert run_folder.require_record().compute.precision == "bf16"
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    assert reports[0].compute == f"bf16, {threads} (slow: this CPU has no bf16 and emulates it)"
    monkeypatch.setattr(compute, "has_bf16", lambda device: True)
    assert not note_on_precision(choose_compute(CPU, "bf16"), "auto")


def test_bf16_changes_the_result_and_auto_records_the_precision(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {}
    for native in (True, False):
        monkeypatch.setattr(compute, "has_bf16", lambda device, native=native: native)
        folder = RunFolder(tmp_path / str(native))
        losses[native] = train(run_of("baseline", student=recipe(precision="auto")), folder)[-1].terms["ce"]
        assert folder.require_record().compute.precision == ("bf16" if native else "fp32")
    assert losses[True] != losses[False] and losses[True] == pytest.approx(losses[False], rel=0.05)


def page_faults(settings: dict[int, int]) -> int:
    """Count the page faults of ten steps that allocate and free tensors of 64 MB, like a convolution's activations."""
    set_malloc(settings)

    def step() -> None:
        for _ in range(2):
            torch.ones(16 << 20)

    for _ in range(3):  # until the heap is large enough for what else the process allocates
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.nightly
def test_kept_memory_is_not_cleared_by_the_kernel_again() -> None:
    pages = 64 * 2**20 // resource.getpagesize()
    with children.context().Pool(1, maxtasksperchild=1) as pool:
        kept, given_back = (pool.apply(page_faults, (settings,)) for settings in (KEEP_MEMORY, GLIBC_DEFAULT))
    assert kept < 2 * pages and given_back > 10 * pages


def losses(folder: RunFolder, compiled: bool) -> list[dict[str, float]]:
    return [report.terms for report in train(run_of("distilled", student=recipe(compile=compiled)), folder)]


def assert_compiled_is_the_same(tmp_path: Path) -> None:
    eager, compiled = losses(RunFolder(tmp_path / "eager"), False), losses(RunFolder(tmp_path / "compiled"), True)
    assert compiled == [pytest.approx(terms, rel=1e-3) for terms in eager]
    assert RunFolder(tmp_path / "compiled").require_record().compute.compiled


@pytest.mark.nightly
def test_compiled_run_has_the_losses_of_an_eager_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph and its gradients as torch.compile captures them, without the minute that its code generator takes."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend="aot_eager"))
    assert_compiled_is_the_same(tmp_path)


@pytest.mark.nightly
def test_every_run_of_a_process_is_compiled_however_many_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dynamo compiles a function for eight modules, and runs it uncompiled for the ninth, without a word."""
    compile_, counter = torch.compile, CompileCounter()
    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend=counter))
    counts = []
    for number in range(10):
        before = counter.frame_count
        train(run_of("baseline", student=recipe(compile=True, epochs=1)), RunFolder(tmp_path / f"{number}"))
        counts.append(counter.frame_count - before)
    assert min(counts) > 0, counts


@pytest.mark.nightly
def test_a_compiled_run_fails_where_torch_would_go_on_uncompiled(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that does other work in each step is compiled anew until Dynamo's limit."""
    compile_, counter, terms, steps = torch.compile, CompileCounter(), KD.terms, {"count": 0}

    def varying(*arguments: Any) -> dict[str, torch.Tensor]:
        steps["count"] += 1
        return {name: term * steps["count"] for name, term in terms(*arguments).items()}

    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend=counter))
    monkeypatch.setattr(KD, "terms", varying)
    run = run_of("distilled", student=recipe(compile=True))
    store, line = RunStore(run_folder.path.parent), r"^student\.compile = true: .* set student\.compile=false$"
    monkeypatch.setattr("raykd.training.train_one.load_teacher", lambda run, *_: teacher_of(run))
    with torch._dynamo.config.patch(recompile_limit=2), pytest.raises(RejectedConfiguration, match=line) as raised:
        train_one(run, run_folder, digits(), CPU, store, None)
    assert counter.frame_count == 2
    record = run_folder.require_record()
    assert (record.status, record.reason, record.failure) == ("failed", str(raised.value), "rejected")


@pytest.mark.soak
def test_run_compiled_to_code_has_the_losses_of_an_eager_one(tmp_path: Path) -> None:
    assert_compiled_is_the_same(tmp_path)


def test_releasing_memory_frees_cycles_first_and_replaces_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed capture, torch's empty_cache raises an internal error."""
    cycle = [torch.zeros(1)]
    cycle.append(cycle)  # type: ignore[arg-type]
    tensor, alive = weakref.ref(cycle[0]), []
    del cycle

    def empty_cache() -> None:
        alive.append(tensor() is not None)
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    compute.release_memory()
    assert alive == [False]


def test_attention_on_a_gpu_does_not_use_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        compute.configure_process(CPU)
        assert torch.backends.cuda.cudnn_sdp_enabled()
        compute.configure_process(torch.device("cuda"))
        assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
