"""End with exit code 3 on SIGUSR2, like a driver that saves its state, or with 0 after five minutes."""

import signal
import sys
import time

signal.signal(signal.SIGUSR2, lambda *_: sys.exit(3))
print("waiting", flush=True)
time.sleep(300)
