"""Requests to a job's dashboard: errors are one line. test_token.py tests where the token is sent."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from raykd.cluster.job_folder import JobFolder
from raykd.cluster.submissions import Submissions
from raykd.errors import RaykdError

VERSION = {"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"}


@contextmanager
def server(status: int, content: object) -> Iterator[tuple[int, list[str]]]:
    """Start a dashboard with a valid version and this answer about jobs. Yield its port and the requested paths."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            is_version = self.path.endswith("/version")
            self.send_response(200 if is_version else status)
            self.end_headers()
            self.wfile.write(json.dumps(VERSION if is_version else content).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    dashboard = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=dashboard.serve_forever, daemon=True).start()
    try:
        yield dashboard.server_port, requested
    finally:
        dashboard.shutdown()
        dashboard.server_close()


def test_an_error_of_the_dashboard_is_one_line(tmp_path: Path) -> None:
    with server(500, "Traceback:\n  much") as (port, _):
        JobFolder(tmp_path).write_facts(dashboard=port)
        JobFolder(tmp_path).token_path.write_text("f" * 64)
        submissions = Submissions(JobFolder(tmp_path))
        with pytest.raises(RaykdError, match=r"^the request to the job's Ray cluster failed: ") as raised:
            submissions.all()
    assert "\n" not in str(raised.value)
