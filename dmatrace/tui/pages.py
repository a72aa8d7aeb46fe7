"""The text of the views that are pictures: memory, I/O, the detail of a load, empty ones."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

from dmatrace.sizes import format_ns, format_size, short_size
from dmatrace.tui import draw, filepages
from dmatrace.tui.diagnosis import diagnose
from dmatrace.tui.model import Load, Point, Snapshot

_LABEL = 14
_FILES = 200  # the largest ones; of thousands nobody reads on


def memory(snapshot: Snapshot, load: Load | None, width: int) -> Text:
    """Page cache, dma-buf, shmem over time; per file; per heap; pressure; the double residency."""
    return _joined(_memory(snapshot, load, width))


def _memory(snapshot: Snapshot, load: Load | None, width: int) -> Iterator[Text]:
    if load is not None:
        yield _residency(load, snapshot.hidden)
        yield Text()
    series = snapshot.series
    begin, end = snapshot.start, max(snapshot.now, snapshot.start + 1)
    room = max(width - _LABEL - 24, 16)
    largest = max(_values(series), default=0)
    yield Text(
        f"{'memory over time':<{_LABEL}}  one scale, up to {format_size(largest)}", style="bold"
    )
    for name, field in (("page cache", "cached"), ("dma-buf", "dmabuf"), ("shmem", "shmem")):
        yield from _chart(snapshot, name, field, (begin, end), room, largest)
    if any(point.pinned is not None for point in series):
        yield from _chart(snapshot, "pinned", "pinned", (begin, end), room, largest)
    else:
        yield from _pinned(snapshot, load)
    yield from _pressure(snapshot, (begin, end), room)
    axis = f"0 s{format_ns(end - begin):>{room - 3}}" if snapshot.start else ""
    yield Text(" " * (_LABEL + 2) + axis, "dim")
    yield Text()
    yield Text(
        f"{'file in the page cache':<40}{'held':>9}{'peak':>9}{'added':>9}{'removed':>9}", "bold"
    )
    if "cached" in snapshot.hidden:
        yield Text("hidden: the page-cache ledger is not attached (h says why)", "yellow")
    elif not snapshot.files:
        yield Text("Nothing of a traced file went through the page cache yet.", "dim")
    for file in snapshot.files[:_FILES]:
        name = draw.fit(draw.fit_name(file.name, 39), 40)
        figures = (file.cached, file.peak, file.added, file.removed)
        yield Text(name + "".join(f"{short_size(value):>9}" for value in figures))
    if rest := snapshot.files[_FILES:]:
        held = short_size(sum(file.cached for file in rest))
        yield Text(f"{f'and {len(rest)} smaller ones':<40}{held:>9}", "dim")
    yield Text()
    yield Text(f"{'dma-buf exporter':<40}{'buffers':>9}{'bytes':>9}{'peak':>9}", "bold")
    if "dmabuf" in snapshot.hidden:
        yield Text("hidden: dma_buf_export is not attached (h says why)", "yellow")
    elif not snapshot.heaps:
        yield Text("No dma-buf was exported yet.", "dim")
    for heap in snapshot.heaps:
        yield Text(
            draw.fit(heap.name, 40)
            + f"{heap.buffers:>9}{short_size(heap.size):>9}{short_size(heap.peak):>9}"
        )
    if snapshot.pressure:
        yield Text()
        what = "pressure on the machine (PSI), last 10 s"
        yield Text(f"{what:<49}{'some':>9}{'full':>9}{'stalled':>9}", "bold")
        for each in snapshot.pressure:
            yield Text(
                f"{each.resource:<49}{each.some:>8.1f}%{each.full:>8.1f}%{draw.ns(each.stalled):>9}"
            )
    for what, why in snapshot.unavailable:
        yield Text(draw.plain(f"{what} is not known: {why}"), "yellow")


def _values(series: Sequence[Point]) -> list[int]:
    return [
        value
        for point in series
        for value in (point.cached, point.dmabuf, point.shmem, point.pinned)
        if value is not None
    ]


def _chart(
    snapshot: Snapshot, name: str, field: str, span: tuple[int, int], room: int, largest: int
) -> Iterator[Text]:
    head = f"{name:<{_LABEL}}  "
    if field in snapshot.hidden:
        yield Text(f"{head}hidden: {snapshot.hiding(field)} is not attached", "yellow")
        return
    if field in snapshot.uncounted:
        yield Text(f"{head}not counted with --detail sampled; known at a load's end", "yellow")
        return
    points = [
        (point.t, value)
        for point in snapshot.series
        if (value := getattr(point, field)) is not None
    ]
    if not points:
        yield Text(f"{head}nothing yet", "dim")
        return
    values = draw.over_time(points, *span, room)
    lines = draw.spark(values, largest, room, 2)
    now, peak = points[-1][1], max(value for _, value in points)
    style = {"cached": "dark_orange", "dmabuf": "cyan", "shmem": "magenta", "pinned": "green"}[
        field
    ]
    yield Text(" " * (_LABEL + 2)).append(lines[0], style).append(f"  peak {short_size(peak):>6}")
    yield Text(head).append(lines[1], style).append(f"  now  {short_size(now):>6}", "bold")


def _pressure(snapshot: Snapshot, span: tuple[int, int], room: int) -> Iterator[Text]:
    """A line per resource: the share of each moment in which tasks waited for it."""
    for each in snapshot.pressure:
        begin, end = span
        grown = draw.over_time(each.steps, begin, end, room)
        wide = max((end - begin) / room, 1)
        shares = [min(1.0, (b - a) / wide) for a, b in zip([0.0, *grown], grown, strict=False)]
        (line,) = draw.spark(shares, 1.0, room, 1)
        text = Text(f"{'PSI ' + each.resource:<{_LABEL}}  ").append(line, "red")
        yield text.append(f"  peak {max(shares, default=0.0):>6.0%}")


def _pinned(snapshot: Snapshot, load: Load | None) -> Iterator[Text]:
    head = f"{'pinned':<{_LABEL}}  "
    if "pinned" in snapshot.hidden:
        yield Text(f"{head}hidden: {snapshot.hiding('pinned')} is not attached", "yellow")
    elif load is not None:
        peak = load.memory.pinned_peak
        said = "known when the load has ended" if peak is None else f"peak {short_size(peak)}"
        yield Text(f"{head}{said} ({draw.label(load)})")


def _residency(load: Load, hidden: frozenset[str]) -> Text:
    """The line that says what a load costs in memory."""
    text = Text(f"{draw.label(load)}: ", "bold")
    if "cached" in hidden:
        return text.append("in memory ? times: the page cache is hidden", "yellow")
    if load.observed:
        return text.append(f"{format_size(load.done_bytes or 0)} read; what it keeps is below")
    if load.residency is None:
        return text.append("nothing is loaded yet", "dim")
    cached = load.memory.cached or 0
    style = "bold dark_orange" if load.residency >= 1.5 else "bold green"
    text.append(f"in memory {load.residency:.2f} times", style)
    text.append(f" = buffer {short_size(load.done_bytes or 0)} + page cache {short_size(cached)}")
    if load.memory.mapped:
        text.append(f" (of it {short_size(load.memory.mapped)} mapped: the buffer itself)")
    return text


def io(snapshot: Snapshot, load: Load | None, width: int) -> Text:
    """Latency and sizes of requests, the queue, direct against buffered."""
    return _joined(_io(snapshot, load, width))


def _io(snapshot: Snapshot, load: Load | None, width: int) -> Iterator[Text]:
    if load is None:
        yield Text("Select a load in view 1.", "dim")
        return
    yield Text(draw.facts(load), "bold")
    yield Text()
    yield from _paths(snapshot, load, width)
    yield Text()
    if load.io is None:
        yield Text("hidden: block requests are not attached (h says why)", "yellow")
        return
    if not load.io.requests:
        yield Text("No disk read has completed: cached, in memory, or not begun.", "dim")
        return
    found = load.io
    yield Text(
        f"{found.requests} reads, {format_size(found.read_bytes)}; latency"
        f" p50 {format_ns(found.p50)}, p90 {format_ns(found.p90)}, p99 {format_ns(found.p99)},"
        f" max {format_ns(found.max)}"
    )
    yield Text(
        f"queue depth: mean {found.depth_mean:.1f},"
        f" at most {found.depth_max} requests in the device"
    )
    room = max(width - 24, 16)
    top, low = draw.spark(found.depth_series, max(found.depth_series, default=0), room, 2)
    yield Text("            ").append(top, "cyan")
    yield Text("     depth  ").append(low, "cyan")
    yield Text()
    yield Text("reads by latency, issue to completion: at least", "bold")
    yield from draw.histogram(found.latency_hist, "ns", width, style="dark_orange")
    yield Text()
    yield Text("reads by size: at least", "bold")
    yield from draw.histogram(found.size_hist, "bytes", width, style="cyan")


def _paths(snapshot: Snapshot, load: Load, width: int) -> Iterator[Text]:
    """Direct against buffered: one bar, the verdict and its evidence."""
    seen = load.direct_bytes + load.buffered_bytes
    room = max(width - 24, 16)
    for name, value, style, what in (
        ("direct", load.direct_bytes, "green", "direct"),
        ("buffered", load.buffered_bytes, "dark_orange", "copies"),
    ):
        line = Text(f"{name:>10}  ")
        if what in snapshot.hidden:
            least = f"at least {short_size(value)}; " if value else ""
            yield line.append(f"{least}hidden: {snapshot.hiding(what)}", "yellow")
            continue
        filled = round(value / seen * room) if seen else 0
        line.append("█" * filled, style)
        yield line.append(
            " " * (room - filled) + f"{short_size(value):>6}{draw.percent(value, seen):>5}"
        )
    line = Text(f"{'verdict':>10}  ")
    style = draw.VERDICT_STYLE.get(load.verdict or "", "")
    verdict = load.verdict or draw.UNKNOWN
    said = f"{verdict}: {draw.plain(load.why)}" if load.why else verdict
    first, *rest = textwrap.wrap(said, max(width - 12, 20))
    yield line.append(first[: len(verdict)], style).append(first[len(verdict) :])
    for more in rest:
        yield Text(" " * 12 + more)


def detail(snapshot: Snapshot, load: Load, width: int) -> Text:
    """Everything about one load: diagnosis, waterfall, phases, memory."""
    return _joined(_detail(snapshot, load, width))


def _detail(snapshot: Snapshot, load: Load, width: int) -> Iterator[Text]:
    yield Text(draw.facts(load), "bold")
    where = [load.file] if load.file else []
    where += [f"{load.process} (PID {load.pid})"] if load.pid else []
    where += [load.command] if load.command else []
    if where:
        yield Text(draw.plain(", ".join(where)), "dim")
    yield Text()
    yield Text("diagnosis", "bold")
    sentences = diagnose(load)
    if load.why:
        sentences.append(f"I/O was {load.verdict}: {load.why}.")
    for sentence in sentences or ["Nothing stands out." if load.total else "No time was recorded."]:
        for n, line in enumerate(textwrap.wrap(draw.plain(sentence), max(width - 4, 20))):
            yield Text(("· " if n == 0 else "  ") + line)
    yield Text()
    yield from filepages.section(snapshot, load, width)
    yield from _waterfall(snapshot, load, width)
    yield Text()
    yield Text("phases", "bold").append("  ").append_text(draw.legend())
    yield phases(load, width)
    yield Text()
    yield from _bill(load, snapshot.hidden)


def _waterfall(snapshot: Snapshot, load: Load, width: int) -> Iterator[Text]:
    yield Text("waterfall", "bold")
    if not load.waterfall:
        yield Text("It has not begun.", "dim")
        return
    begin = min(intervals[0][0] for _, intervals in load.waterfall)
    end = max(intervals[-1][1] for _, intervals in load.waterfall)
    room = max(width - 22 - 10, 16)
    for name, intervals in load.waterfall:
        cells = [False] * room
        for start, stop in intervals:
            first = (start - begin) * room // max(end - begin, 1)
            last = (stop - begin) * room // max(end - begin, 1)
            for place in range(min(first, room - 1), min(max(last, first + 1), room)):
                cells[place] = True
        inner = name.startswith(" ")
        line = Text(f"{draw.fit(name, 21)} ")
        style = "dark_orange" if inner else "cyan"
        line.append("".join("█" if cell else "·" for cell in cells), style)
        yield line.append(f"{format_ns(sum(b - a for a, b in intervals)):>10}")
    if load.io is None:
        why = f"hidden: {snapshot.hiding('requests')} is not attached"
        yield Text(draw.fit("  disk reads", 22) + why, "yellow")
    yield Text(" " * 22 + f"0{format_ns(end - begin):>{room - 1}}", "dim")


def phases(load: Load, width: int, most: int = 99) -> Text:
    """A line per phase, ``most`` at most: time, share and bar."""
    found = load.phases
    if not found:
        return Text("No time was recorded yet.", "dim")
    full, room = found[0].total, max(width - 14 - 10 - 5 - 2, 10)
    lines = []
    for times, share in zip(found, draw.shares([each.total for each in found]), strict=True):
        line = Text(f"{draw.fit(times.phase, 14)}{format_ns(times.total):>10}{share:>5}  ")
        lines.append(line.append_text(draw.bar(draw.kinds(times), full, room)))
    return Text("\n").join(lines[:most])


def _bill(load: Load, hidden: frozenset[str]) -> Iterator[Text]:
    yield Text("memory", "bold")
    bill = load.memory
    for name, value, by in (
        ("page cache added", bill.added, "cached"),
        ("page cache held", bill.cached, "cached"),
        ("page cache peak", bill.cached_peak, "cached"),
        ("dma-buf exported", bill.dmabuf, "dmabuf"),
        ("shmem allocated", bill.shmem, "shmem"),
        ("pinned at most", bill.pinned_peak, "pinned"),
        ("copied by the CPU", load.copied, "copies"),
    ):
        yield Text(f"{name:<20}{draw.size(value, hidden=by in hidden):>10}")


def missing(snapshot: Snapshot, width: int) -> Text:
    """Hooks that are not attached, and what is hidden by that."""
    lines = [Text("Hooks that are not attached, and what that hides", "bold"), Text()]
    if not snapshot.missing:
        lines.append(Text("None: everything this dmatrace can see is seen."))
    for hook in snapshot.missing:
        lines.append(Text(hook.name, "bold").append(f"  {hook.phase}", "dim"))
        lines += [Text(f"  {part}") for part in textwrap.wrap(hook.hides, max(width - 4, 20))]
    lines += [Text(), Text("Its time is in the phase around it, so a thread still adds up.", "dim")]
    return _joined(iter(lines))


def _joined(lines: Iterator[Text]) -> Text:
    return Text("\n").join(lines)
