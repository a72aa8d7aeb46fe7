"""A recording: a directory of tables and ``meta.json``.

The product's boundary: the recorder writes it as root, everything else reads
it without privileges, and so does any data-frame engine.
"""

from __future__ import annotations

from dmatrace.recording.reader import Recording
from dmatrace.recording.schema import SCHEMA, TABLES
from dmatrace.recording.writer import Writer, check_place

__all__ = ["SCHEMA", "TABLES", "Recording", "Writer", "check_place"]
