"""`python -m raykd`: call the entry point of the command line."""

import sys

from raykd.cli.parser import entry

sys.exit(entry())
