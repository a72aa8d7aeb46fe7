"""Loads against loads: what differs, by how much, and whether that is more than their spread."""

from __future__ import annotations

from dmatrace.analysis.comparison.compare import BY, compare
from dmatrace.analysis.comparison.limits import Limit, exceeded, parse

__all__ = ["BY", "Limit", "compare", "exceeded", "parse"]
