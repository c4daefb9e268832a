"""The token that every connection to raykd's Ray clusters requires: made here, and kept in a private folder's file.

Ray's ports listen on all interfaces, and without a token any client could run code as this user.
"""

import os
import secrets
from pathlib import Path


def make_token() -> str:
    """Return a new secret: 64 hexadecimal digits."""
    return secrets.token_hex(32)


def token_path(folder: Path) -> Path:
    """Return the path of the token's file in a private folder."""
    return folder / "token"


def write_token(folder: Path, token: str) -> None:
    """Write `token` to its file in `folder` (mode 0600). Raises FileExistsError if there is one."""
    with os.fdopen(os.open(token_path(folder), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)


def private_environment(folder: Path) -> dict[str, str]:
    """Return the variables of Ray's processes and clients that use the private `folder` and its token.

    TMPDIR: the dashboard puts sockets there. A longer path would be refused for a socket, and in /tmp the sockets would
    stay when the processes are killed.
    """
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path(folder)), "TMPDIR": str(folder)}
