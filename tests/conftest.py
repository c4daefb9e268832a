"""What all tests share: quiet threads and a small experiment on the digits."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; set before torch is imported
