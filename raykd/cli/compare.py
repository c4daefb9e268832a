"""`raykd compare DIR DIR...`: the results of several folders side by side. Imports no torch."""

import sys
from argparse import Namespace
from pathlib import Path

from raykd.cli.paper_output import check_output, write_text
from raykd.errors import ConfigError, one_line


def compare(arguments: Namespace) -> None:
    """Print test top-1 of each stage in each folder, the differences paired by seed, and the fields that differ."""
    from raykd.report.read.collect import collect
    from raykd.report.render.folders_table import folders_csv, folders_table, folders_text
    from raykd.report.render.latex import latex_tables
    from raykd.report.render.markdown import markdown_tables
    from raykd.report.stats.folders import compare_folders
    from raykd.store.migration import require_migrated

    check_output(arguments.format, arguments.output)
    folders = _checked_folders(arguments.folder)
    for folder in folders:
        require_migrated(folder)
    families = {str(folder): collect(folder) for folder in folders}
    rows = compare_folders(families)
    if not rows:
        found = "; ".join(f"{folder} has {', '.join(one.name for one in known)}" for folder, known in families.items())
        raise ConfigError(
            f"compare: no family is in two of the folders: {one_line(found)}; give the experiments the same family "
            "and different --results"
        )
    if arguments.format is None:
        sys.stdout.write(folders_text(rows))
    elif arguments.format == "csv":
        write_text(folders_csv(rows), arguments.output)
    else:
        render = latex_tables if arguments.format == "latex" else markdown_tables
        write_text(render([folders_table(rows)]), arguments.output)


def _checked_folders(names: list[str]) -> list[Path]:
    """Return the folders. Raises ConfigError for one folder alone, and for one that is named twice."""
    if len(names) < 2:
        raise ConfigError(f"compare: {one_line(names[0])} is one folder; name at least two results folders")
    folders = [Path(name) for name in names]
    resolved = [folder.resolve() for folder in folders]
    for place, folder in enumerate(folders):
        if resolved.index(resolved[place]) < place:
            raise ConfigError(f"compare: {one_line(str(folder))} is named twice; name different results folders")
    return folders
