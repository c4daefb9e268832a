"""The parts of gpu_report.py: one module per part, with a function `measure(part, setting)`.

Importing this package makes raykd importable from its checkout if it is not installed.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[3])]
