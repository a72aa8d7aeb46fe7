"""The sections of the table, in its order: each a function from a guest to rows.

What a kernel cannot do is said by Lacks in the place of its rows.
"""

from __future__ import annotations

from tests.accuracy import buffers, commands, files, hard, known, loads, memory, mixed
from tests.accuracy.row import Section

SECTIONS: dict[str, Section] = {
    "Reads of known files": known.rows,
    "Memory": memory.rows,
    "Strategies": loads.rows,
    "Strategies of the loader module": loads.with_module,
    "Commands and processes": commands.rows,
    "Loads of files": files.rows,
    "Buffers": buffers.rows,
    "What is easily counted wrong": hard.rows,
    "Mixed workloads": mixed.rows,
}
