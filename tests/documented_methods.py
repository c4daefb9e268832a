"""The examples of custom methods in docs/custom_method.md, as methods that tests train."""

import re
from pathlib import Path
from typing import Any

from raykd.config import custom_file
from raykd.methods import Method

DOCS = Path(__file__).parent.parent / "docs"


def block(document: str, part: str) -> str:
    """Return the only block of Python in docs/`document` that contains `part`."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / document).read_text(), flags=re.S)
    (example,) = (block for block in blocks if part in block)
    return example


def documented_method(name: str, **fields: Any) -> Method:
    """Return the example method of the class `name`."""
    text = block("custom_method.md", f"class {name}(Method)")
    return custom_file.restore(custom_file.ClassSource(f"{name}.py", text, name, "method"), fields)
