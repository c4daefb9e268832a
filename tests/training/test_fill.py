"""A filler computes each view of a logit cache once, whatever interrupts it."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import children
import fill_story
import pytest
import torch
from nightly import nightly_except
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe, run_of, train
from torch import Tensor, nn

from raykd import models
from raykd.data.renderers import make_renderer
from raykd.errors import Interrupted, RunFailed
from raykd.models import ImageModel
from raykd.models.four_stage_resnet import ResNet
from raykd.outputs import Outputs
from raykd.spec.plan import make_plan, train_val_indices
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute
from raykd.training.model_file import images_of
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import PlannedCache, choose_teacher
from raykd.training.teacher.fill import BATCH_SIZE, FIXED_SHAPE, IN_FLIGHT, SAMPLE_EVERY, Filler, _PendingRows, _split
from raykd.training.teacher.load import load_cached_teacher
from raykd.training.teacher.sources import LiveTeacher
from raykd.training.teacher.sparse_rows import encode, error_sums, restore

SHA = "5a" * 32
NUM_VIEWS = 18  # of the small experiment's digits, 200 of which are trained on


@dataclass
class Filling:
    """A logit cache of the small experiment, and a teacher that counts the images it is shown."""

    wanted: PlannedCache
    cache: LogitCache
    teacher: "Counting"

    @property
    def filler(self) -> Filler:
        return Filler(self.wanted, digits(), self.cache, self.teacher, choose_compute(CPU, "fp32"))

    def expected(self) -> Tensor:
        """bool [N, V]"""
        rows, _ = train_val_indices(self.wanted.data, digits().train.labels)
        found = torch.zeros(len(digits().train.labels), NUM_VIEWS, dtype=torch.bool)
        found[rows] = True
        return found


class Counting(ImageModel):
    def __init__(self) -> None:
        made = models.build(ResNet(blocks=(1, 1, 1, 1), width=8), images_of(digits()), seed=5)
        super().__init__(made.network, made._run_network, images_of(digits()))
        self.seen = 0

    def forward(self, images: Tensor) -> Outputs:
        self.seen += len(images)
        return super().forward(images)


@pytest.fixture
def filling(tmp_path: Path) -> Filling:
    """Return a cache of all views, in 3 parts, that is not filled yet."""
    plan = make_plan(experiment(student=recipe(epochs=100)), digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), tmp_path, [RunFolder(tmp_path)])
    assert found is not None and found.cache is not None and found.cache.holds_all_views
    wanted = replace(found.cache, num_parts=3)
    return Filling(wanted, LogitCache(tmp_path, wanted.key(digits(), SHA)), Counting())


def test_filled_logits_equal_the_teachers_logits_of_each_view(filling: Filling) -> None:
    assert sum(filling.filler.fill(part) for part in range(3)) == 200 * NUM_VIEWS == filling.teacher.seen
    assert torch.equal(filling.cache.filled(), filling.expected())
    renderer = make_renderer(digits().train.images, filling.wanted.data.views, CPU)
    index, view = filling.expected().nonzero().unbind(1)
    with torch.no_grad():
        live = filling.teacher(renderer.render(index[::7], view[::7])).logits
    found = filling.cache.logits()[(index * NUM_VIEWS + view)[::7]].float()
    torch.testing.assert_close(found, live, rtol=2**-11, atol=1e-6)  # half a unit in float16's last place


def test_filled_embeddings_equal_the_teachers_embeddings_of_each_view(filling: Filling, tmp_path: Path) -> None:
    wanted = replace(filling.wanted, embedding_width=64)
    cache = LogitCache(tmp_path, wanted.key(digits(), SHA))
    filler = Filler(wanted, digits(), cache, filling.teacher, choose_compute(CPU, "fp32"))
    assert sum(filler.fill(part) for part in range(3)) == 200 * NUM_VIEWS
    index, view = filling.expected().nonzero().unbind(1)
    images = make_renderer(digits().train.images, wanted.data.views, CPU).render(index[::7], view[::7])
    with torch.no_grad():
        live: Outputs = filling.teacher(images)
    assert live.embedding is not None
    found = cache.rows()[(index * NUM_VIEWS + view)[::7]].float()
    torch.testing.assert_close(found, torch.cat([live.logits, live.embedding], dim=1), rtol=2**-11, atol=1e-6)


def test_filled_top_classes_are_those_of_the_teachers_logits_of_each_view(filling: Filling, tmp_path: Path) -> None:
    wanted = replace(filling.wanted, cached_classes=3)
    cache = LogitCache(tmp_path, wanted.key(digits(), SHA))
    filler = Filler(wanted, digits(), cache, filling.teacher, choose_compute(CPU, "fp32"))
    assert sum(filler.fill(part) for part in range(3)) == 200 * NUM_VIEWS
    index, view = filling.expected().nonzero().unbind(1)
    images = make_renderer(digits().train.images, wanted.data.views, CPU).render(index[::7], view[::7])
    with torch.no_grad():
        live = filling.teacher(images).logits
    found = cache.key.layout.decode(cache.rows()[(index * NUM_VIEWS + view)[::7]]).logits
    top = live.topk(3, dim=1).indices
    torch.testing.assert_close(found.gather(1, top), live.gather(1, top), rtol=2**-10, atol=1e-5)
    torch.testing.assert_close(found.logsumexp(1), live.logsumexp(1), rtol=2**-8, atol=1e-3)


def test_error_of_the_top_classes_is_measured_on_every_64th_row_while_they_are_filled(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BATCH_SIZE, "cpu", 128)
    monkeypatch.setattr("raykd.training.teacher.fill.PIECE_S", 0.0)  # a piece is a batch, but for the last image
    wanted = replace(filling.wanted, cached_classes=3, temperatures=(1.0, 4.0), num_parts=1)
    cache = LogitCache(tmp_path, wanted.key(digits(), SHA))
    rows: list[Tensor] = []
    forward = filling.teacher.forward

    def recorded(images: Tensor) -> Outputs:
        outputs = forward(images)
        rows.append(outputs.logits[::SAMPLE_EVERY])
        return outputs

    monkeypatch.setattr(filling.teacher, "forward", recorded)
    Filler(wanted, digits(), cache, filling.teacher, choose_compute(CPU, "fp32")).fill(0)
    logits = torch.cat(rows).double()
    restored = restore(encode(logits, 3), 10).double()
    probability, *kl = (error_sums(logits, restored, 3, (1.0, 4.0)) / len(logits)).tolist()
    found = cache.sampled()
    assert found is not None and found.probability.num_rows == len(logits) >= 200 * NUM_VIEWS / SAMPLE_EVERY
    assert found.probability.mean == pytest.approx(probability, rel=1e-5)
    assert [found.kl[name].mean for name in ("1", "4")] == pytest.approx(kl, rel=1e-3)
    assert 0.3 < probability < 1 and 0 < kl[0] < 1


def test_cache_of_all_classes_has_no_error(filling: Filling) -> None:
    filling.filler.fill(0)
    assert filling.cache.sampled() is None and not (filling.cache.folder / "sampled.json").exists()


def test_images_that_are_decoded_are_split_by_no_batch() -> None:
    missing = torch.ones(4, 5, dtype=torch.bool)
    missing[1, ::2] = False
    entries = missing.nonzero()
    for size in (5, 7, 12):
        batches = [*_split(entries, size, keep_images_whole=True)]
        assert torch.equal(torch.cat(batches), entries) and max(map(len, batches)) <= size
        images = [image for batch in batches for image in batch[:, 0].unique().tolist()]
        assert images == sorted(set(images)), "an image is in two batches"
    assert [len(batch) for batch in _split(entries, 3, keep_images_whole=True)] == [3, 2, 2, 3, 2, 3, 2]
    assert [len(batch) for batch in _split(entries, 12, keep_images_whole=False)] == [12, 5]


def test_partial_cache_holds_what_its_runs_visit_and_no_more(tmp_path: Path) -> None:
    run = run_of("distilled", student=recipe(epochs=4))
    plan = make_plan(experiment(student=recipe(epochs=4), teacher_source="cache"), digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), tmp_path, [RunFolder(tmp_path)])
    assert found is not None and found.cache is not None and not found.cache.holds_all_views
    cache = LogitCache(tmp_path, found.cache.key(digits(), SHA))
    passes = Filler(found.cache, digits(), cache, Counting(), choose_compute(CPU, "fp32")).fill(0)
    assert passes == cache.filled().sum() < 4 * 200
    assert load_cached_teacher(run, digits(), cache, CPU).identity == SHA


def test_second_fill_asks_the_teacher_nothing(filling: Filling) -> None:
    for part in range(3):
        filling.filler.fill(part)
    seen = filling.teacher.seen
    assert [filling.filler.fill(part) for part in range(3)] == [0, 0, 0] and filling.teacher.seen == seen


def test_what_was_computed_before_a_stop_is_kept(filling: Filling) -> None:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Interrupted, match="rerun the same command to resume"):
        filling.filler.fill(1, should_stop=should_stop)
    kept = filling.cache.filled().sum()
    assert kept == filling.teacher.seen and 0 < kept < 67 * NUM_VIEWS
    filling.filler.fill(1)
    assert filling.teacher.seen == filling.cache.filled().sum() == 67 * NUM_VIEWS, "nothing was computed twice"


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_share_a_part(workers: int, filling: Filling) -> None:
    shares = [filling.filler.fill(0, rank, workers) for rank in range(workers)]
    assert sum(shares) == 67 * NUM_VIEWS == filling.cache.filled().sum()
    assert max(shares) - min(shares) <= NUM_VIEWS


def test_more_workers_than_images_leave_some_with_nothing(filling: Filling) -> None:
    filling.wanted = replace(filling.wanted, num_parts=200)
    assert [filling.filler.fill(0, rank, 2) for rank in (0, 1)] == [NUM_VIEWS, 0]


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_logits_that_float16_cannot_hold_fail_with_a_remedy(value: float, filling: Filling) -> None:
    nn.init.constant_(filling.teacher.network.fc.bias, value)  # type: ignore[arg-type, union-attr]
    with pytest.raises(RunFailed, match=r"65,504: .* --set teacher_source=live"):
        filling.filler.fill(0)
    assert not filling.cache.filled().any()


def test_cache_with_holes_is_refused_with_their_number(filling: Filling) -> None:
    for part in (0, 2):
        filling.filler.fill(part)
    run = run_of("distilled", student=recipe(epochs=100))
    with pytest.raises(RunFailed, match=r"lacks 1200 of the 3\d\d\d views .*; rerun the same command to fill them"):
        load_cached_teacher(run, digits(), filling.cache, CPU)


def test_batches_are_no_larger_than_they_may_be(filling: Filling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BATCH_SIZE, "cpu", 7)
    sizes: list[int] = []
    forward = filling.teacher.forward
    monkeypatch.setattr(filling.teacher, "forward", lambda images: (sizes.append(len(images)), forward(images))[1])
    filling.filler.fill(2)
    assert max(sizes) == 7 and sum(sizes) == 66 * NUM_VIEWS


def test_where_a_new_batch_size_costs_a_search_for_kernels_the_teacher_sees_one_size(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FIXED_SHAPE == {"cpu": False, "cuda": True}
    monkeypatch.setitem(BATCH_SIZE, "cpu", 64)
    plain = LogitCache(tmp_path / "plain", filling.cache.key)
    assert Filler(filling.wanted, digits(), plain, Counting(), choose_compute(CPU, "fp32")).fill(0) == 67 * NUM_VIEWS
    monkeypatch.setitem(FIXED_SHAPE, "cpu", True)
    sizes: list[int] = []
    forward = filling.teacher.forward
    monkeypatch.setattr(filling.teacher, "forward", lambda images: (sizes.append(len(images)), forward(images))[1])
    assert filling.filler.fill(0) == 67 * NUM_VIEWS, "padding is not counted"
    assert set(sizes) == {64} and sum(sizes) > 67 * NUM_VIEWS
    assert torch.equal(filling.cache.filled(), plain.filled())
    torch.testing.assert_close(filling.cache.rows(), plain.rows(), rtol=2**-10, atol=1e-5)


@pytest.mark.parametrize(("depth", "order"), [(1, "lrlrlr"), (2, "llrlrr")])
def test_a_batch_is_read_once_the_next_ones_are_launched(
    depth: int, order: str, filling: Filling, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert IN_FLIGHT == {"cpu": 1, "cuda": 2}
    monkeypatch.setitem(IN_FLIGHT, "cpu", depth)
    monkeypatch.setitem(BATCH_SIZE, "cpu", 2 * NUM_VIEWS)
    events: list[str] = []
    forward, read = filling.teacher.forward, _PendingRows.read
    monkeypatch.setattr(filling.teacher, "forward", lambda images: (events.append("l"), forward(images))[1])
    monkeypatch.setattr(_PendingRows, "read", lambda batch: (events.append("r"), read(batch))[1])
    filling.filler._fill_piece(0, torch.ones(6, NUM_VIEWS, dtype=torch.bool), lambda: False)
    assert "".join(events) == order and filling.cache.filled()[:6].all()


def test_a_stop_keeps_the_batches_in_flight(filling: Filling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IN_FLIGHT, "cpu", 2)
    monkeypatch.setitem(BATCH_SIZE, "cpu", 2 * NUM_VIEWS)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        filling.filler._fill_piece(0, torch.ones(6, NUM_VIEWS, dtype=torch.bool), lambda: next(asked))
    assert filling.cache.filled()[:4].all() and filling.cache.filled().sum() == filling.teacher.seen == 4 * NUM_VIEWS


@pytest.mark.parametrize(
    ("embedding_width", "kept"), nightly_except([(64, 3)], [(0, None), (64, None), (0, 3), (64, 3)])
)
@pytest.mark.nightly
def test_fill_that_is_killed_repeatedly_equals_one_that_is_not(
    embedding_width: int, kept: int | None, tmp_path: Path
) -> None:
    story, dataset = replace(fill_story.DIGITS, embedding_width=embedding_width, cached_classes=kept), digits()
    fill_story.fill_all(story, tmp_path / "peace")
    peace, killed = story.cache(tmp_path / "peace", dataset), story.cache(tmp_path / "killed", dataset)
    counts = [0]
    for _ in range(4):
        child = children.start(fill_story.fill_all, story, tmp_path / "killed")
        while child.is_alive() and killed.filled().sum() <= counts[-1] + 300:
            time.sleep(0.002)
        child.kill()
        child.join()
        assert child.exitcode == -9, "it was through before it was killed"
        counts.append(int(killed.filled().sum()))
    assert children.wait(children.start(fill_story.fill_all, story, tmp_path / "killed")) == 0
    assert counts == sorted(set(counts)) and torch.equal(killed.filled(), peace.filled())
    assert killed.rows().shape[1] == (10 if kept is None else 2 * kept + 1) + embedding_width
    found, expected = (cache.key.layout.decode(cache.rows()[cache.filled().flatten()]) for cache in (killed, peace))
    torch.testing.assert_close(found.logits.softmax(1), expected.logits.softmax(1), rtol=2**-8, atol=1e-4)
    if embedding_width:
        torch.testing.assert_close(found.embedding, expected.embedding, rtol=2**-10, atol=1e-5)


@contextmanager
def claimed_by_another_process(cache: LogitCache, first: int, end: int) -> Iterator[Callable[[], None]]:
    """Claim images as a process that fills them does, until the yielded function is called."""
    code = "import sys; from raykd.disk.file_lock import try_lock_range as lock; file = open(sys.argv[1], 'ab');"
    code += "print(lock(file, int(sys.argv[2]), int(sys.argv[3])), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(cache.folder / ".fill.lock"), str(first), str(end)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        yield lambda: (process.communicate(), None)[1]


def test_pieces_that_another_process_fills_come_last_and_are_computed_once(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.training.teacher.fill.CLAIMED_POLL_S", 0.0)
    monkeypatch.setitem(BATCH_SIZE, "cpu", 2 * NUM_VIEWS)
    monkeypatch.setattr("raykd.training.teacher.fill.PIECE_S", 0.0)  # a piece is at least two images
    alone = LogitCache(tmp_path / "alone", filling.cache.key)
    Filler(filling.wanted, digits(), alone, filling.teacher, choose_compute(CPU, "fp32")).fill(0)
    first = int(filling.expected().any(1).nonzero()[0])
    images, filled_before = slice(first + 10, first + 12), []

    with claimed_by_another_process(filling.cache, images.start, images.stop) as end:

        def should_stop() -> bool:
            """Let the other process fill one of its images and end, once the filler waits for it."""
            others = filling.cache.filled()[first:]
            if not filled_before and int(others.any(1).sum()) >= 60 and not others[10:12].any():
                filled_before.append(int(others.sum()))
                rows = alone.rows().view(-1, NUM_VIEWS, 10)[images]
                filling.cache.write(images.start, rows, alone.filled()[images] & torch.tensor([[True], [False]]))
                end()
            return False

        filling.teacher.seen = 0
        computed = filling.filler.fill(0, should_stop=should_stop)
    assert filled_before and torch.equal(filling.cache.filled(), alone.filled())
    assert computed == filling.teacher.seen == alone.filled().sum() - alone.filled()[images.start].sum()
    torch.testing.assert_close(filling.cache.rows(), alone.rows(), rtol=2**-10, atol=1e-5)


def test_a_stop_ends_the_wait_for_another_process(filling: Filling) -> None:
    held = claimed_by_another_process(filling.cache, 0, filling.cache.key.num_images)
    with held, pytest.raises(Interrupted, match="rerun the same command to resume"):
        filling.filler.fill(0, should_stop=lambda: True)
    assert filling.teacher.seen == 0


def test_a_process_that_hangs_does_not_keep_others_from_filling(
    filling: Filling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.training.teacher.fill.CLAIMED_WAIT_S", 0.0)
    with claimed_by_another_process(filling.cache, 0, filling.cache.key.num_images):
        assert filling.filler.fill(0) == 67 * NUM_VIEWS == filling.cache.filled().sum()


@pytest.mark.nightly
def test_two_processes_fill_a_cache_together_and_compute_each_view_once(tmp_path: Path) -> None:
    story, both = fill_story.DIGITS, tmp_path / "both"
    fill_story.fill_all(story, tmp_path / "alone")
    names = [("one", "two"), ("two", "one")]
    processes = [
        children.start(
            fill_story.fill_beside, story, both, tmp_path / name, tmp_path / other, tmp_path / f"{name}.count"
        )
        for name, other in names
    ]
    assert [children.wait(process) for process in processes] == [0, 0]
    counts = [int((tmp_path / f"{name}.count").read_text()) for name, _ in names]
    alone, together = story.cache(tmp_path / "alone", digits()), story.cache(both, digits())
    assert min(counts) > 0 and sum(counts) == 200 * NUM_VIEWS
    assert torch.equal(together.filled(), alone.filled())
    torch.testing.assert_close(together.rows(), alone.rows(), rtol=2**-10, atol=1e-5)


def test_pieces_span_no_more_of_the_cache_than_they_may(filling: Filling, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few of its entries are missing: a partial logit cache's neighbours lie far apart."""
    entry = filling.cache.key.num_classes * 2
    monkeypatch.setattr("raykd.training.teacher.fill.PIECE_BYTES", 5 * NUM_VIEWS * entry)
    spans: list[int] = []
    write = filling.cache.write
    monkeypatch.setattr(
        filling.cache, "write", lambda first, logits, filled: (spans.append(len(logits)), write(first, logits, filled))
    )
    filling.filler.fill(0)
    assert max(spans) == 5 and filling.cache.filled().sum() == 67 * NUM_VIEWS


def test_damaged_images_are_refused_by_readers_and_filled_again(filling: Filling) -> None:
    for part in range(3):
        filling.filler.fill(part)
    rows, seen = filling.cache.rows().clone(), filling.teacher.seen
    run = run_of("distilled", student=recipe(epochs=100))
    index = int(filling.expected().any(1).nonzero()[3])
    path = filling.cache.folder / "logits.f16"
    raw = bytearray(path.read_bytes())
    raw[index * NUM_VIEWS * 20 + 7] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RunFailed, match=r"logit cache '.*' is damaged: 1 images do not .*; rerun the same command"):
        load_cached_teacher(run, digits(), filling.cache, CPU)
    assert sum(filling.filler.fill(part) for part in range(3)) == NUM_VIEWS == filling.teacher.seen - seen
    assert (
        torch.equal(filling.cache.rows(), rows)
        and load_cached_teacher(run, digits(), filling.cache, CPU).identity == SHA
    )


def test_a_teacher_of_nan_is_blamed_and_not_the_learning_rate(run_folder: RunFolder, filling: Filling) -> None:
    nn.init.constant_(filling.teacher.network.fc.bias, float("nan"))  # type: ignore[arg-type, union-attr]
    message = r"the teacher's outputs are NaN or infinite in the first .*; check its weights"
    with pytest.raises(RunFailed, match=message):
        train(run_of("distilled"), run_folder, LiveTeacher(filling.teacher))
