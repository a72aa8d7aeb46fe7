"""dmatrace: where the time and the page cache of a dma-buf load go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmatrace.analysis.frames import Frames

__version__ = "0.1.0"


def open(path: str | os.PathLike[str]) -> Frames:
    """The recording at ``path`` as pandas data frames; see docs/python.md.

    Raises dmatrace.errors.DmatraceError for what is no readable recording.
    """
    # Here, not above: pandas and pyarrow take 0.5 s, which `import dmatrace` should not.
    from dmatrace.analysis.frames import Frames
    from dmatrace.recording.reader import Recording

    return Frames(Recording.open(path))
