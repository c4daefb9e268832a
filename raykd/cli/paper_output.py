"""The output of `report` for a paper: checks of the flags for tables and figures, and tables on stdout or in a file."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.disk.atomic import write_bytes
from raykd.disk.lookup import is_folder
from raykd.errors import ConfigError, one_line

if TYPE_CHECKING:
    from raykd.report.build import TableFormat
    from raykd.report.report import Report


def check_paper_flags(arguments: Namespace) -> None:
    """Raise ConfigError if --format, --output, --figures and --models-dir conflict, or --output cannot be a file."""
    table_format, output = arguments.format, arguments.output
    if table_format and arguments.models_dir:
        raise ConfigError(f"--format {table_format}: a report on --models-dir has no tables; leave one of them out")
    if arguments.figures and arguments.models_dir:
        raise ConfigError(
            f"--figures {arguments.figures[0]}: a report on --models-dir has no figures; leave one of them out"
        )
    check_output(table_format, output)


def check_output(table_format: str | None, output: str | None) -> None:
    """Raise ConfigError if --output cannot be a file, or has no --format."""
    if output is None:
        return
    shown = one_line(output)
    if not table_format:
        raise ConfigError(f"--output {shown}: requires tables; add --format, such as --format latex")
    if not output or is_folder(Path(output)):
        raise ConfigError(f"--output '{shown}': must be a file; name one, such as tables.tex")
    if not is_folder(Path(output).absolute().parent):
        raise ConfigError(f"--output {shown}: the folder does not exist; make it, or name another one")


def write_tables(report: "Report", table_format: "TableFormat", output: str | None) -> None:
    """Write the tables in UTF-8 to the file `output`, or to stdout if it is None."""
    from raykd.report.build import tables_text  # here: it imports matplotlib

    write_text(tables_text(report, table_format), output)


def write_text(text: str, output: str | None) -> None:
    """Write `text` in UTF-8 to the file `output`, or to stdout if it is None."""
    content = text.encode()
    if output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_bytes(Path(output), content)
