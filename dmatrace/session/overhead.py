"""The tracer's cost: the same loads with and without it."""

from __future__ import annotations

from collections.abc import Collection
from statistics import median
from typing import Any

from dmatrace.errors import DmatraceError
from dmatrace.session.progress import Progress
from dmatrace.session.strategies import Recorder, Request
from dmatrace.session.tracer import Tracer


def compare(
    request: Request,
    tracer: Tracer,
    skipped: Collection[str],
    pairs: int,
    say: Progress,
) -> list[dict[str, Any]]:
    """Interleaved loads with and without the tracer, as ratios of their wall times.

    "Without" means no probe attached anywhere: the programs are detached and
    attached again for each pair, in alternating order.  Nothing of these loads
    is recorded but the ratios.
    """
    results = []
    plain, traced = Recorder(request, None, None, say), Recorder(request, tracer, None, say)
    try:
        for strategy in request.strategies:
            if strategy in skipped:
                continue
            # One load each that does not count: the first pays for memory never touched before.
            for recorder in (plain, traced):
                _wall(recorder, strategy)
            ratios = []
            for pair in range(pairs):
                times = {}
                for with_tracer in (True, False) if pair % 2 else (False, True):
                    if with_tracer:
                        times[True] = _wall(traced, strategy)
                    else:
                        with tracer.paused():
                            times[False] = _wall(plain, strategy)
                ratios.append(times[True] / times[False])
                say(
                    f"[ab {pair + 1}/{pairs}] {strategy}: with {times[True] / 1e6:.0f} ms,"
                    f" without {times[False] / 1e6:.0f} ms, ratio {ratios[-1]:.3f}"
                )
            results.append(
                {
                    "strategy": strategy,
                    "pairs": pairs,
                    "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
                }
            )
    finally:
        plain.close()
        traced.close()
    return results


def _wall(recorder: Recorder, strategy: str) -> int:
    row = recorder.load(strategy)
    if row.get("failed"):
        raise DmatraceError(f"{strategy} failed during --ab: {row['failed']}")
    return int(row["wall_ns"])
