"""Run a command with SIGTERM unblocked. It is blocked in Ray's processes and all their children (subreaper.py).

python -m raykd.cluster.unblocked python experiments/digits.py
"""

import os
import signal
import sys

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.execvp(sys.argv[1], sys.argv[1:])
