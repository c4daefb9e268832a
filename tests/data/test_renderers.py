"""Images of a pack have the pixels of the same images in memory, in any order and with any number of threads."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pack_of_images import all_end, loader_threads, raw_square, write_pack
from small_images import encoded
from torch import Tensor

from raykd.data.augmentation import NO_AUGMENTATION, Augmentation
from raykd.data.crop_views import CropViews
from raykd.data.image_decoding import TargetSize, decode
from raykd.data.loader import Batch, TrainLoader
from raykd.data.loader_threads import LoaderThreads
from raykd.data.packs.images import PackedImages
from raykd.data.packs.reader import Pack
from raykd.data.renderers import PackedRenderer, make_renderer
from raykd.data.types import Split
from raykd.data.views import ViewRenderer, Views
from raykd.errors import ConfigError, DataError, RunFailed

NUM_IMAGES, SIZE = 37, 16
ENCODED = [
    encoded(seed, (20 + seed % 7, 24 - seed % 5), "JPEG" if seed % 2 else "PNG", "L" if seed % 3 == 0 else "RGB")
    for seed in range(NUM_IMAGES)
]
LABELS = torch.arange(NUM_IMAGES) % 3
PADDED, CROPS = Views(2, True), CropViews(0.1, True)
EVERYTHING = Augmentation(crop_area=0.3, randaugment=(2, 9), cutout=6, mixup=0.8, cutmix=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"), ENCODED, ENCODED[:5])


@pytest.fixture
def images(folder: Path) -> PackedImages:
    return packed(folder)


def packed(folder: Path, threads: int = 2, center_crop: float = 1.0) -> PackedImages:
    return PackedImages(Pack(folder).train, TargetSize(SIZE, center_crop=center_crop), LoaderThreads(threads))


def in_memory() -> Tensor:
    squares = [torch.from_numpy(decode("", image, TargetSize(SIZE)).pixels.copy()) for image in ENCODED]
    return torch.stack(squares).permute(0, 3, 1, 2)


def request(views: Views | CropViews, seed: int = 0) -> tuple[Tensor, Tensor]:
    index = torch.randint(NUM_IMAGES, (20,), generator=torch.Generator().manual_seed(seed))
    return index, views.draw(seed, 0, index)


def test_squares_equal_those_of_the_same_images_in_memory(images: PackedImages) -> None:
    assert images.shape == in_memory().shape and len(images) == NUM_IMAGES
    assert images[:].equal(in_memory()) and images[5:9].equal(in_memory()[5:9]) and len(images[:0]) == 0
    chosen = torch.tensor([30, 2, 2, 17])
    assert images[chosen].equal(in_memory()[chosen])
    assert images[:4].is_contiguous(memory_format=torch.channels_last)


def test_consecutive_slices_decode_each_image_once(images: PackedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    own, square = images.subset(torch.arange(NUM_IMAGES)), PackedImages._square  # `images` may still decode ahead

    def count(self: PackedImages, row: int) -> np.ndarray:
        if self is own:
            decoded.append(row)
        return square(self, row)

    monkeypatch.setattr(PackedImages, "_square", count)
    parts = [own[first : first + 10] for first in range(0, NUM_IMAGES, 10)]
    assert torch.cat(parts).equal(in_memory())
    assert sorted(decoded) == list(range(NUM_IMAGES))


def test_a_subset_shows_the_chosen_images_without_decoding_them(
    images: PackedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, again = torch.tensor([30, 2, 17, 5]), torch.tensor([3, 1])
    with monkeypatch.context() as patch:
        patch.setattr(PackedImages, "_square", lambda *_: pytest.fail("decoded an image"))
        split = Split(images, LABELS).subset(chosen).subset(again)
    assert split.labels.equal(LABELS[chosen[again]])
    assert split.images[:].equal(in_memory()[chosen[again]])


def test_center_crop_shows_the_middle_of_the_square(folder: Path) -> None:
    half, whole = packed(folder, center_crop=0.5)[:1], decode("", ENCODED[0], TargetSize(40)).pixels
    middle = torch.from_numpy(whole[10:30, 10:30].copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(middle, (SIZE, SIZE), mode="bicubic", antialias=True)
    assert (half.float() - expected).abs().mean() < 12  # of noise with a deviation of 74
    assert not half.equal(packed(folder)[:1])


@pytest.mark.parametrize("views", [PADDED, Views(0, True), Views(1, False), Views(0, False)])
def test_padded_views_equal_those_of_the_same_images_in_memory(images: PackedImages, views: Views) -> None:
    index, view = request(views)
    on_disk, in_ram = PackedRenderer(images, views), ViewRenderer(in_memory(), views)
    assert on_disk.render(index, view).equal(in_ram.render(index, view))


@pytest.mark.parametrize("views", [PADDED, CROPS, replace(CROPS, count=5)])
def test_pixels_do_not_depend_on_the_number_of_threads(folder: Path, views: Views | CropViews) -> None:
    requests = [request(views, seed) for seed in range(6)]
    rendered = [list(PackedRenderer(packed(folder, count), views).render_ahead(iter(requests))) for count in (1, 2, 5)]
    for one, two, five in zip(*rendered, strict=True):
        assert one.equal(two) and one.equal(five)


def test_crops_are_a_function_of_index_and_view(images: PackedImages) -> None:
    renderer = PackedRenderer(images, CROPS)
    index, view = request(CROPS)
    together = renderer.render(index, view)
    alone = torch.cat([renderer.render(index[[row]], view[[row]]) for row in range(len(index))])
    assert together.equal(alone)
    assert not together.equal(renderer.render(index, view + 1))
    assert together.is_contiguous(memory_format=torch.channels_last)


def test_a_crop_has_the_same_pixels_whichever_crops_of_the_image_are_decoded_with_it(tmp_path: Path) -> None:
    """Crops of large images are decoded at a reduced size, as each one requires by itself."""
    images = packed(write_pack(tmp_path, [encoded(seed, (150, 110), "JPEG") for seed in range(3)], ENCODED[:1]))
    index, view = torch.arange(3).repeat_interleave(8), torch.arange(24)
    renderer = PackedRenderer(images, CROPS)
    boxes = CROPS.boxes(index, view, images.sizes(index))
    shortest = torch.minimum(boxes.height, boxes.width) // SIZE
    assert {2, 4} <= set(shortest.tolist()), "crops of both reductions"
    alone = torch.cat([renderer.render(index[[row]], view[[row]]) for row in range(len(index))])
    assert renderer.render(index, view).equal(alone)


def test_mirrored_crops_are_mirror_images(images: PackedImages) -> None:
    index = torch.arange(NUM_IMAGES)
    view = CROPS.draw(0, 0, index)
    mirrored = CROPS.boxes(index, view, images.sizes(index)).is_flipped
    with_flips, without = (
        PackedRenderer(images, views).render(index, view) for views in (CROPS, replace(CROPS, flip=False))
    )
    assert 5 < mirrored.sum() < NUM_IMAGES - 5
    assert with_flips[~mirrored].equal(without[~mirrored])
    assert with_flips[mirrored].equal(without[mirrored].flip(3))


@pytest.mark.parametrize("views", [PADDED, CROPS])
def test_equal_neighbors_are_read_once(
    images: PackedImages, views: Views | CropViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    split = images._split
    original = split.read
    monkeypatch.setattr(split, "read", lambda index: read.append(index) or original(index))
    index = torch.tensor([4, 4, 4, 9, 9, 4])
    PackedRenderer(images, views).render(index, views.draw(0, 0, index, torch.arange(6)))
    assert sorted(read) == [4, 4, 9]


def test_raw_squares_are_shown_as_they_are_stored(tmp_path: Path) -> None:
    raw = [raw_square(seed, SIZE) for seed in range(12)]
    pack = Pack(write_pack(tmp_path, raw, raw[:2], "raw", square_size=SIZE))
    images = PackedImages(pack.train, TargetSize(SIZE), LoaderThreads(2), raw_size=SIZE)
    stored = torch.stack([torch.frombuffer(bytearray(square), dtype=torch.uint8) for square in raw])
    expected = stored.view(12, SIZE, SIZE, 3).permute(0, 3, 1, 2)
    assert images[:].equal(expected)
    index = torch.arange(12)
    view = PADDED.draw(0, 0, index)
    assert PackedRenderer(images, PADDED).render(index, view).equal(ViewRenderer(expected, PADDED).render(index, view))
    crops = PackedRenderer(images, CropViews(1.0, False)).render(index, index)
    assert crops.equal(expected), "a crop of the whole square"


def test_a_damaged_row_is_named_by_whoever_reads_it(tmp_path: Path) -> None:
    place = write_pack(tmp_path, ENCODED, ENCODED[:2])
    shard = place / "train-00001.arrow"
    content = bytearray(shard.read_bytes())
    position = content.index(ENCODED[13]) + 60
    content[position] ^= 1
    shard.write_bytes(content)
    images = packed(place)
    message = r"train-00001.arrow: row 3 does not match its checksum; remove the folder"
    with pytest.raises(DataError, match=message):
        _ = images[:]
    renderer, index = PackedRenderer(images, CROPS), torch.arange(NUM_IMAGES)
    with pytest.raises(DataError, match=message):
        renderer.render(index, index)
    assert images[:10].equal(in_memory()[:10]), "the threads work on"


def test_crops_of_images_in_memory_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"data.min_crop_area = 0.1: .*raykd pack"):
        make_renderer(in_memory(), CROPS, "cpu")


def test_closing_the_iterator_cancels_what_was_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, resume, num_begun = threading.Semaphore(0), threading.Event(), []

    def slow(row: int) -> None:
        num_begun.append(row)
        begun.release()
        resume.wait(60)
        raise DataError("a late error of a batch that nobody waits for")

    monkeypatch.setattr(PackedImages, "_crops", lambda self, row, boxes, pixels: slow(row) if row > 20 else None)
    images = packed(folder, threads=2)
    low, high = torch.arange(20), torch.arange(21, 37)
    views = PackedRenderer(images, CROPS).render_ahead([(low, low), *[(high, high)] * 100])
    assert len(next(views)) == 20
    assert all(begun.acquire(timeout=60) for _ in range(2))  # each thread has begun a part of the next batch
    views.close()
    resume.set()
    images.threads._pool.shutdown(wait=True)
    assert len(num_begun) == 2, "only parts that a thread had begun were finished"


def test_threads_end_with_their_object(folder: Path) -> None:
    before, images = loader_threads(), packed(folder, threads=3)
    _ = images[:5]
    started = loader_threads() - before
    assert len(started) == 3
    del images
    assert all_end(started)


def test_torch_computes_in_one_thread_within_a_loader_thread_only() -> None:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threads, seen = LoaderThreads(2), []
        threads.start(torch.empty(0, 1, 1, 3), 4, lambda first, end: seen.append(torch.get_num_threads())).wait()
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert set(seen[:-1]) == {1} and seen[-1] == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(num_threads)


def test_a_refused_thread_is_one_line_and_leaves_no_thread_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    start, left, before = threading.Thread.start, iter([True] * 2), loader_threads()

    def refuse_the_third(thread: threading.Thread) -> None:
        if not next(left, False):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_the_third)
        threads = LoaderThreads(3)
        with pytest.raises(RunFailed, match=r"workers.loaders = 3: can't start new thread; set it to fewer threads"):
            threads.start(torch.empty(1, 1, 1, 3), 1, lambda first, end: None)
    assert all_end(loader_threads() - before)


def loader(images: PackedImages | Tensor, **changes: object) -> TrainLoader:
    settings: dict = {"indices": torch.arange(3, NUM_IMAGES), "views": PADDED, "batch_size": 8, "seed": 3, **changes}
    return TrainLoader(images, LABELS, **settings)


def tensors(batch: Batch) -> list[Tensor]:
    return [batch.images, batch.labels, batch.index, batch.view, *(batch.mixed or ())]


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
@pytest.mark.parametrize("augmentation", [NO_AUGMENTATION, EVERYTHING])
def test_batches_of_padded_views_equal_those_in_memory(
    images: PackedImages, augmentation: Augmentation, sampling: str
) -> None:
    changes = {"augmentation": augmentation, "sampling": sampling}
    pairs = zip(loader(images, **changes).epoch(2), loader(in_memory(), **changes).epoch(2), strict=True)
    for on_disk, in_ram in pairs:
        assert all(torch.equal(one, other) for one, other in zip(tensors(on_disk), tensors(in_ram), strict=True))


@pytest.mark.parametrize("views", [PADDED, CROPS, replace(CROPS, count=5)])
@pytest.mark.parametrize("first_step", [0, 1, 4])
def test_a_resumed_epoch_equals_the_rest_of_an_uninterrupted_one(
    images: PackedImages, views: Views | CropViews, first_step: int
) -> None:
    run = loader(images, views=views, augmentation=EVERYTHING)
    whole, resumed = list(run.epoch(1))[first_step:], list(run.epoch(1, first_step))
    assert len(resumed) == 4 - first_step
    for left, right in zip(whole, resumed, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(tensors(left), tensors(right), strict=True))


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("world_size", [2, 4])
def test_batches_of_all_ranks_concatenate_to_the_batch_of_one_worker(
    images: PackedImages, world_size: int, passes: int
) -> None:
    changes = {"views": CROPS, "augmentation": EVERYTHING, "passes": passes}
    ranks = [loader(images, rank=rank, world_size=world_size, **changes).epoch(1) for rank in range(world_size)]
    for whole, *shares in zip(loader(images, **changes).epoch(1), *ranks, strict=True):
        parts = [
            batch for pass_parts in zip(*(share.parts(passes) for share in shares), strict=True) for batch in pass_parts
        ]
        joined = [torch.cat(values) for values in zip(*map(tensors, parts), strict=True)]
        assert all(torch.equal(one, other) for one, other in zip(joined, tensors(whole), strict=True))


def test_every_epoch_shows_new_crops_without_a_count_of_views(images: PackedImages) -> None:
    endless, two = (loader(images, views=replace(CROPS, count=count)) for count in (None, 2))
    assert len({int(view) for epoch in range(4) for batch in endless.epoch(epoch) for view in batch.view}) == 4 * 32
    assert {int(view) for batch in two.epoch(0) for view in batch.view} == {0, 1}


@pytest.mark.gpu
@pytest.mark.parametrize("views", [PADDED, CROPS])
def test_cuda_shows_the_same_batches_through_pinned_memory(images: PackedImages, views: Views | CropViews) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    runs = [loader(images, views=views, augmentation=EVERYTHING, device=device) for device in ("cpu", "cuda")]
    for on_cpu, on_gpu in zip(*(run.epoch(1) for run in runs), strict=True):
        assert on_gpu.images.is_cuda
        assert all(torch.equal(one, other.cpu()) for one, other in zip(tensors(on_cpu), tensors(on_gpu), strict=True))
