"""Wait for SIGUSR2 and end as interrupted; if the job is started again, end with 0."""

import os
import signal
import sys
import time

if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
    print("resumed", flush=True)
    sys.exit(0)
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))
print("waiting", flush=True)
time.sleep(300)
