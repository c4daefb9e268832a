"""Takes longer to save on SIGTERM than Ray gives a job by itself; waits five minutes for it."""

import signal
import sys
import time

SAVING_S = 4  # Ray's own limit is 3


def save(*_: object) -> None:
    time.sleep(SAVING_S)
    print("saved", flush=True)
    sys.exit(75)


signal.signal(signal.SIGTERM, save)
print("waiting", flush=True)
time.sleep(300)
