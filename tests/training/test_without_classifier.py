"""Teachers without a classifier, and students that learn from them, with and without labels."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from nightly import nightly_except
from small_runs import CPU, IMAGE_SIZE, NO_WEIGHTS, digits, experiment, recipe, train
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from user_network import NoiseTower, UserNet, UserTower

from raykd import models
from raykd.config import kinds
from raykd.config.codec import read_record
from raykd.errors import ConfigError, Interrupted
from raykd.methods import CRD, KD, RKD, EmbeddingRegression, FitNets, Method
from raykd.models.custom_network import Network
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm
from raykd.outputs import Outputs, Targets
from raykd.report.build import build
from raykd.report.render.terminal import render_text
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Run, make_plan
from raykd.spec.search import Choice, Search
from raykd.store.records import Metrics
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training import latency, probe
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.loop import fit
from raykd.training.model_file import images_of, load_model
from raykd.training.network_checks import NetworkChecks
from raykd.training.probe import PENALTIES, Neighbors, Standardized, _minimize, bank_of, evaluate_neighbors, fit_probe
from raykd.training.teacher.import_check import describe_import
from raykd.training.teacher.imported import load_imported_teacher
from raykd.training.teacher.load import load_live_teacher
from raykd.training.training_step import make_model, make_train_state, validation_of

TOWER = ResNet((1, 1, 1, 1), 16, classifier=False)
WITHOUT_LABELS = EmbeddingRegression(ce_weight=0.0)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that was trained on the digits for some epochs, as another user would publish them."""
    folder = tmp_path_factory.mktemp("tower")
    trained = replace(experiment().teacher, epochs=10)
    run = next(run for run in make_plan(experiment(teacher=trained), digits(), NO_WEIGHTS).runs)
    train(run, RunFolder(folder / "run"))
    network = load_model(RunFolder(folder / "run").best).network
    torch.save({"model": network.state_dict()}, folder / "tower.pth")
    return folder / "tower.pth"


def embedding_teacher(file: Path, **changes: object) -> Experiment:
    model = replace(TOWER, weights=str(file))
    return experiment(teacher=recipe(model=model), **({"method": WITHOUT_LABELS} | changes))


def without_head(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network with a classifier for `network`, which has none."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    return {name: state[name][: shape[0]] if shape else state[name] for name, shape in shapes.items()}


def train_all(planned: Experiment, folder: Path) -> tuple[RunStore, tuple[Run, ...]]:
    """Train and evaluate every run of the plan, without Ray."""
    store, plan = RunStore(folder), make_plan(planned, digits(), NO_WEIGHTS)
    store.write_plan(plan)
    for run in plan.runs:
        teacher = load_live_teacher([store.folder(run.teacher)], CPU) if run.teacher else None
        train(run, store.folder(run), teacher)
        evaluate_on_test(run, store.folder(run), digits(), choose_compute(CPU, "fp32"))
    return store, plan.runs


def weights_of(folder: RunFolder) -> dict[str, Tensor]:
    return load_model(folder.best).network.state_dict()


def test_students_without_labels_are_measured_by_a_probe_and_the_report_names_it(
    tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "THROUGHPUT", replace(latency.THROUGHPUT, batch_size=16, most=3))
    store, runs = train_all(embedding_teacher(tower, student=recipe(epochs=6)), tmp_path)
    test = {run.stage: read_record(Metrics, store.folder(run).test) for run in runs}
    teacher, baseline, distilled = test["teacher"], test["baseline"], test["distilled"]
    assert teacher is not None and baseline is not None and distilled is not None
    assert teacher.knn_top1 is not None and teacher.top1 > 80 and teacher.knn_top1 > 80
    assert distilled.knn_top1 is not None and distilled.top1 > 40, "chance is 10 %"
    assert distilled.probe_penalty in PENALTIES and baseline.knn_top1 is baseline.probe_penalty is None
    assert distilled.agreement is None and distilled.teacher_kl is None, "the teacher predicts nothing to agree with"
    text = " ".join(render_text(build(tmp_path), in_full=True).split())
    assert "no classifier: all metrics of teacher and distilled are those of a linear probe on the embedding" in text
    assert f"{distilled.knn_top1:.2f}" in text and "k-NN top-1 (%)" in text
    assert "gain: none between a linear probe (distilled) and a classifier (baseline)" in text


def test_training_without_labels_does_not_read_them(tower: Path, tmp_path: Path) -> None:
    run = make_plan(embedding_teacher(tower), digits(), NO_WEIGHTS).runs[-1]
    teacher = load_live_teacher([imported(run, tmp_path / "teacher")], CPU)
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher)
    batch = next(training.loader.epoch(0))
    assert batch.labels.tolist() == [0] * len(batch.labels)
    assert set(training.step(batch, training.term_weights(0))) == {"embedding", "loss"}


def imported(run: Run, folder: Path) -> RunFolder:
    assert run.teacher is not None
    if not RunFolder(folder).best.is_file():
        fit(run.teacher, digits(), RunFolder(folder), CPU)
    return RunFolder(folder)


@pytest.mark.parametrize(
    "method", nightly_except([WITHOUT_LABELS], [WITHOUT_LABELS, FitNets(ce_weight=0.0, stages=(-1,))]), ids=str
)
def test_an_interrupted_run_without_labels_ends_with_the_same_bits(method: Method, tower: Path, tmp_path: Path) -> None:
    run = make_plan(embedding_teacher(tower, method=method), digits(), NO_WEIGHTS).runs[-1]
    teacher = load_live_teacher([imported(run, tmp_path / "teacher")], CPU)
    whole, cut, steps = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut"), iter(range(100))
    train(run, whole, teacher)
    with pytest.raises(Interrupted):
        train(run, cut, teacher, should_stop=lambda: next(steps) == 5)
    train(run, cut, teacher)
    ours, theirs = weights_of(cut), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [row["val_top1"] for row in cut.history()] == [row["val_top1"] for row in whole.history()]


def test_a_student_with_labels_keeps_its_classifier(tower: Path) -> None:
    planned = embedding_teacher(tower, method=EmbeddingRegression(ce_weight=0.5))
    student = make_plan(planned, digits(), NO_WEIGHTS).runs[-1]
    assert student.model.classifier and student.model == planned.student.model
    without = make_plan(embedding_teacher(tower), digits(), NO_WEIGHTS).runs[-1]
    assert not without.model.classifier and without.name != student.name


def test_only_methods_that_read_no_logits_accept_a_teacher_without_a_classifier(tower: Path) -> None:
    accepted = "embedding, rkd, pkt, cc, crd, fitnets, at, sp, nst, vid, reviewkd"
    for method in (KD(), RKD(kd_weight=0.5)):
        with pytest.raises(
            ConfigError, match=r"reads the teacher's logits, and teacher\.model\.classifier = False"
        ) as e:
            embedding_teacher(tower, method=method)
        assert set(accepted.split(", ")) == set(
            str(e.value).split("use one of ")[1].removesuffix(" with kd_weight=0").split(", ")
        )
    for kind in accepted.split(", "):
        stages = {"stages": (-1,)} if kind == "fitnets" else {}
        method = kinds(Method)[kind](ce_weight=0.0, **stages)
        run = make_plan(embedding_teacher(tower, method=method), digits(), NO_WEIGHTS).runs[-1]
        NetworkChecks(digits()).require_method_fits(run)


def test_a_method_that_learns_from_labels_gets_them(tower: Path, tmp_path: Path) -> None:
    run = make_plan(embedding_teacher(tower, method=CRD(ce_weight=0.0, negatives=16)), digits(), NO_WEIGHTS).runs[-1]
    teacher = load_live_teacher([imported(run, tmp_path / "teacher")], CPU)
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher)
    batch = next(training.loader.epoch(0))
    assert torch.equal(batch.labels, digits().train.labels[batch.index])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": recipe(model=TOWER)}, "teacher.model.classifier = False: a teacher without a classifier requires"),
        ({"student": recipe(model=TOWER)}, "classifier = False in ResNet: must be true for the student"),
        (
            {"student": recipe(sampling="balanced")},
            "sampling = 'balanced' in Recipe: requires labels, and the students of",
        ),
    ],
)
def test_a_missing_classifier_that_cannot_work_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(experiment(method=WITHOUT_LABELS, **changes), digits(), NO_WEIGHTS)
    assert message in str(caught.value)


def test_a_method_that_leaves_the_embedding_untrained_is_refused_without_labels(tower: Path) -> None:
    run = make_plan(embedding_teacher(tower, method=FitNets(ce_weight=0.0)), digits(), NO_WEIGHTS).runs[-1]
    with pytest.raises(ConfigError, match=r"does not train layer4\..* other layers.* --set method\.stages=-1"):
        NetworkChecks(digits()).require_method_fits(run)


def test_probes_and_classifiers_are_neither_compared_nor_searched(tower: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"compare = .*students of EmbeddingRegression have no classifier .*the others have one"
    ):
        embedding_teacher(tower, method=RKD(), compare=(WITHOUT_LABELS,))
    search = Search({"method.ce_weight": Choice((0.0, 0.5))}, 2)
    with pytest.raises(
        ConfigError, match=r"method\.ce_weight = 0\.0: students without a classifier are evaluated by k-NN"
    ):
        embedding_teacher(tower, search=search)


def test_a_custom_method_that_replaces_terms_gets_labels_and_keeps_the_classifier() -> None:
    class Renamed(RKD):
        """Has the terms of its base, so also what the base declares about them."""

    class Replaced(RKD):
        def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Any) -> dict[str, Tensor]:
            return super().terms(student, teacher, targets, adapter)

    assert not Renamed.reads_labels and Renamed.logit_terms == {"kd"}
    assert Replaced.reads_labels and Replaced.logit_terms is None


def test_a_tower_whose_probe_only_memorizes_is_refused(tmp_path: Path) -> None:
    model = Network(NoiseTower, classifier=False)
    torch.save(models.build(model, images_of(digits()), 0).network.state_dict(), tmp_path / "noise.pth")
    planned = experiment(
        teacher=recipe(model=replace(model, weights=str(tmp_path / "noise.pth"))), method=WITHOUT_LABELS
    )
    run = make_plan(planned, digits(), NO_WEIGHTS).runs[0]
    with pytest.raises(ConfigError, match="not clearly above chance"):
        fit(run, digits(), RunFolder(tmp_path / "run"), CPU)


def test_a_student_starts_from_weights_with_a_head_and_leaves_it_out(tower: Path, tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=7, img_size=32).state_dict(), tmp_path / "vit.pth")
    student = recipe(model=Timm("test_vit", input_size=32, weights=str(tmp_path / "vit.pth")))
    runs = make_plan(embedding_teacher(tower, student=student), digits(), NO_WEIGHTS).runs
    baseline, distilled = (make_model(run, digits()).network.state_dict() for run in runs[1:])
    assert "head.weight" in baseline and "head.weight" not in distilled
    assert all(torch.equal(baseline[name], distilled[name]) for name in distilled)


def test_an_imported_tower_is_checked_by_the_votes_of_a_bank_and_without_a_probe(
    tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "fit_probe", lambda *_: pytest.fail("fitted a probe"))
    monkeypatch.setattr(probe, "MAX_BANK", 150)
    run = make_plan(embedding_teacher(tower), digits(), NO_WEIGHTS).runs[0]
    fit(run, digits(), folder := RunFolder(tmp_path / "run"), CPU)
    check = folder.require_record().imported
    assert check is not None and check.has_votes and "of 100 images by nearest neighbors" in describe_import(check)
    model, compute = load_model(folder.best), choose_compute(CPU, "fp32")
    bank, val = bank_of(run.data, digits(), CPU), validation_of(run.data, digits(), CPU)
    assert len(bank.labels) == 150 and len(val) == 100
    model.request({"embedding"})
    assert check.val_top1 == evaluate_neighbors(model, bank, val, compute).top1


def test_a_tower_of_zeros_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.build(TOWER, images_of(digits()), 0).network
    state = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "zeros.pth")
    run = make_plan(embedding_teacher(tmp_path / "zeros.pth"), digits(), NO_WEIGHTS).runs[0]
    with pytest.raises(ConfigError, match="not clearly above chance"):
        fit(run, digits(), RunFolder(tmp_path / "run"), CPU)


@pytest.mark.parametrize(
    "model", [Timm("test_vit", input_size=32), Timm("test_convnext", input_size=32), TOWER], ids=str
)
def test_the_embedding_is_that_of_the_network_with_its_classifier(model: models.Model) -> None:
    with_classifier = models.build(replace(model, classifier=True), images_of(digits()), 0).eval()
    without = models.build(replace(model, classifier=False), images_of(digits()), 0).eval()
    without.network.load_state_dict(without_head(with_classifier.network.state_dict(), without.network))
    images = digits().train.images[:4]
    found, expected = without(images), with_classifier(images)
    assert found.logits.shape == (4, 0) and expected.logits.shape == (4, 10)
    assert found.embedding is not None and torch.equal(found.embedding, expected.embedding)


def test_the_probe_is_the_minimum_that_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 12, generator=generator), torch.randint(0, 3, (300,), generator=generator)
    x[:, 0] += y
    standardized = Standardized(x, torch.zeros(12), torch.ones(12))
    for penalty in (1e-1, 1e-4):
        weights = _minimize(torch.zeros(3, 13, dtype=torch.float64), standardized, y, penalty)
        # scikit-learn minimizes C * the sum of the losses + |W|^2 / 2.
        theirs = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=10_000).fit(x.double(), y)
        expected = np.concatenate([theirs.coef_, theirs.intercept_[:, None]], 1)
        difference = weights.numpy() - expected
        difference[:, -1] -= difference[:, -1].mean()  # the same constant in all biases changes no probability
        assert abs(difference).max() < 1e-3


class PixelsAsEmbedding(nn.Module):
    """Embeds an image of digits as its pixels, so that only embeddings take memory."""

    def request(self, outputs: set[str]) -> None: ...

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(torch.empty(0), embedding=images.flatten(1).float())


class LargeTensors(TorchDispatchMode):
    """Collects the memory of tensors of at least `num_bytes` that operators return."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self._num_bytes, self.addresses = num_bytes, set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= self._num_bytes:
                self.addresses.add(tensor.untyped_storage().data_ptr())
        return result


def test_the_fit_of_a_probe_keeps_one_copy_of_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_CHUNK", 64)
    monkeypatch.setattr(probe, "MAX_ITERATIONS", 3)
    monkeypatch.setitem(probe.EVALUATION_BATCH, "cpu", 64)
    data, model = replace(experiment().data, train_images=None), PixelsAsEmbedding()
    num_train, width = len(digits().train) - data.val_images, 3 * IMAGE_SIZE**2
    with LargeTensors(4 * num_train * width) as large:
        fitted = fit_probe(model, data, digits(), choose_compute(CPU, "fp32"))  # type: ignore[arg-type]
    assert fitted.neighbors.embeddings.shape == (num_train, width)
    assert large.addresses == {fitted.neighbors.embeddings.untyped_storage().data_ptr()}
    assert fitted.neighbors.embeddings.norm(dim=1).allclose(torch.ones(num_train))


def test_neighbors_vote_with_the_weights_of_the_paper() -> None:
    embeddings = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    votes = Neighbors(embeddings, torch.tensor([0, 1, 1]), 3).probabilities(torch.tensor([[2.0, 0.0]]))
    expected = np.exp(np.array([1.0, 0.8, 0.0]) / 0.07)
    share = np.array([expected[0], expected[1] + expected[2], 0]) / expected.sum()
    assert votes[0].tolist() == pytest.approx(0.999 * share + 0.001 / 3, rel=1e-5)


@pytest.mark.nightly
def test_the_probe_of_a_trained_network_is_as_good_as_its_classifier(tower: Path) -> None:
    model = models.build(TOWER, images_of(digits()), 0)
    state = torch.load(tower, weights_only=True)["model"]
    model.network.load_state_dict(without_head(state, model.network))
    fitted = fit_probe(model, experiment().data, digits(), choose_compute(CPU, "fp32"))
    split = digits().test
    network = models.build(replace(TOWER, classifier=True), images_of(digits()), 0)
    network.network.load_state_dict(state)
    ours, theirs = (
        float((module.eval()(split.images).logits.argmax(1) == split.labels).float().mean())
        for module in (fitted.model, network)
    )
    assert ours > theirs - 0.02 and theirs > 0.5
    assert fitted.neighbors_top1(split, choose_compute(CPU, "fp32")) > 100 * theirs - 5


def test_a_published_tower_loads_without_its_head_and_at_another_size(tmp_path: Path) -> None:
    published = timm.create_model("test_vit", num_classes=7, img_size=160)
    torch.save(published.state_dict(), tmp_path / "vit.pth")
    model = Timm("test_vit", input_size=32, weights=str(tmp_path / "vit.pth"), classifier=False)
    run = make_plan(experiment(teacher=recipe(model=model), method=WITHOUT_LABELS), digits(), NO_WEIGHTS).runs[0]
    loaded = load_imported_teacher(run, digits()).image_model
    expected = timm.create_model("test_vit", num_classes=0, img_size=160, dynamic_img_size=True)
    expected.load_state_dict(published.state_dict(), strict=False)
    pixels = torch.rand(2, 3, 32, 32)
    found = loaded.eval().run(pixels).embedding
    assert found is not None
    torch.testing.assert_close(found, expected.eval()(pixels), rtol=1e-4, atol=1e-5)
    assert loaded.mean.flatten().tolist() == pytest.approx([127.5] * 3), "timm's for this network"


@pytest.mark.parametrize(
    ("model", "width"),
    [(Network(UserTower, width=12, classifier=False), 12), (Network(UserNet, classifier=False), 16)],
    ids=["tower", "net"],
)
def test_a_custom_network_teaches_with_its_embedding(model: Network, width: int, tmp_path: Path) -> None:
    torch.save(models.build(model, images_of(digits()), 0).network.state_dict(), tmp_path / "tower.pth")
    planned = experiment(
        teacher=recipe(model=replace(model, weights=str(tmp_path / "tower.pth"))), method=WITHOUT_LABELS
    )
    run = make_plan(planned, digits(), NO_WEIGHTS).runs[-1]
    assert run.teacher is not None
    outputs = NetworkChecks(digits()).outputs_of(run.teacher)
    assert outputs.logits.shape == (2, 0) and outputs.embedding is not None and outputs.embedding.shape == (2, width)
    NetworkChecks(digits()).require_method_fits(run)


def test_a_network_that_raykd_trained_teaches_without_its_classifier(tower: Path) -> None:
    trained = tower.parent / "run" / "best.safetensors"
    run = make_plan(embedding_teacher(trained), digits(), NO_WEIGHTS).runs[0]
    loaded, expected = load_imported_teacher(run, digits()).image_model, load_model(trained)
    images = digits().test.images[:4]
    found = loaded.eval()(images)
    assert found.logits.shape == (4, 0) and found.embedding is not None
    assert torch.equal(found.embedding, expected.eval()(images).embedding)
