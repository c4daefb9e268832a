"""`raykd doctor`: print the findings of cluster/doctor.py, with an error if one is bad.

Nothing here imports torch before the findings about it, so that the command reports a torch that cannot be imported.
"""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from raykd.cluster.doctor import examine
from raykd.data.dataset_names import find_folder
from raykd.environment import import_remedy
from raykd.errors import ConfigError, plural


def doctor(arguments: Namespace) -> None:
    """Print each finding as soon as it is known. Raises ConfigError if one is bad."""
    data_folder, num_bad = find_folder(arguments.data_dir, os.environ), 0
    for finding in examine(Path(arguments.results), data_folder, data_folder / "weights", _list_datasets):
        print(finding, flush=True)
        num_bad += finding.verdict == "bad"
    if num_bad:
        raise ConfigError(f"{plural(num_bad, 'finding')} marked bad above; follow the remedies there")


def _list_datasets(folder: Path) -> Sequence[str]:
    try:
        from raykd.data.load import list_datasets
    except ImportError as error:
        if not (remedy := import_remedy(error)):
            raise
        raise ConfigError(f"data sets cannot be listed without torch; {remedy}") from error
    return list_datasets(folder)
