"""Messages between the workers of a run are executed only if the first worker signed them."""

import pickle
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from raykd.errors import RunFailed
from raykd.training import messages

CONTENT = pickle.dumps({"job": "train"})


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def secret() -> Iterator[bytes]:
    value = secrets.token_bytes(32)
    messages.share_secret(value)
    yield value
    messages.share_secret(b"")


def test_message_is_opened_to_the_bytes_that_were_sealed() -> None:
    assert messages.opened(messages.sealed(CONTENT, 3), 3) == CONTENT


@pytest.mark.parametrize("position", [0, messages.SIGNATURE_BYTES - 1, messages.SIGNATURE_BYTES, -1])
def test_message_with_one_changed_byte_is_refused(position: int) -> None:
    message = bytearray(messages.sealed(CONTENT, 0))
    message[position] ^= 1
    with pytest.raises(RunFailed, match=r"changed on its way, or sent by another process; rerun the same command"):
        messages.opened(bytes(message), 0)


@pytest.mark.parametrize("length", [0, messages.SIGNATURE_BYTES, len(CONTENT)])
def test_truncated_message_is_refused(length: int) -> None:
    with pytest.raises(RunFailed, match="changed on its way"):
        messages.opened(messages.sealed(CONTENT, 0)[:length], 0)


def test_repeated_message_is_refused() -> None:
    with pytest.raises(RunFailed, match="changed on its way"):
        messages.opened(messages.sealed(CONTENT, 0), 1)


def test_message_with_another_secret_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that connects to a worker's port is taken for worker 0: what it sends must not be executed."""
    received = iter([])

    def send_trap(tensor, **_: object) -> None:
        nonlocal received
        if tensor.numel() == 1:
            messages.share_secret(b"a secret of the stranger")
            message = messages.sealed(pickle.dumps(Trap(tmp_path / "executed")), 0)
            messages.share_secret(b"the secret of the run")
            received = iter(message)
            tensor.fill_(len(message))
        else:
            tensor.copy_(tensor.new_tensor(list(received)))

    monkeypatch.setattr("torch.distributed.broadcast", send_trap)
    with pytest.raises(RunFailed, match="sent by another process"):
        messages.broadcast(lambda: None, is_first=False, size=2, process_group=None)
    assert not (tmp_path / "executed").exists()
