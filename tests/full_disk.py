"""A run on a filesystem of some hundred KiB that fills up, and once more when there is room. Started by test_full_disk.

unshare --mount python full_disk.py FOLDER
"""

import subprocess
import sys
from pathlib import Path

from small_runs import run_of, train

from raykd.store.run_folder import RunFolder
from raykd.training.failure import job_reason

folder, run = Path(sys.argv[1]), run_of("baseline")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], check=True)
small, straight = RunFolder(folder / "run"), RunFolder(folder.parent / "straight")
try:
    train(run, small)
except OSError as error:
    print(job_reason(error))
print(small.status())
subprocess.run(["mount", "-o", "remount,size=20m", folder], check=True)
train(run, small)
train(run, straight)
print(small.status(), small.best.read_bytes() == straight.best.read_bytes())
