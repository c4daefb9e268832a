"""Ray's Jobs API on the head's node: HTTP to its dashboard at 127.0.0.1, with the job's token.

Not Ray's own client: that one sends the token to whatever RAY_ADDRESS or RAY_API_SERVER_ADDRESS names, to a proxy, and
after a redirect to another host. Here the address and the token are the job's, and nothing else is ever asked.
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
LISTENING = "0A"  # in /proc/net/tcp, whose addresses are hexadecimal: 127.0.0.1 is 0100007F
HOST_IN_PROC = ("0100007F", "00000000")


class JobsApi:
    """Calls to the dashboard at `port`. `token` is sent there only, and only while this user's process listens."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token

    def list(self) -> list[dict[str, Any]]:
        """The submitted jobs, as Ray describes them (JobDetails), in no order."""
        return [job for job in self._call("GET", "/api/jobs/") if job.get("submission_id")]

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> None:
        """Start `entrypoint`, a shell command, on the head's node."""
        body = {"submission_id": submission_id, "entrypoint": entrypoint, "metadata": metadata, "runtime_env": {}}
        self._call("POST", "/api/jobs/", body)

    def stop(self, submission_id: str) -> bool:
        """Send SIGTERM to a job; False when it has not started yet."""
        return bool(self._call("POST", f"/api/jobs/{submission_id}/stop")["stopped"])

    def _call(self, method: str, path: str, body: object = None) -> Any:
        """The JSON answer. Raises: RaykdError, in one line, for any other answer and for none."""
        _require_own_listener(self._port)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        connection = HTTPConnection(HOST, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status != 200:
                raise _error(f"{answer.status} {answer.reason} {_last_line(text)}")
            return json.loads(text)
        except (OSError, HTTPException, ValueError) as error:
            raise _error(str(error) or type(error).__name__) from None
        finally:
            connection.close()


def _error(reason: str) -> RaykdError:
    return RaykdError(f"the job's Ray does not answer as it should: {reason.strip()}")


def _last_line(text: str) -> str:
    """The line of an error page that holds the reason: the end of a traceback."""
    return next(reversed([line for line in text.splitlines() if line.strip()]), "")[:MAX_REASON]


def _require_own_listener(port: int) -> None:
    """Raise RaykdError when another user's process listens at `port`: it took the port after the dashboard ended."""
    try:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    except OSError:  # no Linux
        return
    places = {f"{host}:{port:04X}" for host in HOST_IN_PROC}
    users = {int(row[7]) for row in rows if row[3] == LISTENING and row[1] in places}
    if users - {os.getuid()}:
        raise _error(f"a process of another user listens at port {port} of its dashboard, and gets no token")
