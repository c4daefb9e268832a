"""Ray's Jobs API on the head's node: HTTP requests to the dashboard at 127.0.0.1 with the job's token.

Ray's client is not used: it sends the token to the address in RAY_ADDRESS or RAY_API_SERVER_ADDRESS, to a proxy, and
after a redirect to another host. This client connects only to the job's dashboard, with the job's token.
"""

import json
import os
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from raykd.errors import RaykdError

HOST = "127.0.0.1"
TIMEOUT_S = 60.0
MAX_REASON = 300  # characters of an error page
LISTENING = "0A"  # a state in /proc/net/tcp, where addresses are hexadecimal: 127.0.0.1 is 0100007F
HOST_IN_PROC = ("0100007F", "00000000")


class JobsApi:
    """Requests to the dashboard at `port`. The token is sent only there, and only to a process of this user."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token

    def list(self) -> list[dict[str, Any]]:
        """Return the submitted jobs as Ray describes them (JobDetails), unordered."""
        return [job for job in self._call("GET", "/api/jobs/") if job.get("submission_id")]

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> None:
        """Start `entrypoint`, a shell command, on the head's node."""
        body = {"submission_id": submission_id, "entrypoint": entrypoint, "metadata": metadata, "runtime_env": {}}
        self._call("POST", "/api/jobs/", body)

    def stop(self, submission_id: str) -> bool:
        """Send SIGTERM to a job. Return False if it has not started yet."""
        return bool(self._call("POST", f"/api/jobs/{submission_id}/stop")["stopped"])

    def _call(self, method: str, path: str, body: object = None) -> Any:
        """Return the JSON answer. Raises RaykdError, in one line, for any other answer and for none."""
        _require_listener_of_this_user(self._port)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        connection = HTTPConnection(HOST, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status != 200:  # the last line of an error page, the end of a traceback, has the reason
                lines = [line for line in text.splitlines() if line.strip()] or [""]
                raise _error(f"{answer.status} {answer.reason} {lines[-1][:MAX_REASON]}")
            return json.loads(text)
        except (OSError, HTTPException, ValueError) as error:
            raise _error(str(error) or type(error).__name__) from None
        finally:
            connection.close()


def _error(reason: str) -> RaykdError:
    return RaykdError(f"the request to the job's Ray cluster failed: {reason.strip()}")


def _require_listener_of_this_user(port: int) -> None:
    """Raise RaykdError if a process of another user listens at `port`, which it took after the dashboard ended."""
    try:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    except OSError:  # not Linux
        return
    addresses = {f"{host}:{port:04X}" for host in HOST_IN_PROC}
    users = {int(row[7]) for row in rows if row[3] == LISTENING and row[1] in addresses}
    if users - {os.getuid()}:
        raise _error(f"a process of another user listens at the dashboard's port {port}; the token was not sent")
