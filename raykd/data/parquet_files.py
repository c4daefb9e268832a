"""Which Parquet files below a folder are the parts of one data set, by the names that the Hugging Face hub gives them.

A part ('train', 'test', 'validation' and its short forms) is one of these, in the folder itself or in one folder
below, which the hub names after the configuration (default/, plain_text/, data/):

    train.parquet
    train-00000-of-00002.parquet ...     or with a hash: train-00000-of-00002-b42a6d1f21f14bd7.parquet
    train/0000.parquet ...               any names; numbered ones must be complete

What the names promise is checked. What could be read in two ways is refused: nobody would notice the wrong half.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import count, islice
from pathlib import Path

from raykd.data.parts import PARTS
from raykd.data.plain_files import listed, require_file
from raykd.errors import DataError

LAYOUTS = ("train.parquet", "train-00000-of-00002.parquet", "train/0000.parquet", "each in data/ too")
_PART = "|".join(PARTS)
_SINGLE = re.compile(rf"({_PART})\.parquet")
_SHARD = re.compile(rf"({_PART})-\d+-of-\d+.*\.parquet")
_SIMILAR = re.compile(rf"({_PART})[^a-z].*\.parquet", re.IGNORECASE)
# A numbered file: what precedes the index, the index, how many there are, and what follows.
_NUMBERED = re.compile(r"(?P<head>(?:.*?[-_.])?)(?P<index>\d+)(?:-of-(?P<total>\d+))?(?P<tail>[-_. ].*)?\.parquet")
_MAX_NAMED = 3  # of the files that are missing

Files = tuple[Path, ...]


def find(folder: Path, configurations: Collection[str] | None = None) -> dict[str, Files]:
    """Return the files of each part below `folder`, in order; {} when there are none.

    configurations: the folders below `folder` that are looked into; None for all.

    Raises: DataError when files are missing or too many, or when there are several data sets to choose from.
    """
    if not folder.is_dir():
        return {}
    below = [entry for entry in listed(folder) if entry.is_dir() and entry.name not in PARTS]
    places = [folder, *(entry for entry in below if configurations is None or entry.name in configurations)]
    found = {place: parts for place in places if (parts := _parts_in(place))}
    if len(found) > 1:
        raise DataError(f"{folder}: {_ambiguous(folder, found)}")
    return next(iter(found.values()), {})


def _ambiguous(folder: Path, found: dict[Path, dict[str, Files]]) -> str:
    """Say which data sets lie in and below `folder`, and how to choose."""
    if folder in found:
        first = [files[0].relative_to(folder) for parts in found.values() for files in parts.values()]
        return f"has Parquet in several places, {', '.join(map(str, first[:4]))}; keep those of one place"
    names = [place.name for place in found]
    remedy = f"keep one, or name it as part of the place: data.name=parquet:PLACE/{names[0]}"
    return f"has {len(names)} configurations, {', '.join(names)}; {remedy}"


def _parts_in(place: Path) -> dict[str, Files]:
    """Return the files of each part that lies in `place` itself."""
    layouts: dict[str, dict[str, list[Path]]] = {}
    for entry in listed(place):
        if match := _SINGLE.fullmatch(entry.name):
            layouts.setdefault(match[1], {}).setdefault(entry.name, []).append(entry)
        elif match := _SHARD.fullmatch(entry.name):
            layouts.setdefault(match[1], {}).setdefault(f"{match[1]}-*-of-*.parquet", []).append(entry)
        elif entry.is_dir() and entry.name in PARTS:
            if files := [file for file in listed(entry) if file.suffix == ".parquet"]:
                layouts.setdefault(entry.name, {})[f"{entry.name}/"] = files
        elif _SIMILAR.fullmatch(entry.name):
            known = "train.parquet, train-00000-of-00002.parquet or train/0000.parquet"
            raise DataError(f"{entry}: a name that is not read; rename it ({known}), or take it away")
    return {part: _whole(place, part, found) for part, found in layouts.items()}


def _whole(place: Path, part: str, layouts: dict[str, list[Path]]) -> Files:
    """Return the files of one part, once they are complete and of one layout."""
    if len(layouts) > 1:
        raise DataError(f"{place}: has '{part}' twice, as {' and as '.join(layouts)}; keep one of them")
    (files,) = layouts.values()
    for file in files:
        require_file(file)
    if len(files) > 1 or "-of-" in files[0].name or files[0].parent.name in PARTS:
        _require_complete(files)
    return tuple(files)


def _require_complete(files: Sequence[Path]) -> None:
    """Raise DataError unless the indices in the names are each there once, where the names have indices."""
    numbered = [match for file in files if (match := _NUMBERED.fullmatch(file.name))]
    _require_one_upload(files, numbered)
    promising = [match for match in numbered if match["total"] or not (match["head"] or match["tail"])]
    if not promising:
        return
    if len(promising) < len(files) or len({match["total"] for match in promising}) > 1:
        other = next((file.name for file in files if file.name not in {m.string for m in promising}), files[-1].name)
        raise DataError(
            f"{files[0].parent}: {other} lies beside {promising[0].string}, which is numbered otherwise; keep one kind"
        )
    indices = {int(match["index"]) for match in promising}
    total = int(promising[0]["total"] or max(indices) + 1)
    if missing := total - len([index for index in indices if index < total]):
        absent = islice((index for index in count() if index not in indices), min(missing, _MAX_NAMED))
        names = ", ".join(_name(promising[0], index) for index in absent)
        more = ", ..." if missing > _MAX_NAMED else ""
        raise DataError(
            f"{files[0]}: by its name one of {total} files, but there is no {names}{more}; copy or download them too"
        )
    if max(indices) >= total:
        extra = next(match.string for match in promising if int(match["index"]) >= total)
        raise DataError(f"{files[0].parent / extra}: is beyond the {total} files that the names promise; take it away")


def _require_one_upload(files: Sequence[Path], numbered: Iterable[re.Match[str]]) -> None:
    """Raise DataError where files are of two uploads: other totals or hashes, or an index twice."""
    uploads: dict[tuple[str, str, str], str] = {}
    seen: dict[tuple[str, int], str] = {}
    for match in numbered:
        head, name = match["head"], match.string
        if match["total"]:
            uploads.setdefault((head, match["total"], match["tail"] or ""), name)
        twin = seen.setdefault((head, int(match["index"])), name)
        if twin != name:
            raise DataError(f"{files[0].parent}: {twin} and {name} are of two uploads; keep the files of one")
    if len(uploads) > 1:
        one, other, *_ = uploads.values()
        raise DataError(f"{files[0].parent}: {one} and {other} are of two uploads; keep the files of one")


def _name(match: re.Match[str], index: int) -> str:
    """Return the name of the file with another index."""
    return f"{match.string[: match.start('index')]}{index:0{len(match['index'])}}{match.string[match.end('index') :]}"
