"""Downloads of CIFAR-10 from a web server on this machine."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10

from raykd.data import cifar
from raykd.data.load import load_dataset
from raykd.errors import DataError


@pytest.fixture
def remote(python_archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the archive that CIFAR10.url points to."""
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=python_archive)) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        yield python_archive / CIFAR10.filename
        server.shutdown()


def test_downloaded_folder_can_be_loaded(remote: Path, tmp_path: Path) -> None:
    batches = cifar.download("cifar10", tmp_path / "new")
    assert batches == tmp_path / "new" / "cifar-10-batches-py"
    assert len(load_dataset("cifar10", tmp_path / "new").train) == 20


def test_intact_archive_is_not_downloaded_again(remote: Path, tmp_path: Path) -> None:
    cifar.download("cifar10", tmp_path / "new")
    remote.unlink()
    cifar.download("cifar10", tmp_path / "new")


@pytest.mark.parametrize("fault", ["gone", "changed"])
def test_error_for_a_failed_download_has_the_remedy(remote: Path, tmp_path: Path, fault: str) -> None:
    remote.unlink() if fault == "gone" else remote.write_bytes(b"another archive")
    with pytest.raises(DataError, match=r"new: could not download http:.*copy cifar-10-python\.tar\.gz there"):
        cifar.download("cifar10", tmp_path / "new")
