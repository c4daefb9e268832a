"""Which parts of a data set on disk are read: `train`, and the part that the final test uses."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd.errors import DataError

TRAIN = "train"
TEST = "test"
VALIDATION = ("validation", "valid", "val", "dev")  # the names under which data sets publish a validation part
_MAX_NAMED = 4
PARTS = (TRAIN, TEST, *VALIDATION)


@dataclass(frozen=True)
class Parts:
    """The part that is read as the test set, and what a user must know about the choice."""

    test: str
    notes: tuple[str, ...]


def has_both(found: Collection[str]) -> bool:
    """Whether there is something to train on and something to test on."""
    return TRAIN in found and len(found) > 1


def choose(place: Path, found: Collection[str], layout: str, noun: str, there: Sequence[str]) -> Parts:
    """Return the part of `found` (names out of PARTS) to test on: `test`, else the only validation part.

    Validation images are always held out of `train` (data.val_images), so a published validation part can serve as
    the test set, as ImageNet's does.

    noun: what a part is on disk, for the message ('folder'). there: names of what lies at `place`, for the message too.

    Raises: DataError when there is no `train`, nothing to test on, or several validation parts and no `test`.
    """
    instead = (
        f"; there are: {', '.join(there[:_MAX_NAMED])}{', ...' if len(there) > _MAX_NAMED else ''}" if there else ""
    )
    if TRAIN not in found:
        raise DataError(f"{place}: has no {noun} {TRAIN}; wants {layout}{instead}")
    validation = [part for part in VALIDATION if part in found]
    named = " and ".join(f"'{part}'" for part in validation)
    if TEST in found:
        unread = f"{named} is not read: '{TEST}' is the test set, and validation images are taken from '{TRAIN}'"
        return Parts(TEST, (unread,) if validation else ())
    if not validation:
        raise DataError(f"{place}: has no {noun} {TEST}; wants {layout}{instead}")
    if len(validation) > 1:
        raise DataError(f"{place}: has {named} and no '{TEST}'; rename the one to test on to '{TEST}'")
    return Parts(validation[0], (f"{named} is the test set, because there is no '{TEST}'",))
