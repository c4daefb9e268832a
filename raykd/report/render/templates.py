"""The templates of the pages. Every value is escaped, and an undefined name is an error.

As a second line of defense, the pages' content security policy forbids loading other files, and every script except
the one of the tables.
"""

import hashlib
import re
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from raykd.errors import flattened
from raykd.provenance import short_hash
from raykd.report import wording
from raykd.report.figures.svg import COLORS
from raykd.units import duration

# Elements whose text is not laid out as text of the page, or a tag, or a metric whose name has a hyphen.
_TOP_K = re.compile(r"<(style|script|svg|title)\b.*?</\1>|<[^>]*>|(\btop-\d)", re.DOTALL)


def page(name: str, **values: Any) -> bytes:
    """Return a page in UTF-8, without line breaks inside 'top-1'. name: the file of its template."""
    text = template(name).render(**values)
    return _TOP_K.sub(lambda match: f'<span class="whole">{match[2]}</span>' if match[2] else match[0], text).encode()


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
    script = Path(__file__).with_name("tables.js").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {"table_script": Markup(script), "table_script_hash": f"sha256-{digest}"}
    environment.globals["light_colors"] = "".join(f"  --{name}: {color};" for name, color in COLORS.items())
    environment.filters.update(
        minus=wording.minus,
        sentence=_sentence,
        dash=wording.dash,
        duration=duration,
        svg=Markup,
        url=quote,
        capital=wording.capital,
        flattened=flattened,
        shortened=short_hash,
    )
    return environment


def _sentence(text: str) -> str:
    """Apply `wording.minus`, and prevent line breaks between a number and its sign."""
    return wording.unbroken(wording.minus(text))
