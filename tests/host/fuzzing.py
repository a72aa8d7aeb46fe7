"""Damaged recordings and hostile documents, by number: the same number is the same case.

A case is right if nothing but a DmatraceError is raised and nothing that a
terminal obeys is shown, in text or in an error.  JSON must be read back equal.
"""

from __future__ import annotations

import copy
import io
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import synthetic

from dmatrace import safe
from dmatrace.analysis import comparison, document
from dmatrace.analysis.frames import Frames
from dmatrace.analysis.redact import redact
from dmatrace.errors import DmatraceError
from dmatrace.export import FORMATS, Options
from dmatrace.export.folded import WEIGHTS
from dmatrace.fleet import engine
from dmatrace.recording import TABLES, Recording, Writer
from dmatrace.recording.schema import META
from dmatrace.report import compare as compare_text
from dmatrace.report import fleet as fleet_text
from dmatrace.report import json as as_json
from dmatrace.report import text

HOSTILE = (
    "", "\x1b[2J\x1b]0;title\x07", "\x9b31m", "a\r\nb", "\u202eevil\u2066", "\u2028x\u2029",
    "<script>alert(1)</script>", "/data/a\nb/\x1b[31m.bin", "\ud800", "\x00", "e\u0301" * 40,
    "\u6a21\u578b" * 40, "x" * 3000, "'; drop table loads; --", "{}", "%s%n", "\x7f", "\U000e0001",
)  # fmt: skip
NUMBERS = (0, 1, -1, 1 << 31, 1 << 62, (1 << 63) - 1, -(1 << 63), 1 << 64)
JSON_VALUES: tuple[Any, ...] = (
    None, True, [], {}, [[]], {"a": 1}, 0.5, float("nan"), float("inf"), 1e300, *NUMBERS, *HOSTILE,
)  # fmt: skip


class Fuzzer:
    """Cases over recordings below ``place``, which it may fill and empty."""

    def __init__(self, place: Path, real: Path | None = None) -> None:
        self._place = place
        place.mkdir(parents=True, exist_ok=True)
        self._whole = synthetic.write(place / "whole.dmt", rounds=1)
        # Its recorder was killed: streams, not Parquet.
        writer = Writer.create(place / "killed.dmt", synthetic.META)
        synthetic.write_load(writer, 1, "dmabuf-bio")
        self._writer = writer
        self._killed = place / "killed.dmt"
        self._sources = [self._whole, self._killed, *([real] if real else [])]
        self._documents = [document(Recording.open(path)) for path in self._sources]
        self._read = {
            path: {file.name: file.read_bytes() for file in path.iterdir()}
            for path in self._sources
        }
        self._tables = {
            name: pq.ParquetFile(self._whole / f"{name}.parquet").read() for name in TABLES
        }
        self.seen: Counter[str] = Counter()

    def case(self, number: int) -> None:
        """Run one; AssertionError, or whatever escaped, if it is not right."""
        rng = random.Random(number)
        kinds: list[tuple[Callable[[random.Random], None], int]] = [
            (self._document, 54), (self._bytes, 30), (self._meta, 12), (self._cells, 4),
            (self._export, 3),
        ]  # fmt: skip
        (kind,) = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
        try:
            kind(rng)
            outcome = "shown"
        except DmatraceError as error:
            _safe(safe.line(str(error)))
            outcome = "refused"
        self.seen[f"{kind.__name__.strip('_')} {outcome}"] += 1

    def _document(self, rng: random.Random) -> None:
        """Strings and numbers of a document, as recordings may hold them, to every reporter."""
        found = copy.deepcopy(rng.choice(self._documents))
        for _ in range(rng.randint(1, 12)):
            _poison(found, rng)
        which = rng.random()
        if which < 0.6:
            _shown(found, rng)
        elif which < 0.8:
            _shown(redact(found, comms=rng.random() < 0.5), rng)
        else:
            other = copy.deepcopy(rng.choice(self._documents))
            result = comparison.compare([("a", found), (rng.choice(HOSTILE) or "b", other)])
            result["failed"] = comparison.exceeded([comparison.parse("wall>1%")], result)
            _safe(compare_text.render(result))
            _json(result)

    def _bytes(self, rng: random.Random) -> None:
        """Bytes of one file changed, cut, doubled or inserted."""
        source = rng.choice(self._sources)
        files = self._read[source]
        name = rng.choice([name for name in sorted(files) if files[name]])
        where = self._fresh()
        data = bytearray(files[name])
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(max(len(data), 1))
            kind = rng.randrange(5)
            if kind == 0:
                del data[at:]
            elif kind == 1:
                data[at : at + rng.randint(1, 64)] = rng.randbytes(rng.randint(0, 64))
            elif kind == 2 and data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            elif kind == 3:
                data[at:at] = data[: rng.randint(1, 400)]
            else:
                data[at : at + 64] = bytes(len(data[at : at + 64]))
        if name == META:
            (where / META).write_bytes(data)
            Recording.open(where)
            return
        (where / META).write_bytes(files[META])
        (where / name).write_bytes(data)
        recording = Recording.open(where)
        table = name.partition(".")[0]
        if rng.random() < 0.05:
            _shown(document(recording), rng)
        else:
            recording.table(table)

    def _meta(self, rng: random.Random) -> None:
        """Values of meta.json changed for others of any type."""
        meta = json.loads(self._read[self._whole][META])
        for _ in range(rng.randint(1, 3)):
            _replace(meta, rng)
        where = self._fresh()
        (where / META).write_text(json.dumps(meta))
        recording = Recording.open(where)
        if rng.random() < 0.3:
            _shown(document(recording), rng)

    def _cells(self, rng: random.Random) -> None:
        """Sound Parquet with hostile values, other types, absent and doubled columns."""
        where = self._fresh()
        (where / META).write_bytes(self._read[self._whole][META])
        for name, table in self._tables.items():
            changed = table
            if rng.random() < 0.4:
                changed = _hostile(table, rng)
            pq.write_table(changed, where / f"{name}.parquet")
        if rng.random() < 0.3:
            found = engine.local([str(where)])
            _safe(fleet_text.render(found))
            _json(found)
            return
        _shown(document(Recording.open(where)), rng)

    def _export(self, rng: random.Random) -> None:
        """Hostile strings and extreme numbers in sound tables, to an exporter."""
        where = self._fresh()
        (where / META).write_bytes(self._read[self._whole][META])
        odd = rng.sample(sorted(self._tables), rng.randint(1, 4))
        for name, table in self._tables.items():
            changed = _hostile(table, rng, values_only=True) if name in odd else table
            pq.write_table(changed, where / f"{name}.parquet")
        frames = Frames(Recording.open(where))
        form = FORMATS[rng.choices(sorted(FORMATS), [4, 4, 1, 4, 4])[0]]  # html takes longest
        module = import_module(f"dmatrace.export.{form.name}")
        out = io.BytesIO()
        self.seen[f"export as {form.name}"] += 1
        if form.tables:
            name = rng.choice(sorted(frames))
            module.write_table(frames[name], out, name)
        else:
            module.write(frames, out, Options(rng.choice(WEIGHTS)))
        made = out.getvalue()
        if form.name == "parquet":
            pq.read_table(io.BytesIO(made)).validate(full=True)
        elif form.stdout:
            _safe(made.decode())
        elif form.name == "html":
            _page(made.decode())

    def _fresh(self) -> Path:
        where = self._place / "case.dmt"
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        return where


def _poison(found: Any, rng: random.Random) -> None:
    """One leaf of a document: a string for a hostile one, a number for an extreme one."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            if isinstance(inner, (dict, list)):
                walk(inner)
            elif isinstance(inner, (str, int)) and not isinstance(inner, bool):
                places.append((value, key))

    walk(found)
    holder, key = rng.choice(places)
    if isinstance(holder[key], str):
        holder[key] = rng.choice(HOSTILE)
    else:
        holder[key] = rng.choice([number for number in NUMBERS if number < 1 << 63])


def _replace(value: Any, rng: random.Random) -> None:
    """Something inside a JSON value by something else, or nothing."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(value[key], (dict, list)) and value[key] and rng.random() < 0.6:
            value = value[key]
            continue
        if rng.random() < 0.2:
            del value[key]
        else:
            value[key] = copy.deepcopy(rng.choice(JSON_VALUES))
        return


def _page(page: str) -> None:
    """Every script is ours, and nothing is obeyed that a page should not say."""
    body, _, data = page.partition('<script type="application/json"')
    _safe(body)
    assert "<script" not in body.lower()
    found = re.findall(r'<script type="application/json" id="\w+">(.*?)</script>', page)
    assert len(found) == 2
    for inner in found:
        assert "<" not in inner
        _safe(inner)
        json.loads(inner)
    # The library's own script speaks of "<script" as well, so only what is ours is counted.
    assert "<script>alert" not in data.lower()


def _hostile(table: pa.Table, rng: random.Random, *, values_only: bool = False) -> pa.Table:
    """One column of a table changed; ``values_only``: it is as sound as before."""
    at = rng.randrange(table.num_columns)
    name, count = table.column_names[at], table.num_rows
    kind = table.schema.field(at).type
    what = 5 if values_only else rng.randrange(6)
    if what == 0:
        return table.drop_columns([name])
    if what == 1:
        return table.append_column(name, table.column(at))
    if what == 2:
        return table.set_column(at, name, pa.nulls(count, kind))
    if what == 3:
        return table.set_column(at, name, pa.array([rng.choice(HOSTILE[:3])] * count))
    if pa.types.is_string(kind):
        values: list[Any] = [
            rng.choice([one for one in HOSTILE if one != "\ud800"]) for _ in range(count)
        ]
    elif pa.types.is_boolean(kind):
        values = [rng.choice((True, False, None)) for _ in range(count)]
    else:
        low = 0 if pa.types.is_unsigned_integer(kind) else -(1 << 63)
        numbers = [number for number in NUMBERS if low <= number < 1 << 63]
        values = [rng.choice(numbers) for _ in range(count)]
    return table.set_column(at, name, pa.array(values, kind))


def _shown(found: dict[str, Any], rng: random.Random) -> None:
    if rng.random() < 0.2:
        _json(found)
    else:
        _safe(text.render(found, ascii_only=rng.random() < 0.3))


def _json(found: dict[str, Any]) -> None:
    shown = as_json.render(found)
    assert shown.isascii()
    _safe(shown)
    assert json.dumps(json.loads(shown)) == json.dumps(found)


def _safe(shown: str) -> None:
    """Nothing that a terminal obeys but the ends of lines."""
    odd = {char for char in set(shown) - {"\n"} if safe.unfit(char)}
    assert not odd, odd
