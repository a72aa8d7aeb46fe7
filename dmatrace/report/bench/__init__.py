"""Renderers of a bench's Result: text, JSON, CSV and a plot.  None of them computes."""
