"""The document as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def render(document: Mapping[str, Any]) -> str:
    """``document`` as indented ASCII JSON, keys in the contract's order, one newline at the end."""
    # DEL is the one control character that JSON leaves as it is.
    return json.dumps(document, indent=1).replace("\x7f", "\\u007f") + "\n"
