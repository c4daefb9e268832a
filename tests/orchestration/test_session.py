"""One command's private Ray cluster: it requires the token, only its user can read its files, and it ends cleanly."""

import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
from experiment_runs import Command, command, environment, wait_until
from rich.console import Console

from raykd.errors import ConfigError, Interrupted, RayNotStarted
from raykd.orchestration import session
from raykd.orchestration.stop_signals import stop_signals

# Ray starts in other processes here; a group, since they would slow each other down.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

# Variables of another Ray cluster in the shell of this command.
LEFTOVERS = {
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
    "RAY_AUTH_TOKEN": "e" * 64,
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 7}',
    "RAY_NAMESPACE": "other",
    "RAY_RUNTIME_ENV_HOOK": "no_such_module.hook",
    "OMP_PROC_BIND": "true",
    "http_proxy": "http://127.0.0.1:9",
}
# The first request of ray.init, made directly because ray.init would retry for 20 s.
CONNECT = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]); print('connected')"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Make a short RAYKD_TMP, as Ray's sockets require."""
    made = Path(tempfile.mkdtemp(prefix="rk", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@dataclass(frozen=True)
class Private:
    """A command in training, and where its Ray cluster is. folder: of the user's commands."""

    command: Command
    dashboard: str
    token: Path
    folder: Path


@pytest.fixture(scope="module")
def private(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    results = tmp_path_factory.mktemp("results")
    environ = environment(cpus=1) | {"RAYKD_TMP": str(folder)} | LEFTOVERS
    words = ["--results", str(results), "--stage", "baseline", "--set", "seeds=0", "--set", "student.epochs=5000"]
    with command(words, environ, results / "output") as made:
        line = made.wait_for("; dashboard")
        found = re.fullmatch(r"1 run at a time with 1 CPU; dashboard (http://127\.0\.0\.1:\d+), token in (\S+)", line)
        assert found, line
        yield Private(made, found[1], Path(found[2]), folder / f"raykd-{os.getuid()}")


def status_of(url: str, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_dashboard_requires_the_token(private: Private) -> None:
    url = f"{private.dashboard}/nodes?view=summary"
    assert status_of(url, None) == 401
    assert status_of(url, "0" * 64) in (401, 403)
    assert status_of(url, private.token.read_text()) == 200


def gcs_port(private: Private) -> int:
    (file,) = (private.folder / "ray" / "session_latest").glob("gcs_server_port_*")
    return int(file.read_text())


@pytest.mark.parametrize("has_token", [False, True])
def test_cluster_requires_the_token(private: Private, has_token: bool) -> None:
    environ = environment(cpus=1)
    if has_token:
        environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(private.token)}
    words = [sys.executable, "-c", CONNECT, f"127.0.0.1:{gcs_port(private)}"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=90, check=False)
    assert ("connected" in done.stdout) == (done.returncode == 0) == has_token
    assert has_token or "AuthenticationError" in done.stderr


def test_only_this_user_can_read_the_files(private: Private) -> None:
    assert stat.S_IMODE(private.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(private.token.stat().st_mode) == 0o600
    assert private.folder in private.token.parents


def test_state_api_in_rays_processes_finds_their_own_cluster_beside_another(private: Private, cluster: str) -> None:
    """Train finds out by it that a controller has died, and frees what the controller's workers used."""
    import ray
    from ray.util.state import get_node

    node_id = ray.get_runtime_context().get_node_id()
    node: Any = ray.get(ray.remote(num_cpus=0)(lambda: get_node(node_id)).remote())
    assert node is not None and node.node_id == node_id


@pytest.mark.nightly
def test_stopped_command_leaves_no_process_and_no_token(private: Private) -> None:
    processes = psutil.Process(private.command.process.pid).children(recursive=True)
    assert len(processes) > 5
    private.command.process.terminate()
    ended = private.command.end()
    assert ended.exit_code == Interrupted.exit_code
    ignored, stopped = ended.errors
    assert ignored == "OMP_PROC_BIND=true: ignored, because all runs would compute on the same CPU"
    assert stopped == "raykd: stopped; every run is saved; rerun the same command to resume"
    assert [path.name for path in private.folder.iterdir()] == ["ray"], "something but Ray's logs was left"
    wait_until(lambda: not any(process.is_running() for process in processes), "the end of Ray's processes")


def test_address_without_a_ray_is_refused_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1:9 .*unset it"):  # noqa: SIM117
        with session._shared_ray("127.0.0.1:9"):
            pass
    assert time.monotonic() - began < 60


class RayThatFails:
    """A fake module `ray`, so that these tests neither import Ray nor shut down the one that tests share."""

    def __init__(self, *reasons: str) -> None:
        self.reasons, self.calls = list(reasons), []

    def init(self, **_: object) -> None:
        self.calls.append("init")
        raise Exception(self.reasons.pop(0))  # Ray has no type of its own for it

    def is_initialized(self) -> bool:
        return False

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def test_ray_that_a_busy_machine_starts_too_slowly_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself gives up after 30 s. Any other error is raised immediately."""
    ray = RayThatFails("The current node timed out during startup.", "the disk is full")
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(Exception, match="the disk is full"):
        session._connect("local", {}, 180.0)
    assert ray.calls == ["init", "shutdown", "init"]


def test_command_whose_ray_does_not_start_ends_with_the_exit_code_of_an_interruption(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_open", [])  # the session of the shared Ray cluster may be open
    monkeypatch.setattr(session, "_private_ray", lambda: nullcontext({"_temp_dir": str(folder)}))
    monkeypatch.setitem(sys.modules, "ray", ray := RayThatFails("no memory"))
    with mock.patch.dict(os.environ):  # the session changes it
        os.environ.pop("RAY_ADDRESS", None)
        with pytest.raises(RayNotStarted, match=r"Ray did not start \(no memory\)") as caught, session.ray_session():
            pytest.fail("the session began without a Ray cluster")
    assert ray.calls == ["init"]
    assert caught.value.exit_code == Interrupted.exit_code


HALF_STARTED = """
import sys
import psutil
from ray._private import services
from raykd.orchestration import session

def fail(*_):
    raise Exception("The current node timed out during startup.")

services.get_node = fail
settings = {"_temp_dir": sys.argv[1], "include_dashboard": False, "num_cpus": 1}
try:
    session._connect("local", settings, timeout_s=float(sys.argv[2]))
except Exception as error:
    print(error)
children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
print("left:", [child.name() for child in children])
"""


def test_start_that_fails_leaves_no_process(folder: Path) -> None:
    words = [sys.executable, "-c", HALF_STARTED, str(folder / "ray"), "2"]  # Ray lets every user write to it
    done = subprocess.run(words, env=environment(cpus=1), capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["The current node timed out during startup.", "left: []"]


def test_session_of_a_connected_process_keeps_the_handlers_of_signals(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Ray's handler SIGTERM would end the command without saving."""
    monkeypatch.setattr(session, "_open", [])  # as if the test itself had called ray.init
    with stop_signals(Console(file=io.StringIO())) as stopped:
        handler = signal.getsignal(signal.SIGTERM)
        with session.ray_session():
            assert signal.getsignal(signal.SIGTERM) is handler
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopped.wait(10)


def test_session_of_a_connected_process_leaves_its_environment_unchanged(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Tuner of the user that follows writes its own files again."""
    monkeypatch.setattr(session, "_open", [])
    for name in session._SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "1")
    before = dict(os.environ)
    with session.ray_session():
        assert os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] == "1"
        assert os.environ["RAY_AIR_NEW_OUTPUT"] == "1"
    assert dict(os.environ) == before


def test_private_session_leaves_the_environment_unchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_open", [])
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(session, "_connect", lambda *_: environs.append(dict(os.environ)) or 1 / 0)
    environs: list[dict[str, str]] = []
    with mock.patch.dict(os.environ, LEFTOVERS | {"RAYKD_TMP": str(folder)}):
        for name in ("RAY_ADDRESS", "TMPDIR"):
            os.environ.pop(name, None)
        before = dict(os.environ)
        with pytest.raises(RayNotStarted), session.ray_session():
            pytest.fail("the session began without a Ray cluster")
        assert dict(os.environ) == before
    (during,) = environs
    assert not {"RAY_NAMESPACE", "OMP_PROC_BIND"} & set(during)
    assert during["RAY_AUTH_MODE"] == "token" and str(folder) in during["TMPDIR"]
    assert during["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "the order in which Slurm numbers the GPUs of a job"


@pytest.mark.parametrize(("num_cpus", "settings"), [(8, {"num_cpus": 8}), (128, {})])
def test_ray_has_the_cpus_that_the_command_may_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch, num_cpus: int, settings: dict[str, int]
) -> None:
    """In the shell of `srun --cpus-per-task=8 --pty`, Ray would count all CPUs of the node."""
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cpus)))
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with mock.patch.dict(os.environ, {"RAYKD_TMP": str(folder)}), session._private_ray() as started_with:
        assert settings == {name: value for name, value in started_with.items() if name.startswith("num_")}


@pytest.mark.parametrize(("num_gpus", "settings"), [(2, {"num_gpus": 2}), (0, {})])
def test_ray_has_the_gpus_that_torch_sees_also_without_nvml(
    folder: Path, monkeypatch: pytest.MonkeyPatch, num_gpus: int, settings: dict[str, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with mock.patch.dict(os.environ, {"RAYKD_TMP": str(folder)}), session._private_ray() as started_with:
        assert settings == {name: value for name, value in started_with.items() if name == "num_gpus"}


def test_without_affinity_as_on_macos_all_cpus_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert session.num_usable_cpus() == 10 and session._usable_cpus() == {}


COUNT_WORKERS = """
import multiprocessing, time
import psutil
multiprocessing.cpu_count = lambda: 24  # by which Ray limits how many workers it starts concurrently
from raykd.orchestration.session import ray_session

def workers():
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True) if child.is_running()]
    return sum("default_worker.py" in command or command.startswith("ray::IDLE") for command in commands)

with ray_session():
    counts = []
    while len(counts) < 5 or len(set(counts[-5:])) > 1:
        time.sleep(1)
        counts.append(workers())
    print("workers:", max(counts))
"""


@pytest.mark.nightly
@pytest.mark.parametrize(("limit", "expected"), [("", 16), ("5", 5)], ids=["default", "RAYKD_RAY_*"])
def test_ray_starts_about_16_idle_workers_on_a_node_with_many_cpus(folder: Path, limit: str, expected: int) -> None:
    environ = environment(cpus=24) | {"RAYKD_TMP": str(folder)}
    if limit:
        environ["RAYKD_RAY_worker_maximum_startup_concurrency"] = limit
    counting = subprocess.run(
        [sys.executable, "-c", COUNT_WORKERS], env=environ, capture_output=True, text=True, timeout=200, check=False
    )
    found = re.fullmatch(r"workers: (\d+)\n", counting.stdout)
    assert found, counting.stdout + counting.stderr
    assert int(found[1]) in (expected, expected + 1)  # another may start once the first ones are up
