"""Check an experiment and its arguments on the login node, before a job with a mistake waits in the queue.

    python -m raykd.cli.submission_check experiments/distill_cnn.py --set student.epochs=100

The submit scripts call it. Exit code: 2 with one line for a mistake. No data are read and nothing is started. A file
that is no experiment of raykd, which a job runs too, is not executed here.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from raykd.cli.experiment_parser import parser_of
from raykd.cli.parser import run_reporting_errors
from raykd.disk.lookup import is_file
from raykd.spec.bundled import find_experiment


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the experiment file and its arguments fit together, as far as they can be checked without data."""
    file, *rest = arguments

    def run() -> None:
        from raykd.cli.commands import chosen_experiments
        from raykd.cli.experiment_file import load_experiments

        if _is_experiment(Path(find_experiment(file))):
            experiments = load_experiments(file)
            chosen_experiments(experiments, parser_of(experiments, file).parse_args(rest))

    return run_reporting_errors(run)


def _is_experiment(path: Path) -> bool:
    """Return whether a file imports raykd, and starts its experiment only if it is run as a script."""
    text = path.read_text(errors="replace") if is_file(path) else ""
    return "raykd" in text and "__name__" in text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
