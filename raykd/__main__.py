"""`python -m raykd`: calls cli.entry and defines nothing."""

import sys

from raykd.cli import entry

sys.exit(entry())
