"""Recordings in other tools' formats; nothing here computes a figure of its own.

``FORMATS`` is the one list of them.  A format's module has either ``write(frames, out,
options)``, which makes one file, or, where ``tables`` is set, ``write_table(frame, out, name)``,
which makes one file of one data frame.  ``out`` is a binary file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One format: what it is for, how its files end, and where it may go."""

    name: str
    about: str
    suffix: str
    tables: bool = False
    stdout: bool = False


@dataclass(frozen=True)
class Options:
    """What a format may be asked for; ``weight`` is time or page-cache."""

    weight: str = "time"


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("perfetto", "a trace for ui.perfetto.dev", ".perfetto-trace"),
        Format("csv", "a directory with a file per table", ".csv", tables=True, stdout=True),
        Format("parquet", "the same, for data-frame engines", ".parquet", tables=True),
        Format("html", "one self-contained page", ".html"),
        Format("folded", "stacks for flame graphs", ".folded", stdout=True),
    )
}
