"""`python -m raykd`: calls cli.entry and defines nothing."""

import sys

from raykd.cli.parser import entry

sys.exit(entry())
