"""What a load's figures mean, in sentences with a next step.

Pure; each sentence rests on a figure that it names.  Rules whose figures are hidden
by a missing hook stay silent.
"""

from __future__ import annotations

from collections.abc import Iterator

from dmatrace.phases import MEANING
from dmatrace.sizes import format_ns, format_size
from dmatrace.tui.model import Load

#: A phase from this share of the time on is worth a sentence.
LARGE = 0.2

_ADVICE = {
    "copy": "a direct strategy (udmabuf-dio, memfd-dio) copies nothing",
    "readahead": "the page cache is filled with a second copy; a direct strategy skips it",
    "page-cache": "waiting for the page cache; a direct strategy or more --jobs may help",
    "heap-alloc": "pages are allocated and zeroed; a buffer that is kept and reused pays it once",
    "shmem": "memfd pages are allocated and zeroed one by one; huge pages or a reused buffer help",
    "fault": "each page is mapped by a fault; MAP_POPULATE or huge pages make them fewer",
    "gup": "user pages are pinned one by one; huge pages, or the loader module, avoid it",
    "dio": "the disk is waited for; more --jobs or --depth keep it busy",
    "udmabuf": "making the udmabuf pins every folio; huge pages make them fewer",
    "reclaim": "memory is short: pages are freed while it loads",
    "release": "giving the buffer back takes this long; it can be kept",
    "submit": "requests are handed to the driver; larger --block makes them fewer",
}


def diagnose(load: Load) -> list[str]:
    """Sentences, the most expensive first."""
    return list(_sentences(load))


def _sentences(load: Load) -> Iterator[str]:
    if load.state in ("failed", "refused", "skipped", "cut off", "waiting") and load.note:
        yield f"{load.state}: {load.note}."
    if load.state == "exited" and load.note not in ("", "exit code 0"):
        yield f"The process ended with {load.note}."
    if load.verified is False:
        yield "The buffer's contents DIFFER from the file."
    whole = load.total
    for times in load.phases:
        if not whole or times.total < LARGE * whole:
            break
        what = MEANING.get(times.phase, "")
        advice = _ADVICE.get(times.phase)
        text = f"{times.phase} takes {100 * times.total / whole:.0f}% of the time"
        text += f" ({format_ns(times.total)}): {what}"
        yield f"{text}; {advice}." if advice else f"{text}."
    cached = load.memory.cached
    if load.residency is not None and cached is not None and load.residency >= 1.5:
        yield (
            f"In memory {load.residency:.2f} times: besides the buffer, {format_size(cached)} of"
            " the file stay in the page cache."
        )
    if load.copies_per_byte is not None and load.copies_per_byte >= 0.5 and load.copied:
        yield (
            f"The CPU copied {load.copies_per_byte:.2f} bytes for each byte loaded"
            f" ({format_size(load.copied)})."
        )
    if load.strategy.endswith("-dio") and load.verdict in ("buffered", "mixed"):
        yield f"Direct I/O was asked for and not had: {load.why}."
    alloc, io, both = load.overlap
    shorter = min(alloc, io)
    if shorter > LARGE * load.elapsed > 0 and both < shorter // 10:
        yield (
            f"Allocation ({format_ns(alloc)}) and disk reads ({format_ns(io)}) do not overlap;"
            f" together they could save up to {format_ns(shorter - both)}."
        )
    if load.io is not None and load.io.requests and load.io.depth_mean < 1.5:
        waiting = sum(times.blocked for times in load.phases)
        if whole and waiting > LARGE * whole:
            yield (
                f"The disk had {load.io.depth_mean:.1f} requests at a time while"
                f" {100 * waiting / whole:.0f}% of the time was waiting: more --jobs or --depth."
            )
