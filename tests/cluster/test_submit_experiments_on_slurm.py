"""slurm/submit_experiments.sh on a real Slurm: the experiment as jobs that wait for each other."""

import json
import re
from pathlib import Path

import pytest
from slurm_jobs import leftovers
from testbed import Testbed

pytestmark = pytest.mark.slurm

FAMILIES, STAGES = ("cnn", "vit"), ("teacher", "baseline", "distilled")


def submit(slurm: Testbed, repository: Path, folder: Path, options: list[str], words: list[str]) -> dict[str, int]:
    """Submit the graph of jobs. Return their ids by name, such as 'cnn-teacher' and 'report'."""
    command = [str(repository / "slurm/submit_experiments.sh"), *options, "--", *words]
    said = slurm.run(command, folder, timeout_s=120)  # it imports torch, to check the settings
    ids = [int(job) for job in re.findall(r"squeue -j ([\d,]+)", said)[0].split(",")]
    slurm.job_ids += ids
    names = [f"{family}-{stage}" for family in FAMILIES for stage in STAGES]
    return dict(zip([*names, "report"], ids, strict=True))


def test_students_wait_for_their_teacher_and_the_report_for_all(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    jobs = submit(slurm, repository, tmp_path, ["--hold"], ["--results", str(tmp_path / "r"), "--set", "seeds=0"])
    try:
        found = {name: slurm.job(job) for name, job in jobs.items()}
    finally:
        slurm.run(["scancel", *map(str, jobs.values())])
    waits = {name: set(re.findall(r"after\w+:(\d+)", job["Dependency"])) for name, job in found.items()}
    for family in FAMILIES:
        assert waits[f"{family}-teacher"] == waits[f"{family}-baseline"] == set()
        assert waits[f"{family}-distilled"] == {str(jobs[f"{family}-teacher"])}
    assert waits["report"] == {str(job) for name, job in jobs.items() if name != "report"}
    assert "afterok" in found["cnn-distilled"]["Dependency"] and "afterany" in found["report"]["Dependency"]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_graph_of_jobs_ends_with_a_complete_report(slurm: Testbed, repository: Path, tmp_path: Path) -> None:
    results = tmp_path / "res ults"
    settings = ["data.name=digits", "data.image_size=8", "data.train_images=200", "data.val_images=100", "seeds=0"]
    models = ["blocks=1,1,1,1", "width=8"]
    settings += ["workers.gpus=0", "workers.cpus=1", "teacher.epochs=1", "student.epochs=1"]
    settings += [f"cnn.{who}.model.{model}" for who in ("teacher", "student") for model in models]
    settings += ["vit.teacher.model=vit6", "vit.teacher.model.patch=2", "vit.student.model.patch=2"]
    settings += [f"{who}.batch_size=50" for who in ("teacher", "student")]
    words = [word for setting in settings for word in ("--set", setting)]
    options = ["--cpus-per-task=1", "--mem=4G", f"--output={tmp_path}/slurm-%j.out"]
    jobs = submit(slurm, repository, tmp_path, options, ["--results", str(results), *words])
    ended = [slurm.wait(job, timeout_s=500) for job in jobs.values()]
    assert [job.exit_code for job in ended] == [0] * 7, "\n".join(job.output for job in ended)
    report = json.loads((results / "report.json").read_text())
    assert set(report) == {"cnn", "vit"} and all(
        value is not None for family in report.values() for value in family.values()
    )
    assert leftovers(slurm) == []
