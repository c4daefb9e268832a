"""The pages' templates: whatever comes from a folder is escaped, an undefined name is an error.

Each page's own content policy forbids scripts and loading, should a name still get through.
"""

import re
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from raykd.report import wording

_MINUS = re.compile(r"(?<![\w.,\u2212-])-(?=\d)")


def template(name: str) -> Template:
    """The template in the file `name` beside this one."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        minus=_minus, sentence=_sentence, dash=_dash, svg=Markup, url=quote, capital=wording.capital
    )
    return environment


def _minus(text: str) -> str:
    """The typographic minus before a number, which is as wide as the plus; a hyphen stays one."""
    return _MINUS.sub("\N{MINUS SIGN}", text)


def _sentence(text: str) -> str:
    """With typographic minus, and no line break between a number and its sign."""
    return wording.unbroken(_minus(text))


def _dash(text: str) -> str:
    """The typographic dash for a number that is not there."""
    return "\N{EN DASH}" if text == "-" else text
