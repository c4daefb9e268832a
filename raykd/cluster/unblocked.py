"""Runs a command with SIGTERM unblocked, which Ray's processes and all that they start have blocked (subreaper.py).

python -m raykd.cluster.unblocked python experiments/digits.py
"""

import os
import signal
import sys

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.execvp(sys.argv[1], sys.argv[1:])
