"""Run a fleet's analysis: in this process, or on a Dask cluster.

Dask, because it is the data-frame engine that takes pandas functions as they are:
a partition is a pandas frame, so what runs on a hundred workers is the function
that runs here, and both answers are the same.  (Spark and Ray want a runtime of
their own on every machine; DuckDB and Polars do not leave the machine.)  Its
scheduler and workers are its own; nothing here schedules.

A recording is read where its partition is, so workers see the same paths; a few
hundred bytes of each travel.  One shuffle brings what belongs to one strategy,
size and cache state together.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dmatrace import __version__
from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.fleet import analyse, harvest
from dmatrace.recording.schema import META

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
_CHUNK = 50  # recordings of a task: some seconds of work
_WAIT_S = 10


def find(patterns: Sequence[str]) -> list[str]:
    """The recordings that directories, globs and paths name, sorted, each once.

    In a directory everything called ``*.dmt`` counts, damaged or not, and every directory
    with a meta.json.  Raises DmatraceError where there is none.
    """
    found: set[str] = set()
    for pattern in patterns:
        if os.path.exists(os.path.join(pattern, META)):
            found.add(pattern)
        elif os.path.isdir(pattern) and not pattern.rstrip("/").endswith(".dmt"):
            found.update(_below(pattern))
        elif os.path.lexists(pattern):
            found.add(pattern)
        else:
            found.update(glob.glob(pattern, recursive=True))
    if not found:
        raise DmatraceError(
            f"no recording in {', '.join(patterns)}", do="name a directory of .dmt or a glob"
        )
    return sorted(os.path.abspath(path) for path in found)


def _below(directory: str) -> Iterator[str]:
    for place, directories, files in os.walk(directory):
        here = [name for name in (*directories, *files) if name.endswith(".dmt")]
        more = [
            name
            for name in directories
            if name not in here and os.path.exists(os.path.join(place, name, META))
        ]
        yield from (os.path.join(place, name) for name in (*here, *more))
        directories[:] = [name for name in directories if name not in {*here, *more}]


def local(paths: Sequence[str]) -> dict[str, Any]:
    """The fleet's document, computed in this process."""
    return _document(paths, analyse.packed(harvest.frame(paths)))


def distributed(paths: Sequence[str], scheduler: str = "", workers: int = 0) -> dict[str, Any]:
    """The same by the Dask scheduler at an address, or by so many workers started here.

    Raises CannotHere without Dask, DmatraceError where no scheduler answers.
    """
    try:
        import dask
        import dask.dataframe
    except ImportError:
        raise CannotHere(
            "dask is not installed", do="pip install 'dmatrace[fleet]', or leave --scheduler out"
        ) from None
    frames: Any = dask.dataframe  # which has no types
    # Strings stay what pandas makes of them here.
    with _client(scheduler, workers), dask.config.set({"dataframe.convert-string": False}):
        chunks = [list(paths[n : n + _CHUNK]) for n in range(0, len(paths), _CHUNK)]
        rows = frames.from_map(
            harvest.frame, chunks, meta=harvest.frame([]), enforce_metadata=False
        )
        whole = rows.shuffle(on=list(analyse.WIDE))
        lines = whole.map_partitions(
            analyse.packed, meta=analyse.packed(harvest.frame([])), enforce_metadata=False
        )
        return _document(paths, lines.compute())


@contextmanager
def _client(scheduler: str, workers: int) -> Iterator[None]:
    import distributed

    dask: Any = distributed  # which has no types
    if not scheduler:
        with (
            dask.LocalCluster(
                n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            ) as cluster,
            dask.Client(cluster),
        ):
            yield
        return
    try:
        client = dask.Client(scheduler, timeout=_WAIT_S)
    except (OSError, ValueError) as error:
        raise DmatraceError(
            f"no Dask scheduler at {scheduler}: {error}",
            do="start one with `dask scheduler`, and `dask worker ADDRESS` where the work is done",
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise DmatraceError(
                f"the scheduler at {scheduler} has no workers", do=f"start dask worker {scheduler}"
            )
        yield


def _document(paths: Sequence[str], lines: pd.DataFrame) -> dict[str, Any]:
    found = analyse.unpacked(lines)
    damaged = {row["recording"] for row in found["damaged"]}
    return {
        "schema": SCHEMA,
        "dmatrace": __version__,
        "recordings": len(paths),
        "damaged": sorted(found["damaged"], key=lambda row: (row["recording"], row["why"])),
        "readable": len(set(paths) - damaged),
        "method": analyse.method(),
        "groups": found["group"],
        "outliers": found["outlier"],
        "not_judged": found["unjudged"],
    }
