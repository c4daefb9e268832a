"""Runs on images on disk: resumed to the same bits, equal to runs in memory, and with the time that they waited."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import pytest
from pack_of_images import all_end, loader_threads
from packed_runs import CASES, NUM_TRAIN, in_memory, make_pack, on_disk, run_of_case, train
from resume_cases import Kill, arm, outcome
from small_runs import CPU, recipe

from raykd import models
from raykd.data.packs.images import PackedImages
from raykd.errors import DataError, Interrupted
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute, why_not_graph
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.group import SINGLE_WORKER
from raykd.training.model_file import images_of
from raykd.training.probe import VotingModel, bank_of, evaluate_neighbors, fit_probe
from raykd.training.teacher.import_check import check_import
from raykd.training.training_step import validation_of


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def whole(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Outcomes of uninterrupted runs, each trained once."""
    known: dict[str, dict[str, Any]] = {}

    def get(case: str) -> dict[str, Any]:
        if case not in known:
            folder = tmp_path_factory.mktemp("whole") / "run"
            train(case, on_disk(pack, case), folder)
            known[case] = outcome(folder)
        return known[case]

    return get


@pytest.mark.parametrize("case", CASES)
def test_run_on_disk_stopped_at_any_step_ends_with_the_same_bits(
    case: str, pack: Path, whole: Any, tmp_path: Path
) -> None:
    """Each start has another number of loader threads and decodes ahead from another step."""
    for loaders, steps in ((1, 2), (5, 2), (2, 1), (3, 3)):
        left = iter([False] * (steps - 1) + [True])
        with pytest.raises(Interrupted, match=r"rerun the same command to resume"):
            train(case, on_disk(pack, case, loaders), tmp_path, should_stop=lambda left=left: next(left))
    train(case, on_disk(pack, case), tmp_path)
    assert outcome(tmp_path) == whole(case)


@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES)
def test_killed_run_on_disk_ends_with_the_same_bits(case: str, pack: Path, whole: Any, tmp_path: Path) -> None:
    for kill in (Kill("after a step", 2), Kill("before a checkpoint", 4), Kill("before validation", 1)):
        assert children.wait(children.start(_train_and_die, case, pack, tmp_path, kill)) == -9
    train(case, on_disk(pack, case), tmp_path)
    assert outcome(tmp_path) == whole(case)


def _train_and_die(case: str, pack: Path, folder: Path, kill: Kill) -> None:
    arm(kill)
    train(case, on_disk(pack, case), folder, checkpoint_every_s=0)


@pytest.mark.parametrize("loaders", [1, 5])
def test_the_number_of_loader_threads_changes_no_bit(loaders: int, pack: Path, whole: Any, tmp_path: Path) -> None:
    case = "endless crops, augmented"
    train(case, on_disk(pack, case, loaders), tmp_path)
    assert outcome(tmp_path) == whole(case)


def test_padded_views_train_to_the_same_bits_on_disk_and_in_memory(pack: Path, whole: Any, tmp_path: Path) -> None:
    dataset = in_memory(pack)
    assert dataset.identity == on_disk(pack, "padded squares").identity
    train("padded squares", dataset, tmp_path)
    assert outcome(tmp_path) == whole("padded squares")


def test_test_metrics_are_the_same_on_disk_and_in_memory(pack: Path, tmp_path: Path) -> None:
    case, results = "padded squares", {}
    for name, dataset in (("disk", on_disk(pack, "padded squares")), ("memory", in_memory(pack))):
        folder = tmp_path / name
        train(case, dataset, folder)
        evaluate_on_test(run_of_case(case, dataset), RunFolder(folder), dataset, choose_compute(CPU, "fp32"))
        results[name] = [(folder / file).read_text(encoding="utf-8") for file in ("val.json", "test.json")]
    assert results["disk"] == results["memory"]


def test_validation_images_on_disk_are_not_decoded_before_they_are_evaluated(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, data = on_disk(pack, "padded squares"), CASES["padded squares"]["data"]
    monkeypatch.setattr(PackedImages, "_square", lambda *_: pytest.fail("decoded an image"))
    for rank in range(2):
        group = replace(SINGLE_WORKER, rank=rank, size=2)
        assert len(validation_of(data, dataset, CPU, group)) == 6
    assert len(bank_of(data, dataset, CPU).images) == NUM_TRAIN - 12


def test_probe_neighbors_and_import_check_are_the_same_on_disk_and_in_memory(pack: Path) -> None:
    data, compute = CASES["padded squares"]["data"], choose_compute(CPU, "fp32")
    results: list[list[object]] = []
    for dataset in (on_disk(pack, "padded squares"), in_memory(pack)):
        model = models.build(recipe().model, images_of(dataset), seed=0)
        model.request({"embedding"})
        probe = fit_probe(model, data, dataset, compute)
        val = validation_of(data, dataset, CPU)
        neighbors = evaluate_neighbors(model, bank_of(data, dataset, CPU), val, compute)
        results.append([probe.penalty, probe.neighbors_top1(dataset.test, compute), neighbors])
        voting = VotingModel(model, bank_of(data, dataset, CPU), compute)
        results[-1].append(check_import(voting, data, dataset, compute, has_votes=True))
    assert results[0] == results[1]


def test_the_wait_for_images_on_disk_is_reported_and_recorded(pack: Path, tmp_path: Path) -> None:
    reports = train("endless crops", on_disk(pack, "endless crops"), tmp_path / "disk")
    assert all(report.data_wait is not None and 0 < report.data_wait <= 1 for report in reports)
    recorded = RunFolder(tmp_path / "disk").require_record().data_wait
    assert recorded is not None and 0 < recorded <= 1
    reports = train("padded squares", in_memory(pack), tmp_path / "memory")
    assert {report.data_wait for report in reports} == {None}
    assert RunFolder(tmp_path / "memory").require_record().data_wait is None


def test_a_step_with_images_on_disk_is_no_cuda_graph(pack: Path) -> None:
    run = run_of_case("endless crops", on_disk(pack, "endless crops"))
    gpu = choose_compute(CPU, "fp32")
    gpu = type(gpu)(type(CPU)("cuda"), "fp32", 1)
    assert why_not_graph(run, gpu, 1, True) == "images on disk are decoded by the CPU"
    assert why_not_graph(run, gpu, 1, False) == ""


def test_a_damaged_row_fails_the_run_and_names_the_row(tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "pack")
    shard = pack / "train-00002.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00002.arrow: row \d does not match its checksum"):
        train("endless crops", on_disk(pack, "endless crops"), tmp_path / "run")
    record = RunFolder(tmp_path / "run").require_record()
    assert record.status == "failed" and "does not match its checksum" in str(record.reason)


def test_an_ended_run_leaves_no_thread(pack: Path, tmp_path: Path) -> None:
    before, dataset = loader_threads(), on_disk(pack, "endless crops", loaders=3)
    train("endless crops", dataset, tmp_path)
    mine = loader_threads() - before
    assert len(mine) == 3
    del dataset
    assert all_end(mine)
