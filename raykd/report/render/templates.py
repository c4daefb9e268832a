"""The templates of the pages. Every value is escaped, and an undefined name is an error.

As a second line of defense, the pages' content security policy forbids loading other files, and every script except
the one that sorts tables.
"""

import hashlib
from base64 import b64encode
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.figures.svg import COLORS


def template(name: str) -> Template:
    """Return the template in the file `name` of this folder."""
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
    script = Path(__file__).with_name("sort_tables.js").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {"sort_script": Markup(script), "sort_script_hash": f"sha256-{digest}"}
    environment.globals["light_colors"] = "".join(f"  --{name}: {color};" for name, color in COLORS.items())
    environment.filters.update(
        minus=wording.minus,
        sentence=_sentence,
        dash=wording.dash,
        svg=Markup,
        url=quote,
        capital=wording.capital,
        flattened=flattened,
    )
    return environment


def _sentence(text: str) -> str:
    """Apply `wording.minus`, and prevent line breaks between a number and its sign."""
    return wording.unbroken(wording.minus(text))
