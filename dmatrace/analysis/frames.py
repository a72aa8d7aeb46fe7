"""A recording as pandas data frames: the Python API, and what the exports write.

The columns and their units are in ``dmatrace.analysis.columns``.  Figures of loads,
threads and phases are those of the report, from the same document.  What is not known
is null, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.columns import DERIVED, TABLES
from dmatrace.analysis.document import document
from dmatrace.analysis.redact import Names, redact
from dmatrace.recording import schema

if TYPE_CHECKING:
    import pandas as pd

    from dmatrace.recording.reader import Recording

#: A recording's column is null where this value means that it did not happen or is not known.
_NULL_IF = {"requests": {"issue_ns": 0, "complete_ns": 0}, "inventory": {"size": -1}}
#: Columns that follow from two others: the later, the earlier.
_BETWEEN = {
    "requests": {
        "wait_ns": ("issue_ns", "queue_ns"),
        "latency_ns": ("complete_ns", "issue_ns"),
    },
    "intervals": {"wall_ns": ("end_ns", "start_ns")},
    "waits": {"blocked_ns": ("woken_ns", "start_ns"), "runnable_ns": ("end_ns", "woken_ns")},
}
# What is a table of its own, or not a figure.
_FEW = 40
_NOT_FLAT = {
    "threads", "cachestat_before", "cachestat_after", "size_hist", "timeline", "paths", "kinds",
    "hist_ns", "samples", "unavailable", "vmstat",
}  # fmt: skip

# What the document says in two places.
_TWICE = {"memory.pinned.peak", "memory.pinned.byte_seconds"}

Rows = Iterable[Mapping[str, Any]]


_INT64 = (-(1 << 63), (1 << 63) - 1)


class Frames:
    """The tables of one recording, each made when it is first asked for.

    ``frames["loads"]`` and ``frames.loads`` are the same data frame; it is shared, so copy
    it before you change it.  Raises DmatraceError when a table's file is damaged.
    """

    def __init__(self, recording: Recording, names: Names | None = None) -> None:
        """``names``: redact the document and every table by them."""
        self._original = recording
        self._names = names
        self._made: dict[str, pd.DataFrame] = {}

    @cached_property
    def recording(self) -> Recording:
        """The recording, redacted if the frames are."""
        if self._names is None:
            return self._original
        # The document's paths come first, and are called what a redacted report calls them.
        _ = self.document
        from dmatrace.analysis.redacted import Redacted

        return Redacted(self._original, self._names)

    @cached_property
    def document(self) -> dict[str, Any]:
        """What ``dmatrace report -f json`` prints."""
        found = document(self._original)
        return found if self._names is None else redact(found, names=self._names)

    @property
    def title(self) -> str:
        """What to call the recording: its directory's name, unless that is to be hidden."""
        return self._original.path.resolve().name if self._names is None else "dmatrace recording"

    @property
    def complete(self) -> bool:
        """Whether the recorder closed the recording itself."""
        return self._original.complete

    @property
    def names(self) -> list[str]:
        """The names of all tables, those of a newer recorder included."""
        return [*TABLES, *(name for name in schema.TABLES if name not in TABLES)]

    def __getitem__(self, name: str) -> pd.DataFrame:
        """The table ``name``; KeyError for an unknown one."""
        if name not in self._made:
            if name in DERIVED:
                self._made[name] = _derived(self.document, name)
            elif name in schema.TABLES:
                self._made[name] = self._recorded(name)
            else:
                raise KeyError(name)
        return self._made[name]

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_") or name not in self.names:
            raise AttributeError(f"no table {name!r}; there are {', '.join(self.names)}")
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        loads = len(self.document["loads"])
        return f"<dmatrace recording {self._original.path}: {loads} loads>"

    def _recorded(self, name: str) -> pd.DataFrame:
        """A table of the recording, with the load's name and what follows from other columns."""
        frame = self.recording.table(name).copy()
        for column, nothing in _NULL_IF.get(name, {}).items():
            frame[column] = frame[column].astype("Int64").mask(frame[column] == nothing)
        if "load_id" in frame.columns:
            self._name_loads(frame)
        for column, (later, earlier) in _BETWEEN.get(name, {}).items():
            frame[column] = frame[later] - frame[earlier]
        known = [column.name for column in TABLES[name].columns] if name in TABLES else []
        first = [column for column in known if column in frame.columns]
        return frame[[*first, *(c for c in frame.columns if c not in first)]]

    def _name_loads(self, frame: pd.DataFrame) -> None:
        import pandas as pd

        loads = self.document["loads"]
        names = pd.Categorical(
            frame["load_id"].map({load["load_id"]: load["strategy"] for load in loads}),
            categories=list(dict.fromkeys(load["strategy"] for load in loads)),
        )
        rounds = frame["load_id"].map({load["load_id"]: load["round"] for load in loads})
        frame.insert(1, "strategy", pd.Series(names, index=frame.index))
        frame.insert(2, "round", rounds.astype("Int64"))


def _derived(found: Mapping[str, Any], name: str) -> pd.DataFrame:
    """A table that is made from the document."""
    rows: list[dict[str, Any]]
    if name in ("hooks", "skipped"):
        rows = [_row(one, name) for one in found[name]]
    elif name == "loads":
        rows = [{**_row(load, name), **_more(load)} for load in found["loads"]]
    else:
        rows = [row for load in found["loads"] for row in _of_load(load, name)]
    return _frame(rows, name)


def _of_load(load: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    head = {key: load[key] for key in ("load_id", "strategy", "round")}
    for found in _PARTS[name](load):
        yield _row({**found, **head}, name)


def _phases(load: Mapping[str, Any]) -> Rows:
    return ({**thread, **phase} for thread in load["threads"] for phase in thread["phases"])


def _sizes(load: Mapping[str, Any]) -> Rows:
    sizes = load["block"]["size_hist"].items()
    return ({"at_least": int(size), "requests": count} for size, count in sizes)


def _kinds(load: Mapping[str, Any]) -> Rows:
    return ({"kind": kind, **found} for kind, found in load["block"]["kinds"].items())


def _depth(load: Mapping[str, Any]) -> Rows:
    found = load["block"]["timeline"]
    width = found["interval_ns"]
    for number, row in enumerate(_rows(found, "depth_mean")):
        yield {**row, "start_ns": found["start_ns"] + number * width, "interval_ns": width}


def _timeline(load: Mapping[str, Any]) -> Rows:
    return _rows(load["memory"].get("timeline") or {"t_ns": []}, "t_ns")


def _rows(found: Mapping[str, Any], by: str) -> Rows:
    """Rows of lists as long as that of ``by``; what is no list is in none of them."""
    lists = {name: values for name, values in found.items() if isinstance(values, list)}
    for number in range(len(found[by])):
        yield {name: values[number] for name, values in lists.items()}


def _copies(load: Mapping[str, Any]) -> Rows:
    paths = load["copies"]["paths"].items()
    return ({"path": path, "bytes": copied} for path, copied in paths)


#: The rows of a table that one load has, from its part of the document.
_PARTS: dict[str, Callable[[Mapping[str, Any]], Rows]] = {
    "threads": lambda load: load["threads"],
    "phases": _phases,
    "request_sizes": _sizes,
    "request_kinds": _kinds,
    "depth": _depth,
    "timeline": _timeline,
    "cached_files": lambda load: load["memory"].get("files") or (),
    "read_files": lambda load: load["files"],
    "copies": _copies,
}


def _row(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {column.name: _at(found, column.at) for column in TABLES[name].columns}


def _at(found: Any, path: str) -> Any:
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _more(load: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a load that ``columns`` does not name: of a newer document, or of some loads."""
    known = {column.at for column in TABLES["loads"].columns} | _TWICE
    return {path.replace(".", "_"): value for path, value in _flat(load, "") if path not in known}


def _flat(found: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in found.items():
        if key in _NOT_FLAT or isinstance(value, list):
            continue
        if isinstance(value, Mapping) and len(value) > _FEW:
            continue  # names are its keys, not its columns
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key}", value


def _frame(rows: list[dict[str, Any]], name: str) -> pd.DataFrame:
    """A data frame whose integers stay integers where some are null."""
    import pandas as pd

    known = [column.name for column in TABLES[name].columns]
    columns = list(dict.fromkeys([*known, *(key for row in rows for key in row)]))
    numbers = {column.name for column in TABLES[name].columns if column.unit} | _NUMBERS
    series = {}
    for column in columns:
        values = [row.get(column) for row in rows]
        kind = _dtype(values, column in numbers)
        if column in _FRACTIONS:  # of which none may be known
            kind = "float64"
        series[column] = pd.Series(values, dtype=kind)
    return pd.DataFrame(series, columns=columns)


_NUMBERS = {
    "load_id", "round", "tid", "owner", "count", "requests", "lost_exits", "overflows", "pid",
    "depth_max", "waiting_max",
}  # fmt: skip
_FRACTIONS = {"parallel", "depth_mean", "copies_per_byte"}


def _dtype(values: list[Any], number: bool) -> str:
    """The type that holds ``values`` exactly; ``number`` decides where all are null."""
    kinds = {type(value) for value in values if value is not None}
    nulls = any(value is None for value in values)
    if kinds == {bool}:
        return "boolean" if nulls else "bool"
    if int in kinds and any(
        type(one) is int and not _INT64[0] <= one <= _INT64[1] for one in values
    ):
        return "object"  # sums of a damaged recording's numbers
    if kinds == {int} or (not kinds and number):
        return "Int64" if nulls else "int64"
    if kinds and kinds <= {int, float}:
        return "float64"
    return "object"
