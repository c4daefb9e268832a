"""A Ray for one command: the job's own cluster where RAY_ADDRESS names one, else a private one on this machine."""

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Train polls its workers at this interval; at the default of 2 s it notices an end late, 3.5 s a trainer.
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


_open: list[str | None] = []  # the dashboard of the session that this process is in


@contextmanager
def ray_session() -> Iterator[str | None]:
    """Connect, give the dashboard's address (None where Ray has none), and leave at the end; nested, the same Ray.

    A private Ray gets a token of its own: its ports listen on all interfaces, and whoever reaches one without
    the token runs code as this user. Ray reads its environment once, when it is imported: not before this.
    """
    if _open:
        yield _open[-1]
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    os.environ.update({name: os.environ.get(name, value) for name, value in _SETTINGS.items()})
    with tempfile.TemporaryDirectory(prefix="raykd-") as folder:
        if address == "local":
            assert "ray" not in sys.modules, "ray was imported before its token was made"
            _make_token(Path(folder) / "token")
        import ray

        private = {"include_dashboard": True, "dashboard_host": "127.0.0.1"} if address == "local" else {}
        context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **private)
        _open.append(context.dashboard_url or None)
        try:
            yield _open[-1]
        finally:
            _open.pop()
            ray.shutdown()


def _make_token(path: Path) -> None:
    """Ray's token of this session, readable by this user alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
