"""Tests of several workers on one run: the same steps as one worker, exact resume, files written by the first."""

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import group_stories
import pytest
import torch
from group_stories import RUNS, train
from safetensors.torch import load_file
from several_processes import end, start
from small_runs import CPU, curve, digits, run_of
from torch import Tensor

from raykd.errors import ConfigError, RunFailed
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute, is_mig_instance
from raykd.training.determinism import step_seeds
from raykd.training.evaluate import evaluate
from raykd.training.group import SINGLE_WORKER, Group, require_separate_gpus
from raykd.training.model_file import load_model
from raykd.training.train_one import train_one
from raykd.training.training_step import validation_of


@dataclass(frozen=True)
class OnNodes(Group):
    """A worker of which the others report these numbers, of a node and of a GPU. Messages go nowhere."""

    others: tuple[tuple[int, int], ...] = ()

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.stack([tensor, *(torch.tensor(numbers) for numbers in self.others)])


@pytest.mark.parametrize(
    ("is_mig", "size", "others", "refused"),
    [
        (True, 2, ("here",), True),
        (True, 3, ("there", "there"), True),
        (True, 2, ("there",), False),  # an instance each on two nodes
        (True, 1, (), False),
        (False, 2, (None,), False),  # whole GPUs, or CPUs
        (False, 3, (None, "there"), False),
    ],
)
def test_several_workers_on_mig_instances_of_one_node_are_refused_before_training(
    is_mig: bool, size: int, others: tuple[str | None, ...], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.training.group.is_mig_instance", lambda device: is_mig)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    nodes = tuple(zlib.crc32(node.encode()) if node else 0 for node in others)
    group = OnNodes(0, size, others=tuple((node, 0) for node in nodes))
    if refused:
        with pytest.raises(ConfigError, match=f"^workers.count = {size}: .* MIG instances .*; set workers.count=1, or"):
            require_separate_gpus(group, CPU)
    else:
        require_separate_gpus(group, CPU)


@pytest.mark.parametrize(
    ("other", "refused"), [("here a1", True), ("here b2", False), ("there a1", False), ("", False)]
)
def test_two_workers_of_a_run_on_one_gpu_are_refused(
    other: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would start workers like this if it made the same GPU the current one of both."""
    monkeypatch.setattr("raykd.training.group.is_mig_instance", lambda device: False)
    monkeypatch.setattr("raykd.training.group.gpu_uuid", lambda device: "a1")
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    group = OnNodes(1, 2, others=((0, zlib.crc32(other.encode()) if other else 0),))
    if refused:
        with pytest.raises(ConfigError, match=r"^workers\.count = 2: two workers .* worker 1 has cuda:0 of here; set"):
            require_separate_gpus(group, torch.device("cuda", 0))
    else:
        require_separate_gpus(group, torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("device", "visible", "name", "is_mig"),
    [
        ("cpu", "MIG-1", "", False),
        ("cuda", "MIG-1", "NVIDIA H100", True),
        ("cuda", "0", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", True),
        ("cuda", "0", "NVIDIA H100 80GB HBM3", False),
    ],
)
def test_a_mig_instance_is_recognized(
    device: str, visible: str, name: str, is_mig: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert is_mig_instance(torch.device(device)) is is_mig


def test_workers_that_cannot_train_are_refused_before_anything_is_written(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.training.group.is_mig_instance", lambda device: True)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    group = OnNodes(0, 2, others=((zlib.crc32(b"here"), 0),))
    store = RunStore(run_folder.path.parent)
    with pytest.raises(ConfigError, match="MIG instances"):
        train_one(run_of("baseline"), run_folder, digits(), CPU, store, None, group=group)
    assert not run_folder.path.exists()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two workers have left their runs."""
    folder = tmp_path_factory.mktemp("two")
    end(start(Path(group_stories.__file__), folder))
    return folder


def reports(folder: Path, name: str, rank: int) -> list[Any]:
    return [json.loads(line) for line in (folder / f"reports-{name}-{rank}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "name",
    [
        "vit",
        "adapter",
        "augmented",
        "averaged, accumulated, balanced",
        "memory",
        "temperature by progress",
        "without labels",
        "resnet, batch norm over all",
    ],
)
def test_two_workers_take_the_steps_of_one(name: str, together: Path, tmp_path: Path) -> None:
    one, two = RunFolder(tmp_path / name), RunFolder(together / name)
    train(name, one, SINGLE_WORKER)
    assert len(curve(one)) == len(curve(two)) == RUNS[name].recipe.epochs
    # The neighbors of embeddings that are almost equal, after so few steps, change with the last bits.
    left_out = ("val_top1", "val_loss") if name == "without labels" else ()
    for alone, shared in zip(curve(one), curve(two), strict=True):
        expected = {column: value for column, value in alone.items() if column not in left_out}
        found = {column: value for column, value in shared.items() if column not in left_out}
        assert found == pytest.approx(expected, rel=1e-4, nan_ok=True)
    ours, theirs = load_file(two.checkpoint), load_file(one.checkpoint)
    for weight in (weight for weight in theirs if weight.startswith("objective.")):
        torch.testing.assert_close(ours[weight], theirs[weight], rtol=1e-3, atol=1e-5)


def test_all_workers_receive_the_same_reports(together: Path) -> None:
    for name in RUNS:
        assert reports(together, name, 0) == reports(together, name, 1) != []


def test_the_first_worker_stops_all_at_one_step(together: Path) -> None:
    messages = [json.loads((together / f"done-{rank}.json").read_text())["messages"] for rank in (0, 1)]
    assert messages[0] == messages[1] == ["stopped after epoch 1, step 1; rerun the same command to resume"] * 3


@pytest.mark.parametrize("name", ["resnet", "memory"])
def test_interrupted_run_of_two_workers_ends_with_the_same_bits(name: str, together: Path) -> None:
    cut, straight = RunFolder(together / f"{name}-cut"), RunFolder(together / name)
    assert cut.require_record().resumes == 1 and straight.require_record().resumes == 0
    assert cut.best.read_bytes() == straight.best.read_bytes()
    assert curve(cut) == curve(straight)
    ours, theirs = load_file(cut.checkpoint), load_file(straight.checkpoint)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_workers_that_agree_every_16_steps_stop_after_one_step_and_resume_to_the_same_bits(together: Path) -> None:
    found = [json.loads((together / f"done-{rank}.json").read_text())["rarely"] for rank in (0, 1)]
    assert found == ["stopped after epoch 4, step 1; rerun the same command to resume"] * 2
    cut, straight = RunFolder(together / "six-epochs-cut"), RunFolder(together / "six epochs")
    assert curve(cut) == curve(straight) and cut.best.read_bytes() == straight.best.read_bytes()
    ours, theirs = load_file(cut.checkpoint), load_file(straight.checkpoint)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["resnet", "resnet, averaged"])
def test_validation_is_of_the_weights_and_statistics_that_are_saved(name: str, together: Path) -> None:
    folder, run = RunFolder(together / name), RUNS[name]
    found = evaluate(load_model(folder.best), validation_of(run.data, digits(), CPU), choose_compute(CPU, "fp32"))
    best = folder.require_record().best
    assert found.top1 == best.val_top1
    assert found.nll == pytest.approx(folder.history()[best.epoch]["val_loss"], rel=1e-6)


def test_workers_draw_different_dropout() -> None:
    first, second = (step_seeds(seed=0, epoch=1, steps=100, rank=rank) for rank in (0, 1))
    assert first == step_seeds(0, 1, 100) and not set(first) & set(second)


def test_record_has_the_number_of_workers(together: Path) -> None:
    assert RunFolder(together / "vit").require_record().compute.workers == (2,)


def test_run_resumes_with_another_number_of_workers_only_if_allowed(together: Path, tmp_path: Path) -> None:
    half = RunFolder(together / "vit-cut")
    with pytest.raises(
        RunFailed,
        match=r"partly trained by 2 .* resume with 1; .*--set workers\.count=2 to resume, or",
    ):
        train("vit", half, SINGLE_WORKER)
    train("vit", half, replace(SINGLE_WORKER, may_shrink=True))
    assert half.require_record().compute.workers == (2, 1)
    assert half.require_record().compute.per_worker is not None, "what two workers did stays in the result"
    for ours, theirs in zip(curve(half), curve(RunFolder(together / "vit")), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4), "the epoch's sums went with it"


def test_a_batch_that_does_not_divide_equally_uses_fewer_workers(together: Path) -> None:
    found = [json.loads((together / f"done-{rank}.json").read_text()) for rank in (0, 1)]
    assert [story["odd"] for story in found] == [[1, True], [1, False]]
    assert [story["even"] for story in found] == [2, 2]


def test_worker_with_another_teacher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from raykd.training import loop
    from raykd.training.teacher.sources import LiveTeacher

    second = Group(rank=1, size=2)
    monkeypatch.setattr(Group, "on_first", lambda self, make: "a" * 64)
    teacher = LiveTeacher(torch.nn.Identity(), "b" * 64)  # type: ignore[arg-type]
    with pytest.raises(RunFailed, match="worker 1 has another teacher than worker 0"):
        loop._require_one_teacher(teacher, second)
