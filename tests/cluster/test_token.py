"""A job's token reaches only the job's dashboard, whatever variables the user's shell has.

Listeners on loopback replace the addresses of RAY_ADDRESS, a proxy or a redirect, and record what they receive.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from raykd.cluster import jobs_api
from raykd.cluster.job_folder import JobFolder, folder_path
from raykd.cluster.jobs_api import JobsApi
from raykd.cluster.ray_variables import address_in, clear, without_ray
from raykd.errors import ConfigError, RaykdError

ROOT = Path(__file__).parents[2]
JOB_ID = 4711
TOKEN = "f" * 64
JOBS = [
    {
        "submission_id": "a-1", "type": "SUBMISSION", "status": "RUNNING", "entrypoint": "true",
        "start_time": 1_000, "end_time": None, "metadata": {"command": "a.py"}, "driver_exit_code": None,
    }
]  # fmt: skip


@dataclass
class Listener:
    """An HTTP server at 127.0.0.1 that records every request."""

    port: int
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def listener(status: int = 200, body: object = JOBS, location: str = "") -> Iterator[Listener]:
    """Start a server with one answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            recorder.requests.append(f"{self.requestline}\n{self.headers}")
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_CONNECT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    recorder = Listener(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def job(tmp_path: Path) -> Callable[[Listener], JobFolder]:
    """Make the folder of a running job whose dashboard is a listener."""

    def make(dashboard: Listener) -> JobFolder:
        folder = JobFolder(folder_path(JOB_ID, {"RAYKD_TMP": str(tmp_path)}))
        folder.path.mkdir()
        folder.token_path.write_text(TOKEN)
        folder.write_facts(dashboard=dashboard.port, token=str(folder.token_path), submit_dir=str(tmp_path))
        return folder

    return make


def client(folder: JobFolder, action: str, arguments: dict, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the process of a step on the head's node."""
    command = [sys.executable, "-m", "raykd.cluster.head_client", str(JOB_ID), action, json.dumps(arguments)]
    environ = dict(os.environ) | {"RAYKD_TMP": str(folder.path.parent)} | variables
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def leftovers(stranger: Listener, home: Path) -> dict[str, str]:
    """Return leftovers in a shell: addresses, headers, proxies, and a password file for this host."""
    (home / ".netrc").write_text("default login me password secret\n")
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"), stranger.url)
    return proxies | {
        "RAY_ADDRESS": stranger.url,
        "RAY_API_SERVER_ADDRESS": stranger.url,
        "RAY_JOB_HEADERS": '{"X-Leftover": "1"}',
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "e" * 64,
        "no_proxy": "example.org",
        "NO_PROXY": "example.org",
        "HOME": str(home),
    }


@pytest.mark.parametrize(
    ("action", "arguments"), [("status", {}), ("stop", {"name": "a-1"}), ("logs", {"name": "", "follow": False})]
)
def test_commands_contact_only_their_job_with_its_token(job, tmp_path: Path, action: str, arguments: dict) -> None:
    answer = {"status": JOBS, "stop": JOBS, "logs": JOBS}[action]
    with listener(body=answer) as dashboard, listener() as stranger:
        done = client(job(dashboard), action, arguments, **leftovers(stranger, tmp_path))
    assert stranger.requests == []
    assert dashboard.requests, done.stderr
    for request in dashboard.requests:
        assert f"Authorization: Bearer {TOKEN}\n" in request and "e" * 64 not in request and "Leftover" not in request


def test_a_redirect_is_not_followed(job) -> None:
    with listener() as stranger, listener(302, "moved", stranger.url) as dashboard:
        done = client(job(dashboard), "status", {})
    assert dashboard.requests and stranger.requests == []
    assert (done.returncode, done.stderr) == (
        1,
        'raykd: the request to the job\'s Ray cluster failed: 302 Found "moved"\n',
    )


def test_a_submission_contacts_only_the_job(job, tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("")
    with listener() as dashboard, listener() as stranger:
        client(job(dashboard), "submit", {"experiment": ["b.py"], "follow": False}, **leftovers(stranger, tmp_path))
    assert stranger.requests == []
    assert any(request.startswith("POST /api/jobs/ ") for request in dashboard.requests)


def test_the_server_contacts_only_its_job(job, tmp_path: Path) -> None:
    """The server polls every two seconds, until it receives SIGTERM and no experiment runs."""
    with listener(body=[]) as dashboard, listener() as stranger:
        folder = job(dashboard)
        command = [sys.executable, "-m", "raykd.cluster.serve", str(JOB_ID), str(tmp_path / "log")]
        environ = dict(os.environ) | {"RAYKD_TMP": str(tmp_path)} | leftovers(stranger, tmp_path)
        server = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        assert "ready for experiments" in server.stdout.readline()
        server.terminate()
        assert server.wait(30) == 0
    assert folder.token() == TOKEN
    assert dashboard.requests and stranger.requests == []


def test_a_process_of_another_user_at_the_dashboards_port_gets_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_api.os, "getuid", lambda: os.geteuid() + 1)  # then this process is the other user's
    message = r"another user listens at the dashboard's port \d+; the token was not sent$"
    with listener() as stranger, pytest.raises(RaykdError, match=message):
        JobsApi(stranger.port, TOKEN).list()
    assert stranger.requests == []


def test_a_missing_dashboard_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RaykdError, match=r"^the request to the job's Ray cluster failed: .*refused") as raised:
        JobsApi(port, TOKEN).list()
    assert "\n" not in str(raised.value)


def test_rays_environment_has_no_leftovers_and_the_passed_on_settings() -> None:
    shell = {
        "HOME": "/h",
        "RAY_ADDRESS": "x:1",
        "RAY_NAMESPACE": "n",
        "RAY_RUNTIME_ENV_HOOK": "m.f",
        "RAY_grpc_enable_http_proxy": "1",
        "RAYKD_TMP": "/t",
        "RAYKD_RAY_memory_usage_threshold": "0.9",
        "RAYKD_RAY_ADDRESS": "y:1",
        "no_proxy": "a,localhost",
    }
    environment = without_ray(shell)
    assert {name: value for name, value in environment.items() if name.startswith("RAY_")} == {
        "RAY_memory_usage_threshold": "0.9"
    }
    assert environment["HOME"] == "/h" and environment["no_proxy"] == "a,localhost,127.0.0.1"


def test_proxy_exceptions_of_either_variable_are_in_both() -> None:
    environment = without_ray({"NO_PROXY": "a.org, b.org", "no_proxy": "c.org"})
    assert environment["no_proxy"] == environment["NO_PROXY"] == "c.org,a.org,b.org,127.0.0.1,localhost"


@pytest.mark.parametrize("address", [None, "", "local"])
def test_a_private_ray_inherits_no_variable_of_another(address: str | None) -> None:
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "e", "RAY_USE_TLS": "1", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    if address is not None:
        environ["RAY_ADDRESS"] = address
    clear(environ)
    assert not [name for name in environ if name.startswith("RAY_")]


def test_the_variables_to_connect_to_a_named_ray_are_kept() -> None:
    entry = {
        "RAY_ADDRESS": "10.0.0.2:6379", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/t", "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": "/c", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}",
    }  # fmt: skip
    environ = entry | {"RAY_NAMESPACE": "n", "RAY_API_SERVER_ADDRESS": "http://other"}
    clear(environ)
    assert {name: value for name, value in environ.items() if name.startswith("RAY_")} == entry
    assert "10.0.0.2" in environ["no_proxy"].split(",")


@pytest.mark.parametrize(
    "address",
    [
        "auto",
        "http://10.0.0.2:8265",
        "ray://10.0.0.2:10001",
        "10.0.0.2",
        ":6379",
        "10.0.0.2:",
        "h:0",
        "h:65536",
        "a b:1",
    ],
)
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS = .*: must be HOST:PORT of a running Ray cluster.*; unset it"):
        address_in({"RAY_ADDRESS": address})


def test_an_address_of_a_ray_is_accepted() -> None:
    assert address_in({"RAY_ADDRESS": "cn1:24000"}) == "cn1:24000"
    assert address_in({"RAY_ADDRESS": "[::1]:24000"}) == "[::1]:24000"
