"""Pack a data set onto a disk that fills up, and once more when there is room. Started by test_full_disk.

unshare --mount python full_disk_packing.py FOLDER
"""

import subprocess
import sys
from pathlib import Path

from small_images import encoded, write_folder

from raykd.cli import parser
from raykd.data import sources
from raykd.data.packs import writer

folder = Path(sys.argv[1])
place = write_folder(folder.parent / "insects")
for number in range(40):
    (place / "train/ant" / f"x{number}.png").write_bytes(encoded(number, (96, 96)))
sources.MAX_UNIT_IMAGES = 8
writer.require_space = lambda *_: None  # as if another process had filled the disk after the check
command = ["pack", f"folder:{place}", "--jobs", "1", "--to"]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], check=True)
print(parser.entry([*command, str(folder / "pack")]), len(list((folder / "pack").glob("train-*.json"))))
subprocess.run(["mount", "-o", "remount,size=20m", folder], check=True)
print(parser.entry([*command, str(folder / "pack")]), parser.entry([*command, str(folder.parent / "straight")]))
contents = [
    [path.read_bytes() for path in sorted(one.iterdir())] for one in (folder / "pack", folder.parent / "straight")
]
print(contents[0] == contents[1])
