"""Wait five minutes for SIGTERM, and then take longer to save than Ray grants a job by default."""

import signal
import sys
import time

SAVING_S = 4  # Ray's default limit is 3


def save(*_: object) -> None:
    time.sleep(SAVING_S)
    print("saved", flush=True)
    sys.exit(75)


signal.signal(signal.SIGTERM, save)
print("waiting", flush=True)
time.sleep(300)
