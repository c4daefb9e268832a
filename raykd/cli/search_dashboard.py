"""`raykd tune dashboard`: the Optuna study of a search in optuna-dashboard, on this machine's loopback address.

The dashboard reads the search's journal itself, without a copy, and follows a search in progress. It cannot write
there: only requests that read reach it, and its storage refuses to append to the journal.
"""

import getpass
import socket
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from raykd.errors import COMMAND, ConfigError, did_you_mean, plural, shortened
from raykd.store.results_folder import search_paths
from raykd.store.study import STUDY_NAME, SearchFolder, open_storage

HOST = "127.0.0.1"  # other machines cannot connect
READS = ("GET", "HEAD")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve_dashboard(results: Path, name: str) -> None:
    """Serve the search `name` below `results` until ctrl-C, and print where to open it.

    name: as of `find_search`. Raises ConfigError without optuna-dashboard, for an unknown or ambiguous name, and for a
    search without trials; DamagedFile for a damaged journal.
    """
    if find_spec("optuna_dashboard") is None:
        raise ConfigError("tune dashboard: requires a package that is missing: pip install optuna-dashboard")
    folder = find_search(results, name)
    num_trials = len(folder.trials())
    if not num_trials:
        raise ConfigError(f"search '{folder.full_name}' has no trials yet; '{COMMAND} tune show' prints its progress")
    with make_server(HOST, 0, _application(folder), _Server, _QuietHandler) as server:  # port 0: any free port
        print(_instructions(folder, num_trials, server.server_port), flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def find_search(results: Path, name: str) -> SearchFolder:
    """Return a search by 'family/name', by its name, or by the beginning of one of these; the only one for ''.

    Raises ConfigError, with the names to choose from, unless exactly one search matches.
    """
    folders = {folder.full_name: folder for folder in map(SearchFolder, search_paths(results))}
    known = shortened(", ".join(folders), 500)
    if not folders:
        raise ConfigError(f"no search under '{results}'; start one with {COMMAND} tune experiments/tune_cnn.py")
    exact = [full for full in folders if name in (full, folders[full].path.name)]
    found = exact or [full for full in folders if full.startswith(name) or folders[full].path.name.startswith(name)]
    if len(found) == 1:
        return folders[found[0]]
    if not name:
        raise ConfigError(f"'{results}' has {len(folders)} searches; name one: {known}")
    if found:
        raise ConfigError(f"search '{shortened(name)}' is ambiguous: it may be {shortened(', '.join(found), 500)}")
    names = [*folders, *(folder.path.name for folder in folders.values())]
    raise ConfigError(f"unknown search '{shortened(name)}': known are {known}{did_you_mean(name, names)}")


def _application(folder: SearchFolder) -> Application:
    """Return optuna-dashboard for the study, without the requests that change it."""
    from optuna_dashboard import wsgi

    dashboard = wsgi(open_storage(folder.journal, is_read_only=True))

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READS:
            return dashboard(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "raykd serves a study for reading only"}']

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    """A server with a thread for each request, which end with the process."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """Answers requests without a line in the terminal for each."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _instructions(folder: SearchFolder, num_trials: int, port: int) -> str:
    study = open_storage(folder.journal, is_read_only=True).get_study_id_from_name(STUDY_NAME)
    trials = plural(num_trials, "trial")
    return "\n".join(
        [
            f"{folder.full_name}: {trials}, for reading only; the page follows a search in progress",
            f"open http://{HOST}:{port}/dashboard/studies/{study} in a browser on this machine",
            "on another machine, run this and leave it running, then open the same address there:",
            f"    ssh -N -L {port}:{HOST}:{port} {getpass.getuser()}@{socket.getfqdn()}",
            "ctrl-C ends it",
        ]
    )
