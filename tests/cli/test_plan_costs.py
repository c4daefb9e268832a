"""A plan on a login node reads no more than it needs: it decodes a sample, and hashes a file once."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from imported_teachers import MODEL, good_file
from small_images import encoded, write_folder
from small_runs import experiment, recipe
from written_results import finished

import raykd
from raykd import provenance
from raykd.cli.plan_text import print_plan
from raykd.data import file_hashes, image_decoding, undecoded
from raykd.data.load import load_dataset
from raykd.errors import ConfigError, DataError
from raykd.orchestration import data_storage
from raykd.orchestration.options import Options, dataset_of
from raykd.spec.experiment import Data, Experiment

NUM_TRAIN = 3 * 200


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """Folders with 600 training images and 6 test images."""
    write_folder(tmp_path / "data" / "insects", NUM_TRAIN // 3, 2)
    return Options(tmp_path / "results", tmp_path / "data")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are decoded."""
    images: list[str] = []
    original = image_decoding.decode
    monkeypatch.setattr(
        image_decoding, "decode", lambda where, *arguments: (images.append(where), original(where, *arguments))[1]
    )
    return images


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let files be at rest, and return a function that forgets what this process has read."""
    now = provenance.time.time_ns
    monkeypatch.setattr("raykd.provenance.time.time_ns", lambda: now() + 10**10)

    def forget() -> None:
        provenance.known_digests.clear()
        file_hashes._stored.clear()
        dataset_of.__globals__["_load_once"].cache_clear()

    forget()
    return forget


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose digest is computed, without those that images are checked with."""
    names: list[str] = []
    original = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, new: (names.append(Path(file.name).name), original(file, new))[1]
    )
    return names


def on_insects(**changes) -> Experiment:
    data = Data("folder:insects", val_images=60, crop_padding=1)
    return experiment(data=replace(data, **changes), seeds=(0, 1))


def names_of(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.startswith(("  teacher-", "  baseline-", "  dist"))]


def test_a_plan_decodes_a_sample_and_names_the_runs_of_all_images(
    options: Options, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan([on_insects()], options)
    planned = names_of(capsys.readouterr().out)
    assert len(planned) == 5 and len(decoded) <= undecoded.MAX_SAMPLED + 10, "and the first images, for the networks"
    frame = raykd.plan(on_insects(), results=options.results, data_dir=options.data_folder)
    assert list(frame["name"]) == planned
    identity = load_dataset("folder:insects", options.data_folder).identity
    assert dataset_of(on_insects().data, replace(options, is_plan=True)).identity == identity
    assert not options.results.exists()


def test_a_second_plan_opens_only_the_images_of_the_sample(
    options: Options, monkeypatch: pytest.MonkeyPatch, another_process: Callable[[], None]
) -> None:
    options.decoded.mkdir(parents=True)
    print_plan([on_insects()], options)
    another_process()
    opened: list[str] = []
    path_open = Path.open

    def counting(path: Path, *arguments, **keywords):
        if path.suffix == ".png":
            opened.append(path.name)
        return path_open(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", counting)
    print_plan([on_insects()], options)
    assert 0 < len(opened) <= undecoded.MAX_SAMPLED + 15
    changed = options.data_folder / "insects" / "train" / "bee" / "001.png"
    changed.write_bytes(encoded(5)[:-30])
    another_process()
    with pytest.raises(DataError, match=r"bee/001\.png is a PNG or JPEG that cannot be decoded"):
        print_plan([on_insects()], options)


def test_weights_are_hashed_by_one_plan_and_not_by_the_next(
    tmp_path: Path, another_process: Callable[[], None], hashed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    finished(results)
    (results / ".data").mkdir(exist_ok=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "teacher.safetensors").write_bytes(good_file())
    imported = experiment(
        family="imported",
        teacher=recipe(model=MODEL),
        teacher_checkpoint=str(tmp_path / "mine" / "teacher.safetensors"),
    )
    texts = []
    for _ in range(2):
        another_process()
        hashed.clear()
        print_plan([experiment(seeds=(0, 1)), imported], Options(results, tmp_path))
        texts.append((capsys.readouterr().out, list(hashed)))
    assert texts[0][0] == texts[1][0] and "done" in texts[0][0]
    assert {"teacher.safetensors", "best.safetensors"} <= set(texts[0][1]) and texts[1][1] == []
    best = next(results.glob("small/baseline-*/best.safetensors"))
    best.write_bytes(best.read_bytes() + b"changed")
    another_process()
    print_plan([experiment(seeds=(0, 1))], Options(results, tmp_path))
    assert hashed == ["best.safetensors"] and "damaged" in capsys.readouterr().out


def test_a_plan_in_little_memory_lists_the_runs_of_a_job_with_more(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan([on_insects()], options)
    with_memory = capsys.readouterr().out
    monkeypatch.setattr(data_storage, "available_bytes", lambda: 1_000_000)
    print_plan([on_insects()], options)
    without = capsys.readouterr().out
    assert names_of(without) == names_of(with_memory)
    assert "more than a quarter of 1 MB" in without
    assert "folder:insects: a job packs the images first, unless it has more free memory" in without
    monkeypatch.setattr(data_storage, "MAX_HASHED_BYTES", 1000)
    with pytest.raises(ConfigError, match="have to be packed first"):
        print_plan([on_insects()], options)


def test_a_plan_warns_of_images_that_do_not_fit_into_memory(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("raykd.data.memory.available_bytes", lambda: 1_000_000)
    print_plan([on_insects(storage="memory")], options)
    assert "folder:insects: warning: " in (text := capsys.readouterr().out)
    assert "606 images of 24x24 take 1.05 MB of memory, and 2.09 MB while they are decoded, but 1 MB are free" in text
