"""A data set on disk on two nodes of a real Slurm: packed by a job, then distilled from a sparse cache by another.

sbatch -N 2 slurm/ray_cluster.slurm pack webdataset:waves
sbatch -N 2 slurm/ray_cluster.slurm waves.py --set data.name=packed:waves
"""

from pathlib import Path

import large_photos
import pytest
from slurm_jobs import ONE_CPU_EACH, SCRIPT, leftovers
from small_images import write_tar
from testbed import Testbed

from raykd.data.packs.reader import Pack

pytestmark = [pytest.mark.slurm, pytest.mark.nightly, pytest.mark.timeout(900)]

EXPERIMENT = """
from raykd import KD, SGD, Cosine, Data, Experiment, Recipe, ResNet, main

recipe = Recipe(ResNet((1, 1, 1, 1), width=8), epochs=3, batch_size=24, optimizer=SGD(lr=0.05), schedule=Cosine())
experiment = Experiment(
    family="waves",
    seeds=(0, 1, 2, 3),
    data=Data("packed:waves", val_images=48, image_size=32, crop_padding=0, min_crop_area=0.3, views_per_image=4),
    teacher=recipe,
    student=recipe,
    method=KD(alpha=0.5, temperature=1.0),
    teacher_source="cache",
    cached_classes=3,
)

if __name__ == "__main__":
    main(experiment)
"""


def write_tars(place: Path, num_tars: int, images_per_tar: int) -> None:
    """Write tar shards of different JPEGs, whose waves show their class."""
    for split, first_tar, count in (("train", 0, num_tars), ("test", num_tars, 1)):
        for tar in range(count):
            members = {}
            for number in range((first_tar + tar) * images_per_tar, (first_tar + tar + 1) * images_per_tar):
                members[f"{number:06d}.jpg"] = large_photos.photo(number, (120, 90))
                members[f"{number:06d}.cls"] = str(number % large_photos.NUM_CLASSES).encode()
            write_tar(place / f"{split}-{tar:06d}.tar", members)


def test_two_nodes_pack_fill_and_train_one_data_set(slurm: Testbed, repository: Path, tmp_path: Path) -> None:
    data, results, scratch = tmp_path / "data", tmp_path / "results", tmp_path / "scratch"
    write_tars(data / "waves", num_tars=8, images_per_tar=48)
    env = {"RAYKD_DATA": str(data), "RAYKD_SCRATCH": str(scratch)}
    job = slurm.wait(slurm.sbatch([*ONE_CPU_EACH, SCRIPT, "pack", "webdataset:waves"], repository, env), 300)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert "--set data.name=packed:waves" in job.output
    pack = Pack(data / "packed" / "waves")
    assert (len(pack.train), len(pack.test), len(pack.record.train)) == (384, 48, 8)

    experiment = tmp_path / "waves.py"
    experiment.write_text(EXPERIMENT)
    words = [*ONE_CPU_EACH, SCRIPT, str(experiment), "--results", str(results), "--set", "workers.gpus=0"]
    job = slurm.wait(slurm.sbatch(words, repository, env), 500)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert "top 3 of 8 classes" in job.output and "waiting for data" in job.output
    hosts = {path.name.split(".")[4] for path in results.rglob("events.out.tfevents.*")}
    assert hosts == {"cn1", "cn2"}
    assert len(list(results.glob("*/*/test.json"))) == 9  # the teacher is in teachers/
    assert not list(scratch.iterdir()), "the copies of the pack are removed with the job"
    assert leftovers(slurm) == []
