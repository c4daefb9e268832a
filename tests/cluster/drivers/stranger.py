"""Print as JSON what another user can reach of a job's Ray cluster at HOST, from its first port (GCS) and token path.

Files and HTTP are tried as another Unix user. Ray's client is tried before: it needs this Python's files, which that
user may be unable to read, and a TCP connection has no user.
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

HOST, FIRST_PORT, TOKEN_PATH = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
GCS, DASHBOARD, CLIENT, AGENT = (f"{HOST}:{FIRST_PORT + number}" for number in range(4))
IN_A_MOMENT_S = 15
ON_A_BUSY_NODE_S = 60  # Ray's client starts a process on the node first
NOBODY = 65_534


def http(address: str, path: str, content: bytes | None = None, token: str = "") -> int | str:
    """Return the status of the answer, or why there is none."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(f"http://{address}{path}", data=content, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=IN_A_MOMENT_S) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return type(error).__name__ + ": " + str(error)


def tried(program: str, patience_s: float, **token: str) -> str:
    """Return 'in' if a program with Ray's client reads the job's nodes, 'refused' if it fails, or 'no answer'."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | token
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, env=environ, capture_output=True, timeout=patience_s, check=False, cwd="/")
    except subprocess.TimeoutExpired:
        return "no answer"
    return "refused" if done.returncode else "in"


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        return type(error).__name__


def become(user: int) -> None:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


doors = {
    "gcs": f"from ray._raylet import GcsClient; assert GcsClient(address={GCS!r}).get_all_node_info(timeout=5)",
    "client": f"import ray; ray.init('ray://{CLIENT}', logging_level='ERROR'); assert ray.nodes()",
}
key = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(TOKEN_PATH)}
by_ray = {name: tried(program, IN_A_MOMENT_S) for name, program in doors.items()}
by_ray |= {f"{name} with the token": tried(program, ON_A_BUSY_NODE_S, **key) for name, program in doors.items()}
http("127.0.0.1:9", "/")  # so that urllib imports everything before the user changes
become(NOBODY)
job = json.dumps({"entrypoint": "id"}).encode()
found = by_ray | {
    "user": os.getuid(),
    "token": read(TOKEN_PATH),
    "http": http(DASHBOARD, "/api/jobs/"),
    "http with a wrong token": http(DASHBOARD, "/api/jobs/", token="0" * 64),
    "submit": http(DASHBOARD, "/api/jobs/", content=job),
    "agent": http(AGENT, "/api/job_agent/jobs/", content=job),
}
print(json.dumps(found))
