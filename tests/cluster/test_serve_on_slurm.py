"""A job that keeps its Ray: experiments are sent to it, followed and stopped by its owner; nobody else gets in."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import small_experiment
from slurm_jobs import DRIVERS, SCRIPT, leftovers
from testbed import Job, Testbed

from raykd.store.run_store import RunStore

pytestmark = pytest.mark.slurm

NOBODY = 65_534
STRANGERS = (("cn1", "127.0.0.1"), ("cn3", "10.88.0.11"))  # where they are, and what they try: cn1
# Of another Ray and another job, in the shell where commands are typed: whoever asked there would find nobody.
LEFTOVERS = {
    "RAY_ADDRESS": "http://127.0.0.1:9",
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
    "RAY_AUTH_TOKEN": "e" * 64,
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 99}',
    "http_proxy": "http://127.0.0.1:9",
    "SLURM_GPUS": "7",
    "SLURM_MEM_PER_CPU": "77",
}
BOOT_TIMEOUT_S = 60
COMMAND_TIMEOUT_S = 60
RUN = small_experiment.runs(("teacher",))[0]


@dataclass
class Service:
    """The job, and commands typed on the login node. `said`: all that they printed."""

    slurm: Testbed
    repository: Path
    job_id: int
    said: list[str] = field(default_factory=list)

    def type(self, *words: str) -> str:
        """`python -m raykd WORDS`; raises RuntimeError with its errors for an exit code other than 0."""
        command = [sys.executable, "-m", "raykd", *words]
        self.said.append(self.slurm.run(command, self.repository, LEFTOVERS, timeout_s=COMMAND_TIMEOUT_S))
        return self.said[-1]

    @property
    def log(self) -> str:
        return self.slurm.output(self.job_id)

    def token(self) -> str:
        return Path(f"/tmp/rk-{os.getuid()}-{self.job_id}/token").read_text()


@dataclass(frozen=True)
class Story:
    """What happened to the job from its start to its end, in order."""

    service: Service
    strangers: dict[str, dict]
    refused: str  # what the status of another's job says
    odd: str  # of an experiment whose path and words a shell would read
    sent: str
    stopped: str
    status: str
    dashboard: str
    token: str
    queue: str
    job: Job
    left: list[str]


def fail(service: Service, *words: str) -> str:
    with pytest.raises(RuntimeError) as raised:
        service.type(*words)
    return str(raised.value)


def strangers_of(slurm: Testbed, repository: Path, job_id: int) -> dict[str, dict]:
    """What nobody gets on the job's own node (cn1), and on another (cn3)."""
    dashboard = int(re.findall(r"dashboard at http://127\.0\.0\.1:(\d+)", slurm.output(job_id))[0])
    words = [str(dashboard - 1), f"/tmp/rk-{os.getuid()}-{job_id}/token"]
    program = [sys.executable, str(DRIVERS / "stranger.py")]

    def ask(node: str, host: str) -> dict:
        step = ["srun", f"--nodelist={node}", "--cpus-per-task=1", "--mem=2G", *program, host, *words]
        return json.loads(slurm.run(step, repository, timeout_s=180).splitlines()[-1])

    with ThreadPoolExecutor() as pool:
        asked = {f"{node} to {host}": pool.submit(ask, node, host) for node, host in STRANGERS}
        return {name: answer.result() for name, answer in asked.items()}


@pytest.fixture(scope="module")
def story(slurm: Testbed, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("service")
    odd = folder / "a b; $(touch x) 'q'.py"
    odd.write_text("import sys\nprint('words:', sys.argv[1:])\nsys.exit(3)\n")
    options = ["--nodelist=cn1", "--cpus-per-task=2", "--mem=6G", f"--chdir={folder}"]
    job_id = slurm.sbatch([*options, str(repository / SCRIPT)], repository, LEFTOVERS)
    slurm.wait_for_output(job_id, "ready for experiments", BOOT_TIMEOUT_S)
    service = Service(slurm, repository, job_id)
    token = service.token()
    strangers = strangers_of(slurm, repository, job_id)
    refused = fail(service, "logs")
    said_odd = fail(service, "submit", "--follow", f"--job={job_id}", str(odd), "a  b", "$(id)")
    said_odd += service.type("logs", "a-b-touch-x-q--1")
    sent = service.type("submit", str(DRIVERS / "saves_on_sigterm.py"))
    slurm.wait_for_output(job_id, "saves_on_sigterm-1 submitted", BOOT_TIMEOUT_S)
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while "waiting" not in service.type("logs"):
        assert time.monotonic() < deadline, "it never printed that it waits"
    stopped = service.type("stop")
    slurm.wait_for_output(job_id, "saves_on_sigterm-1 stopped", BOOT_TIMEOUT_S)
    status, dashboard = service.type("status"), service.type("dashboard", str(job_id))
    queue = slurm.run(["squeue", "--Format=All"]) + slurm.run(["scontrol", "show", "job", str(job_id)])
    service.type("submit", *small_experiment.words(folder / "results"), "--stage=teacher")
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while not RunStore(folder / "results").folder(RUN).checkpoint.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    slurm.run(["scancel", "--batch", "--signal=USR2", str(job_id)])
    job = slurm.wait(job_id, timeout_s=40)
    yield Story(
        service, strangers, refused, said_odd, sent, stopped, status, dashboard, token, queue, job, leftovers(slurm)
    )


def test_experiment_that_is_sent_runs_and_its_path_and_arguments_stay_words(story: Story, repository: Path) -> None:
    assert "exit code 3: " in story.odd, "that of the experiment is the command's, when it follows"
    assert "words: ['a  b', '$(id)']" in story.odd
    assert not (repository / "x").exists()
    assert "a-b-touch-x-q--1 failed with exit code 3; its output is in " in story.job.output


def test_sent_experiment_says_how_to_follow_it(story: Story) -> None:
    job_id = story.service.job_id
    name = "saves_on_sigterm-1"
    assert story.sent == f"submitted as {name}; follow it with: python -m raykd logs --job {job_id} -f {name}\n"


def test_stopped_experiment_has_time_to_save_and_its_log_is_kept(story: Story) -> None:
    assert story.stopped == "saves_on_sigterm-1 is asked to save and end\n"
    assert [line.split()[:2] for line in story.status.splitlines()] == [
        ["a-b-touch-x-q--1", "failed"],
        ["saves_on_sigterm-1", "stopped"],
    ]
    log = story.service.slurm.folder / f"slurm-{story.service.job_id}-saves_on_sigterm-1.out"
    assert log.read_text().endswith("waiting\nsaved\n")


def test_warned_job_stops_what_runs_and_it_is_saved(story: Story) -> None:
    assert (story.job.state, story.job.exit_code) == ("FAILED", 75), story.job.output
    assert "stopped before the job's end: digits-1; submit them again to resume" in story.job.output
    assert "requeu" not in story.job.output, "what was sent to it would not be sent again"
    folder = RunStore(Path(re.findall(r"--results (\S+)", story.job.output)[0])).folder(RUN)
    assert folder.status() == "interrupted" and folder.checkpoint.is_file()


def test_variables_of_another_job_are_named_and_ignored(story: Story) -> None:
    assert (
        "caution: SLURM_GPUS=7, SLURM_MEM_PER_CPU=77 in the environment: ignored, since this job has"
        in story.job.output
    )


def test_mistakes_are_one_line(story: Story, slurm: Testbed, repository: Path) -> None:
    assert story.refused.endswith(
        "raykd: no experiment was submitted to this job yet; submit one with: python -m raykd submit FILE [ARGS...]"
    )
    service = story.service
    assert fail(service, "status").endswith(
        "raykd: no raykd job is running; name one with --job JOBID ('squeue --me' lists them)"
    )
    assert f"raykd: job {service.job_id} is failed: its Ray is up only while the job is running" in fail(
        service, "status", f"--job={service.job_id}"
    )
    assert "Invalid job id specified); run this on a machine of the cluster" in fail(service, "dashboard", "1")


def test_dashboard_tells_the_tunnel_and_how_to_see_the_token(story: Story) -> None:
    port = re.findall(r"dashboard at http://127\.0\.0\.1:(\d+)", story.job.output)[0]
    assert f"ssh -N -L 8265:127.0.0.1:{port} -J " in story.dashboard
    assert f"srun --jobid={story.service.job_id} --overlap" in story.dashboard


def test_token_is_nowhere_to_be_read(story: Story) -> None:
    said = "".join([*story.service.said, story.job.output, story.queue, story.dashboard])
    assert len(story.token) == 64 and story.token not in said


def test_strangers_are_other_users(story: Story) -> None:
    assert {found["user"] for found in story.strangers.values()} == {NOBODY}


def test_token_cannot_be_read(story: Story) -> None:
    # On cn3, which shares this machine's /tmp, as little as on the job's own node.
    assert {found["token"] for found in story.strangers.values()} == {"PermissionError"}


def test_dashboard_and_jobs_answer_nobody_without_the_token(story: Story) -> None:
    local = story.strangers["cn1 to 127.0.0.1"]
    assert (local["http"], local["http with a wrong token"], local["submit"]) == (401, 403, 401)
    assert "refused" in str(story.strangers["cn3 to 10.88.0.11"]["http"]), "the dashboard listens on loopback only"


@pytest.mark.parametrize("door", ["gcs", "client"])
def test_ray_lets_nobody_in_without_the_token(story: Story, door: str) -> None:
    for name, found in story.strangers.items():
        assert found[f"{door} with the token"] == "in", f"{name}: there was nothing to get into"
        assert found[door] in ("refused", "no answer"), name


def test_agents_take_no_jobs_without_the_token(story: Story) -> None:
    for name, found in story.strangers.items():
        assert found["agent"] in (401, 403) or "refused" in str(found["agent"]), f"{name}: {found['agent']}"


def test_nothing_stays_when_the_job_is_gone(story: Story) -> None:
    assert story.left == []
