"""Renderers of the JSON document; nothing here reads a recording."""

from __future__ import annotations
