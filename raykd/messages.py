"""Wording that messages share: counts with their noun, values in one short line, and the reason of an error."""

from typing import Any

MAX_SHOWN = 100  # characters of a value in a message: a line on a terminal stays readable
MAX_REASON = 300  # characters of another library's message


def plural(count: float, noun: str, nouns: str = "") -> str:
    """'1 run', '1,200 runs', '0.5 GPUs'; `nouns` where s is not enough: plural(2, 'pass', 'passes')."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:.4g}"
    return f"{number} {noun if count == 1 else nouns or noun + 's'}"


def one_line(text: str) -> str:
    """`text` with each character that cannot be printed, such as a line break, replaced by its escape sequence."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def flattened(text: str, most: int = MAX_REASON) -> str:
    """Return `text` for the report: white space and unprintable characters become single spaces, and a long end "...".

    `one_line` keeps such characters readable as escape sequences, for messages about a value; a table needs the width.
    """
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return flat if len(flat) <= most else f"{flat[: most - 3]}..."


def shortened(text: str, most: int = MAX_SHOWN) -> str:
    """`text`, or its beginning where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def shown(value: Any) -> str:
    """`repr(value)` in one short line; some values, such as integers of 5,000 digits, have no repr."""
    try:
        return one_line(shortened(repr(value)))
    except Exception:  # noqa: BLE001 - a custom class may raise anything
        return f"a value of type {type(value).__name__} that cannot be printed"


def reason_of(error: BaseException) -> str:
    """The error's type and the first line of its message: 'ValueError: too few values'."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - a custom error may raise anything
        lines = []
    return f"{type(error).__name__}: {one_line(shortened(lines[0], MAX_REASON)) if lines else 'no reason given'}"
