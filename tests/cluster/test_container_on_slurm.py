"""A job on a real Slurm whose Ray and experiment run in a container, and whose other part has no Ray."""

import json
import os
from pathlib import Path

import pytest
from containers import ENVIRONMENT, make_container, make_launcher
from slurm_jobs import ONE_CPU_EACH, SCRIPT, leftovers
from testbed import Testbed

from raykd.cli import parser

pytestmark = pytest.mark.slurm

# What a task on each node has there; and the environment of the driver.
REPORTS = """
import json, shutil, socket, sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from raykd.orchestration.session import ray_session

@ray.remote(num_cpus=0)
def look():
    return [socket.gethostname(), sys.prefix, shutil.which("srun")]

with ray_session():
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes()]
    found = ray.get([look.options(scheduling_strategy=strategy).remote() for strategy in there])
print("found", json.dumps([sys.prefix, *sorted(found)]), flush=True)
sys.exit(7)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project whose slurm/site.sh names a container."""
    assert parser.entry(["init", str(tmp_path)]) == 0
    program, *words = make_container(tmp_path / "container")
    site = tmp_path / "slurm/site.sh"
    text = site.read_text().replace("RAYKD_CONTAINER=()", f"RAYKD_CONTAINER=({program} {words[0]} '{words[1]}')")
    site.write_text(text.replace("CONTAINER_PYTHON=python3", f"CONTAINER_PYTHON={ENVIRONMENT}/bin/python"))
    return tmp_path


def test_ray_on_all_nodes_and_the_driver_run_in_the_container_and_slurm_is_called_outside(
    slurm: Testbed, project: Path
) -> None:
    (project / "experiments/reports.py").write_text(REPORTS)
    environ = {"RAYKD_VENV": str(make_launcher(project / "launcher"))}
    job = slurm.wait(slurm.sbatch([*ONE_CPU_EACH, SCRIPT, "experiments/reports.py"], project, environ), timeout_s=180)
    (line,) = (line for line in job.output.splitlines() if line.startswith("found "))
    assert json.loads(line[6:]) == [ENVIRONMENT, ["cn1", ENVIRONMENT, None], ["cn2", ENVIRONMENT, None]]
    assert job.exit_code == 7, job.output
    assert f"raykd: Ray and the experiment run in a container: {project}/container run 'my image'\n" in job.output
    assert leftovers(slurm) == []
    assert not Path(ENVIRONMENT).exists()


@pytest.mark.nightly
def test_the_commands_for_a_running_job_reach_it_from_outside_the_container(slurm: Testbed, project: Path) -> None:
    launcher = make_launcher(project / "launcher")
    job_id = slurm.sbatch(["--cpus-per-task=2", "--mem=6G", SCRIPT], project, {"RAYKD_VENV": str(launcher)})
    slurm.wait_for_output(job_id, "ready for experiments", 180)
    raykd, path = [str(launcher / "bin/python"), "-m", "raykd"], {"PATH": os.environ["PATH"] + ":/usr/sbin"}
    submit = [*raykd, "submit", "--job", str(job_id), "-f", "digits", "--plan"]
    assert slurm.run(submit, project, path, timeout_s=120).count("not started") == 11
    assert "succeeded with exit code 0" in slurm.run([*raykd, "status", "--job", str(job_id)], project, path, 60)
    slurm.run(["scancel", "--batch", "--signal=USR2", str(job_id)])
    assert slurm.wait(job_id, timeout_s=120).exit_code == 0
    assert leftovers(slurm) == []


def test_a_container_that_does_not_see_the_project_fails_the_job_with_one_line(slurm: Testbed, project: Path) -> None:
    program = project / "container"
    hides = f"mount -t tmpfs tmpfs {project}\n    exec"
    program.write_text(program.read_text().replace('exec "$@"\'', f'{hides} "$@"\''))
    environ = {"RAYKD_VENV": str(make_launcher(project / "launcher"))}
    job = slurm.wait(slurm.sbatch(["--cpus-per-task=1", "--mem=6G", SCRIPT, "digits"], project, environ), timeout_s=90)
    assert job.exit_code == 2, job.output
    (line,) = (line for line in job.output.splitlines() if "RAYKD_CONTAINER" in line)
    assert f"the container does not see {project}; add it, such as by --bind {project}" in line
