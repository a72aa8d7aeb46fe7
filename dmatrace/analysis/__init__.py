"""From a recording to figures: pure functions over its tables, no privileges."""

from __future__ import annotations

from dmatrace.analysis.document import document

__all__ = ["document"]
