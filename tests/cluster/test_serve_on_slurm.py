"""A job that accepts experiments: its owner submits, follows and stops them; other users are refused."""

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

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]

NOBODY = 65_534
STRANGERS = (("cn1", "127.0.0.1"), ("cn3", "10.88.0.11"))  # the prober's node, and the address of cn1 that it tries
# Leftovers of another Ray cluster and another job in the shell where commands are typed. Requests to them would fail.
LEFTOVERS = {
    "RAY_ADDRESS": "http://127.0.0.1:9",
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
    "RAY_AUTH_TOKEN": "e" * 64,
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 99}',
    "http_proxy": "http://127.0.0.1:9",
    "SLURM_GPUS": "7",
    "SLURM_MEM_PER_CPU": "77",
}
BOOT_TIMEOUT_S = 180
COMMAND_TIMEOUT_S = 60
RUN = small_experiment.runs(("teacher",))[0]


@dataclass
class Service:
    """The job, and commands typed on the login node. printed: all their output."""

    slurm: Testbed
    repository: Path
    job_id: int
    printed: list[str] = field(default_factory=list)

    def type(self, *words: str) -> str:
        """`raykd WORDS`; raises RuntimeError with its errors for an exit code other than 0."""
        command = [sys.executable, "-m", "raykd", *words]
        self.printed.append(self.slurm.run(command, self.repository, LEFTOVERS, timeout_s=COMMAND_TIMEOUT_S))
        return self.printed[-1]

    @property
    def log(self) -> str:
        return self.slurm.output(self.job_id)

    def token(self) -> str:
        return Path(f"/tmp/rk-{os.getuid()}-{self.job_id}/token").read_text()


@dataclass(frozen=True)
class History:
    """What happened to the job from its start to its end, in order."""

    service: Service
    strangers: dict[str, dict]
    refused: str  # errors of `logs` before the first submission
    odd: str  # output of an experiment whose path and arguments a shell would interpret
    submitted: str
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
    """Return what another user can reach from the job's node (cn1) and from another node (cn3)."""
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
def history(slurm: Testbed, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    folder = tmp_path_factory.mktemp("service")
    odd_file = folder / "a b; $(touch x) 'q'.py"
    odd_file.write_text("import sys\nprint('words:', sys.argv[1:])\nsys.exit(3)\n")
    options = ["--job-name=mine", "--nodelist=cn1", "--cpus-per-task=2", "--mem=6G", f"--chdir={folder}"]
    job_id = slurm.sbatch([*options, str(repository / SCRIPT)], repository, LEFTOVERS)
    slurm.wait_for_output(job_id, "ready for experiments", BOOT_TIMEOUT_S)
    service = Service(slurm, repository, job_id)
    token = service.token()
    strangers = strangers_of(slurm, repository, job_id)
    refused = fail(service, "logs")
    odd = fail(service, "submit", "--follow", f"--job={job_id}", str(odd_file), "a  b", "$(id)")
    odd += service.type("logs", "a-b-touch-x-q--1")
    submitted = service.type("submit", str(DRIVERS / "saves_on_sigterm.py"))
    slurm.wait_for_output(job_id, "saves_on_sigterm-1 submitted", BOOT_TIMEOUT_S)
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while "waiting" not in service.type("logs"):
        assert time.monotonic() < deadline, "it never printed that it is waiting"
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
    yield History(
        service, strangers, refused, odd, submitted, stopped, status, dashboard, token, queue, job, leftovers(slurm)
    )


def test_a_submitted_experiment_runs_and_no_shell_reads_its_arguments(history: History, repository: Path) -> None:
    assert "exit code 3: " in history.odd, "a command that follows ends with the experiment's exit code"
    assert "words: ['a  b', '$(id)']" in history.odd
    assert not (repository / "x").exists()
    assert "a-b-touch-x-q--1 failed with exit code 3; its output is in " in history.job.output


def test_a_submission_prints_how_to_follow_it(history: History) -> None:
    job_id = history.service.job_id
    name = "saves_on_sigterm-1"
    expected = f"submitted as {name}; follow it with: raykd logs --job {job_id} -f {name}\n"
    assert history.submitted.replace("python -m ", "") == expected  # if the job has no script raykd on PATH


def test_a_stopped_experiment_has_time_to_save_and_its_log_is_copied(history: History) -> None:
    assert history.stopped == "saves_on_sigterm-1 saves and then ends\n"
    assert [line.split()[:2] for line in history.status.splitlines()] == [
        ["a-b-touch-x-q--1", "failed"],
        ["saves_on_sigterm-1", "stopped"],
    ]
    log = history.service.slurm.folder / f"slurm-{history.service.job_id}-saves_on_sigterm-1.out"
    assert log.read_text().endswith("waiting\nsaved\n")


def test_a_warned_job_stops_its_experiments_and_they_save(history: History) -> None:
    assert (history.job.state, history.job.exit_code) == ("FAILED", 75), history.job.output
    assert "stopped before the job's end: digits-1; submit them again to resume" in history.job.output
    assert "requeu" not in history.job.output, "its experiments would not be submitted again"
    folder = RunStore(Path(re.findall(r"--results (\S+)", history.job.output)[0])).folder(RUN)
    assert folder.status() == "interrupted" and folder.checkpoint.is_file()


def test_variables_of_another_job_are_named_and_ignored(history: History) -> None:
    assert (
        "warning: SLURM_GPUS=7, SLURM_MEM_PER_CPU=77 in the environment: ignored, because this job has"
        in history.job.output
    )


def test_mistakes_are_reported_in_one_line(history: History, slurm: Testbed, repository: Path) -> None:
    assert history.refused.replace("python -m ", "").endswith(
        "raykd: no experiment was submitted to this job yet; submit one with: raykd submit FILE [ARGS...]"
    )
    service = history.service
    assert fail(service, "status").endswith(
        "raykd: no raykd job is running; name one with --job JOBID ('squeue --me' lists them)"
    )
    assert f"raykd: job {service.job_id} is failed: its Ray cluster is up only while the job is running" in fail(
        service, "status", f"--job={service.job_id}"
    )
    assert "Invalid job id specified); run this on a machine of the cluster" in fail(service, "dashboard", "1")


def test_the_dashboard_command_prints_the_tunnel_and_how_to_print_the_token(history: History) -> None:
    port = re.findall(r"dashboard at http://127\.0\.0\.1:(\d+)", history.job.output)[0]
    assert f"ssh -N -L 8265:127.0.0.1:{port} -J " in history.dashboard
    assert f"srun --jobid={history.service.job_id} --overlap" in history.dashboard


def test_the_token_appears_in_no_output(history: History) -> None:
    printed = "".join([*history.service.printed, history.job.output, history.queue, history.dashboard])
    assert len(history.token) == 64 and history.token not in printed


def test_the_probes_run_as_another_user(history: History) -> None:
    assert {found["user"] for found in history.strangers.values()} == {NOBODY}


def test_another_user_cannot_read_the_token(history: History) -> None:
    # cn3 shares this machine's /tmp with the job's node.
    assert {found["token"] for found in history.strangers.values()} == {"PermissionError"}


def test_the_dashboard_and_the_jobs_api_refuse_requests_without_the_token(history: History) -> None:
    local = history.strangers["cn1 to 127.0.0.1"]
    assert (local["http"], local["http with a wrong token"], local["submit"]) == (401, 403, 401)
    assert "refused" in str(history.strangers["cn3 to 10.88.0.11"]["http"]), "the dashboard listens on loopback only"


@pytest.mark.parametrize("door", ["gcs", "client"])
def test_ray_refuses_connections_without_the_token(history: History, door: str) -> None:
    for name, found in history.strangers.items():
        assert found[f"{door} with the token"] == "in", f"{name}: Ray cannot be reached at all"
        assert found[door] in ("refused", "no answer"), name


def test_agents_refuse_jobs_without_the_token(history: History) -> None:
    for name, found in history.strangers.items():
        assert found["agent"] in (401, 403) or "refused" in str(found["agent"]), f"{name}: {found['agent']}"


def test_nothing_is_left_after_the_job(history: History) -> None:
    assert history.left == []
