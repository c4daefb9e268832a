"""Python objects that the first worker of a group sends to the others, signed, so that no stranger can send one.

Objects are pickled, and unpickling can execute code. gloo authenticates no connection: a process that connects to
a worker's port before its peer does is taken for the peer. Each message therefore has an HMAC (RFC 2104) of a secret
that the workers receive over Ray, whose connections require the job's token.
"""

import hashlib
import hmac
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from raykd.errors import RunFailed

Value = TypeVar("Value")
SIGNATURE_BYTES = hashlib.sha256().digest_size
_NUMBER_BYTES = 8

_secret = b""
_num_sent: Counter[int] = Counter()  # by the size of the group, since its members send and receive in the same order


def share_secret(secret: bytes) -> None:
    """Set the secret of this process's messages, at the start of its process group."""
    global _secret  # noqa: PLW0603 - one process group per process
    _secret = secret
    _num_sent.clear()


def broadcast(make: Callable[[], Value], is_first: bool, size: int, process_group: Any) -> Value:
    """Call `make` on the first of `size` workers and return its result on all of them.

    process_group: torch's process group of these workers; None for the default group. Raises RunFailed on a worker that
    received something else than the first worker sent.
    """
    number = _num_sent[size]
    _num_sent[size] += 1
    sent = sealed(pickle.dumps(make()), number) if is_first else b""
    length = torch.tensor([len(sent)], dtype=torch.int64)
    dist.broadcast(length, src=0, group=process_group)
    message = torch.empty(int(length), dtype=torch.uint8)
    if is_first:
        message = torch.frombuffer(bytearray(sent), dtype=torch.uint8)
    dist.broadcast(message, src=0, group=process_group)
    return pickle.loads(opened(message.numpy().tobytes(), number))  # noqa: S301 - signed by the first worker


def sealed(content: bytes, number: int) -> bytes:
    """Return the message with this content. number: of messages before it, so that none can be sent twice."""
    return _signature(content, number) + content


def opened(message: bytes, number: int) -> bytes:
    """Return the content of a message. Raises RunFailed unless a holder of the secret sealed it with this number."""
    signature, content = message[:SIGNATURE_BYTES], message[SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(content, number)):
        raise RunFailed(
            "a message of the first worker was changed on its way, or sent by another process; rerun the same command "
            "to resume"
        )
    return content


def _signature(content: bytes, number: int) -> bytes:
    return hmac.digest(_secret, number.to_bytes(_NUMBER_BYTES, "big") + content, "sha256")
