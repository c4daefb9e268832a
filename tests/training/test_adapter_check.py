"""The check before training builds an adapter from the same inputs as the run, so it refuses what would fail later."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe, run_of, teacher_of, train
from torch import Tensor, nn
from user_network import UserNet

from raykd.errors import ConfigError
from raykd.methods import Method
from raykd.methods.method import Need
from raykd.models import Model
from raykd.models.custom_network import Network
from raykd.models.vit_cifar import ViT
from raykd.outputs import Outputs, Targets
from raykd.spec.plan import Run, make_plan
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute
from raykd.training.group import Group
from raykd.training.network_checks import NetworkChecks
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import choose_teacher
from raykd.training.teacher.fill import Filler
from raykd.training.teacher.load import load_cached_teacher
from raykd.training.teacher.sources import LiveTeacher, Teacher
from raykd.training.training_step import make_train_state

SEEN: list[tuple[Outputs, Outputs, Targets]] = []


@dataclass(frozen=True)
class Notes(Method):
    """Notes what its adapter is made of."""

    kind: ClassVar[str] = "own_notes"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "embedding"})

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": 1.0, "gap": 1.0}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        SEEN.append((student, teacher, images))
        return nn.Linear(student.logits.shape[1], teacher.logits.shape[1])

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        assert adapter is not None
        return {"gap": (adapter(student.logits) - teacher.logits).abs().mean()}


@dataclass(frozen=True)
class Scaled(Notes):
    """Initialized with the distance of both models' outputs."""

    kind: ClassVar[str] = "own_scaled"

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        adapter = nn.Linear(student.logits.shape[1], teacher.logits.shape[1])
        adapter.bias.data += (student.logits - teacher.logits).mean(0)
        return adapter


@dataclass(frozen=True)
class FromMaps(Notes):
    """Sized by a map of the student's, which a ResNet gives unasked."""

    kind: ClassVar[str] = "own_from_maps"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        assert student.features[1].shape[1] == 16
        return nn.Linear(student.logits.shape[1], teacher.logits.shape[1])


@dataclass(frozen=True)
class Undeclared(Notes):
    """Reads an output that it does not declare in `needs`."""

    kind: ClassVar[str] = "own_undeclared"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        assert student.embedding is not None
        return nn.Linear(student.embedding.shape[1], teacher.embedding.shape[1])  # type: ignore[union-attr]


@dataclass(frozen=True)
class Maps(Notes):
    """Has no adapter, and needs maps."""

    kind: ClassVar[str] = "own_maps"
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})
    adapter = Method.adapter


@dataclass(frozen=True)
class MapsOfStudent(Notes):
    """Compares the student's last map with the teacher's logits."""

    kind: ClassVar[str] = "own_maps_of_student"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    student_needs: ClassVar[frozenset[Need] | None] = frozenset({"features"})

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        return nn.Linear(student.features[-1].shape[1], teacher.logits.shape[1])

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        assert adapter is not None and not teacher.features
        return {"gap": (adapter(student.features[-1].mean((2, 3))) - teacher.logits).abs().mean()}


@dataclass(frozen=True)
class MapsOfTeacher(MapsOfStudent):
    """Reads a map of the teacher's that it does not declare."""

    kind: ClassVar[str] = "own_maps_of_teacher"

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        return {"gap": student.logits.mean() - teacher.features[-1].mean()}


VIT = ViT(depth=2, width=24, heads=2, patch=2)


def from_cache(run: Run, caches: Path) -> Teacher:
    live = teacher_of(run)
    assert isinstance(live, LiveTeacher)
    plan = make_plan(experiment(method=run.method, teacher_source="cache"), digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), caches, [RunFolder(caches)])
    assert found is not None and found.cache is not None
    cache = LogitCache(caches, found.cache.key(digits(), ""))
    Filler(found.cache, digits(), cache, live.model, choose_compute(CPU, "fp32")).fill(0)
    return load_cached_teacher(run, digits(), cache, CPU)


def shapes(outputs: Outputs) -> list[tuple[int, ...]]:
    embedding = () if outputs.embedding is None else (outputs.embedding,)
    return [tuple(tensor.shape) for tensor in (outputs.logits, *embedding, *outputs.features)]


@pytest.mark.parametrize("batch", [50, 4])
def test_check_live_training_cache_and_a_workers_share_show_it_the_same_shapes(batch: int, tmp_path: Path) -> None:
    run = run_of("distilled", method=Notes(), student=recipe(batch_size=batch))
    compute, worker = choose_compute(CPU, "fp32"), Group(3, 4)
    SEEN.clear()
    NetworkChecks(digits()).require_method_fits(run)
    make_train_state(run, digits(), compute, teacher_of(run))
    make_train_state(run, digits(), compute, from_cache(run, tmp_path))
    if batch == 4:  # one image a worker
        make_train_state(run, digits(), compute, teacher_of(run), worker)
    first, *others = SEEN
    assert shapes(first[1]) == [(2, 10), (2, 128)]
    for student, teacher, images in others:
        assert (shapes(student), shapes(teacher)) == (shapes(first[0]), shapes(first[1]))
        assert all(torch.equal(one, other) for one, other in zip(images[:2], first[2][:2], strict=True))
        assert len(images.index) == 200, "those that it trains on"
        assert {tensor.device.type for tensor in (*student[:2], *teacher[:2], *images[:2])} == {"cpu"}


@pytest.mark.parametrize("method", [Scaled(), FromMaps()], ids=lambda method: method.kind)
def test_adapter_that_depends_on_its_inputs_is_trained(method: Method, tmp_path: Path) -> None:
    run = run_of("distilled", method=method)
    NetworkChecks(digits()).require_method_fits(run)
    assert len(train(run, RunFolder(tmp_path / "run"))) == 3


@pytest.mark.parametrize("is_cached", [False, True], ids=["live", "cached"])
@pytest.mark.parametrize("model", [recipe().model, VIT], ids=["resnet", "vit"])
def test_a_method_reads_the_students_maps_and_the_teachers_logits(
    model: Model, is_cached: bool, tmp_path: Path
) -> None:
    run = run_of("distilled", method=MapsOfStudent(), student=recipe(model=model, epochs=1), teacher=recipe(model=VIT))
    NetworkChecks(digits()).require_method_fits(run)
    teacher = from_cache(run, tmp_path) if is_cached else teacher_of(run)
    (report,) = train(run, RunFolder(tmp_path / "run"), teacher)
    assert report.terms["gap"] > 0
    if isinstance(teacher, LiveTeacher):
        assert not teacher.model.with_features, "maps of a ViT take memory"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            run_of("distilled", method=Undeclared()),
            r"method = Undeclared: its adapter fails at line \d+ with AttributeError: 'NoneType'.*; it receives the "
            r"outputs in `needs`: logits; list others of the student in `student_needs`$",
        ),
        (
            run_of("distilled", method=FromMaps(), student=recipe(model=VIT)),
            r"method = FromMaps: its adapter fails at line \d+ with IndexError: tuple index out of range; it receives "
            r"the outputs in `needs`: logits; list others of the student in `student_needs`$",
        ),
        (
            run_of("distilled", method=MapsOfTeacher()),
            r"method = MapsOfTeacher: its terms\(\) fails at line \d+ with IndexError: .*; it receives the teacher's "
            r"outputs in `needs`: logits, and the student's in `student_needs`: features$",
        ),
        (
            run_of("distilled", method=MapsOfStudent(), student=recipe(model=Network(UserNet))),
            r"method = MapsOfStudent: requires feature maps of the student, and student.model.features is not set; --",
        ),
        (
            run_of("distilled", method=Maps(), teacher=recipe(model=ViT(depth=1, width=24, heads=2, patch=2))),
            r"method = Maps: the teacher's model returns no feature maps; use one that does, such as a ResNet",
        ),
    ],
)
def test_methods_that_would_fail_later_are_refused_in_one_line(
    run: Run, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.models.timm_model.feature_stages", lambda network: [])
    with pytest.raises(ConfigError, match=words) as caught:
        NetworkChecks(digits()).require_method_fits(run)
    assert "\n" not in str(caught.value)


def test_each_network_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    from raykd.training import network_checks

    build = network_checks.make_model
    monkeypatch.setattr(
        network_checks, "make_model", lambda run, dataset: (made.append(run.stage), build(run, dataset))[1]
    )
    plan, asked = make_plan(experiment(method=Notes(), seeds=(0, 1)), digits(), NO_WEIGHTS), NetworkChecks(digits())
    for run in plan.runs:
        asked.outputs_of(run)
    asked.require_method_fits(plan.runs[-1])
    assert made == ["teacher", "baseline"]
