"""Recording processes that are not our loaders: one load per process, while it is followed.

The tracer reports threads; here they become processes, with what each read
and when it began and ended.  Births and ends of threads come from the tracer
(nothing is traced of which it did not report the birth), names, exit codes
and the time of an end from the kernel's proc connector.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from dmatrace import interrupts
from dmatrace.bpf import layout
from dmatrace.phases import PHASES
from dmatrace.recording import Writer
from dmatrace.session import files, processes
from dmatrace.session.delays import Delays
from dmatrace.session.ledger import Ledger
from dmatrace.session.observed import READ, Process, Thread, how
from dmatrace.session.procevents import Event, ProcEvents
from dmatrace.session.progress import Progress
from dmatrace.session.rows import Row
from dmatrace.session.schedstat import SchedStat
from dmatrace.session.tracer import Tracer
from dmatrace.session.ways import Ways, learned
from dmatrace.sizes import format_size

FIRST = 1  # load_id of the first process, which the memory ledger of them all goes with
OBSERVED = "observed"  # in the place of a strategy's name
_POLL_S = 0.5
#: To make rows of what the tracer wrote, at one time: names in proc and the ledger wait for it.
_LOOK_S = 0.2
_WINDOW = -1  # of threads that set no marks


class Observer:
    """Follows processes and writes what they did.

    ``more`` says whether a new one is meant, ``newcomers`` names those that are.
    """

    def __init__(
        self,
        tracer: Tracer,
        writer: Writer,
        events: ProcEvents | None,
        delays: Delays | None,
        say: Progress,
        more: Callable[[Event], bool] | None = None,
        ledger: Ledger | None = None,
        newcomers: Callable[[], Iterable[int]] = tuple,
        ways: Callable[[Callable[[int], int]], Ways] | None = None,
    ) -> None:
        self._ledger = ledger
        self._ways = ways(self._load_of) if ways else None
        self._named: dict[files.File, str] = {}
        self._tracer = tracer
        self._writer = writer
        self._events = events
        self._delays = delays
        self._say = say
        self._more = more
        self._newcomers = newcomers
        self._polled = 0.0
        self._seen = 0  # the tracer's place at the last look
        self._adding = 0  # the process whose threads are just being followed
        self._pages: dict[files.File, layout.FilePages] = {}
        self._heard: deque[tuple[int, Event]] = deque()  # and the tracer's place at that time
        self._gone: dict[int, tuple[int, int]] = {}  # {load_id: the tracer's place, when}
        self._threads: dict[int, Thread] = {}
        self._by_pid: dict[int, Process] = {}  # the last of each number
        self.processes: list[Process] = []

    @interrupts.held()
    def add(self, pid: int) -> bool:
        """Follow a process that runs, from now on; False if it has just ended."""
        known = self._by_pid.get(pid)
        if known is not None and not known.over:
            return True
        self._adding = pid
        try:
            if self._delays:
                self._delays.begin(pid)
            if self._ways:
                self._ways.expect(pid)
            found = self._tracer.follow(pid, show=True)
            self._keep(self._tracer.take())
            if self._ways:
                self._ways.follow(pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        finally:
            self._adding = 0
        for tid, stats in found.items():
            if tid in self._threads:
                self._threads[tid].sched = stats
        return pid in self._by_pid

    @interrupts.held()
    def idle(self) -> None:
        """Now and then, while the processes run."""
        if self._ledger:
            self._ledger.sample()
        self._look(_LOOK_S)
        for pid in self._newcomers():
            self.add(pid)
        if time.monotonic() - self._polled > _POLL_S:
            self._polled = time.monotonic()
            self._tracer.poll_threads()
            self._keep(self._tracer.take())
            if self._delays:
                self._delays.poll()
            for process in self.processes:
                if not process.over:
                    self._named |= files.names(process.row["pid"])
            if self._ways:
                self._ways.sample(self._named)
            self._bury()
            self._show()

    @property
    def behind(self) -> bool:
        """Whether the last look left something over."""
        return bool(self._heard) or not self._tracer.past(self._seen)

    def _look(self, seconds: float | None = None) -> None:
        """What the tracer wrote until now, and what the kernel said of it."""
        # Taken before the tracer's word: what they are about is known by then.
        events = list(self._events.take()) if self._events else []
        self._seen = self._tracer.mark()
        self._heard += [(self._seen, event) for event in events]
        self._tracer.drain(seconds)
        self._keep(self._tracer.take())
        while self._heard and self._tracer.past(self._heard[0][0]):
            self._event(self._heard.popleft()[1])

    def ended(self, pid: int, status: int) -> None:
        """What whoever waited for a process knows, which the proc connector may say later."""
        process = self._by_pid.get(pid)
        if process is not None:
            process.row["ended"] = how(status)

    @property
    def named(self) -> Mapping[files.File, str]:
        """Paths of the files that the processes had open or mapped, as far as they were seen."""
        return self._named

    def alive(self, pids: set[int]) -> bool:
        """Whether one of these runs still."""
        return any(not self._by_pid[pid].over for pid in pids if pid in self._by_pid)

    @interrupts.held()
    def finish(self) -> None:
        """The last look at what runs still, and every process's row."""
        self.idle()
        self._look()
        if self._ledger:
            self._ledger.end()
        self._tracer.open_runs()
        stats = self._tracer.poll_threads(last=True)
        self._tracer.drain()  # what was done until then: looking at the threads takes a while
        rows = self._tracer.take()
        self._keep(rows)
        for row in rows.get("snapshots", []):
            if row["phase"] == PHASES[0] and row["kind"] == "poll":
                self._clock(row, stats.get(row["tid"]), "recorder")
        # Ends that the tracer has told since the events were taken.
        for event in self._events.take() if self._events else ():
            if event.kind == "exit":
                self._status(self._by_pid.get(event.tgid), event)
        if self._ways:
            self._ways.sample(self._named, last=True)
        self._files()
        now = time.monotonic_ns()
        for process in self.processes:
            row = process.row
            if not process.over:
                self._end(process, now)
            if self._delays:
                self._write("delays", self._delays.rows(row["pid"], row["load_id"]))
            self._total(process)
        self._write("loads", [process.row for process in self.processes])

    def _show(self) -> None:
        read = sum(self._bytes(process) for process in self.processes)
        running = sum(not process.over for process in self.processes)
        self._say.now(
            f"following {running} process{'' if running == 1 else 'es'}: {format_size(read)} read"
        )

    # What the tracer reported.

    def _keep(self, rows: dict[str, list[Row]]) -> None:
        """Take note of rows, in their order, give each its process's load_id, and write them."""
        counters: dict[tuple[int, int, str], dict[str, int]] = {}
        for row in rows.get("counters", []):
            key = row["tid"], row["t_ns"], row["kind"]
            counters.setdefault(key, {})[row["counter"]] = row["value"]
        for row in rows.get("snapshots", []):
            if row["phase"] == PHASES[0]:
                self._snapshot(row, counters.get((row["tid"], row["t_ns"], row["kind"]), {}))
        for buffer in rows.get("buffers", []):
            process = self._by_pid.get(buffer["tgid"])
            if process and buffer["event"] == "export":
                process.dmabuf += buffer["size"]
        learned(self._ways, rows.get("calls", ()))
        for table, found in rows.items():
            for row in found:
                row["load_id"] = self._load_of(row["tgid"])
            self._write(table, found)

    def _load_of(self, pid: int) -> int:
        """The load_id of a process, the last one of that number; -1: not followed."""
        process = self._by_pid.get(pid)
        return process.row["load_id"] if process else -1

    def _snapshot(self, row: Row, counters: dict[str, int]) -> None:
        run, wait = counters.pop("sched_run_ns", 0), counters.pop("sched_wait_ns", 0)
        self._born(row)
        if row["kind"] == "fork" and row["tid"] in self._threads:
            # Not zeros for a thread that goes on under a new number.
            self._threads[row["tid"]].sched = SchedStat(run, wait, 0)
        self._count(row, counters)
        if row["kind"] == "exit":
            self._clock(row, SchedStat(run, wait, 0) if run else None, "tracer")
            self._died(row)

    def _born(self, row: Row) -> None:
        pid, tid, fork = row["tgid"], row["tid"], row["kind"] == "fork"
        process = self._by_pid.get(pid)
        if process is None or (process.over and fork):
            process = self._begin(pid, row)
        elif fork and row["t_ns"] < process.row["start_ns"]:
            # A look at all threads came before its birth was read.
            process.row["start_ns"] = row["t_ns"]
        if row["owner"]:
            return  # a worker, which is somebody else's
        known = self._threads.get(tid)
        if known is not None and fork and row["t_ns"] < known.start_ns:
            known.start_ns = row["t_ns"]
        elif fork or known is None:
            process.living.add(tid)
            self._threads[tid] = Thread(row["t_ns"])

    def _begin(self, pid: int, row: Row) -> Process:
        """A process that is new to us: its first row names it in a recording that is cut off."""
        found = processes.look(pid)
        process = Process(
            {
                "load_id": len(self.processes) + 1,
                "strategy": OBSERVED,
                "round": 1,
                "pid": pid,
                "comm": found.comm if found else row["comm"],
                "command": found.command if found else "",
                "start_ns": row["t_ns"],
            }
        )
        self.processes.append(process)
        self._by_pid[pid] = process
        self._write("loads", [process.row])
        if self._delays and pid != self._adding:
            self._delays.begin(pid, born=True)
        return process

    def _count(self, row: Row, counters: dict[str, int]) -> None:
        """Counters are cumulative; those of a thread under a new number begin as they were."""
        thread = self._threads.get(row["tid"])
        process = self._by_pid[row["tgid"]]
        if row["owner"] or thread is None:
            sign = {"work-begin": -1, "work-end": 1}.get(row["kind"], 0)
            for name, value in counters.items():
                process.totals[name] += sign * value
            return
        if row["kind"] == "fork":
            thread.base = dict(counters)
        # A birth that is read late is older than what was seen since; an end never is, though
        # its time may be: a look reads the clock last.
        if row["kind"] == "exit" or row["t_ns"] >= thread.seen_ns:
            thread.seen_ns, thread.last = row["t_ns"], counters

    def _died(self, row: Row) -> None:
        thread = self._threads.pop(row["tid"], None)
        process = self._by_pid[row["tgid"]]
        if thread is not None:
            for name, value in thread.last.items():
                process.totals[name] += value - thread.base.get(name, 0)
        process.living.discard(row["tid"])
        process.row["comm"] = row["comm"] if row["tid"] == row["tgid"] else process.row["comm"]
        if not process.living:
            self._end(process, row["t_ns"])

    def _clock(self, row: Row, stats: SchedStat | None, clock: str) -> None:
        """What the scheduler says of a thread, beside what was traced."""
        thread = self._threads.get(row["tid"])
        if thread is None or stats is None:
            return
        before = thread.sched
        self._write(
            "threads",
            [
                {
                    "load_id": self._by_pid[row["tgid"]].row["load_id"],
                    "window": _WINDOW,
                    "tid": row["tid"],
                    "comm": row["comm"],
                    "start_ns": thread.start_ns,
                    "end_ns": row["t_ns"],
                    "sched_run_ns": max(0, stats.run_ns - before.run_ns),
                    "sched_wait_ns": max(0, stats.wait_ns - before.wait_ns),
                    "mark_ns": before.mark_ns + stats.mark_ns,
                    "clock": clock,
                }
            ],
        )

    # What the proc connector reported.

    def _event(self, event: Event) -> None:
        process = self._by_pid.get(event.tgid)
        if process is None or process.over:
            if event.kind == "exit":
                self._status(process, event)
            elif self._more and event.kind != "fork" and self._more(event):
                self.add(event.tgid)
            return
        if event.kind == "exec":
            process.row.pop("ended", None)  # of its first thread, which made place for another
        if event.kind == "exec" or (event.kind == "comm" and event.tid == event.tgid):
            found = processes.look(event.tgid)
            if found is not None:
                process.row["comm"] = found.comm
                # Of a zombie nothing: what it was before exec(2) is not what it ran.
                old = "" if event.kind == "exec" else process.row["command"]
                process.row["command"] = found.command or old
            elif event.kind == "exec":  # it has ended; its name comes with its end
                process.row["command"] = ""
        elif event.kind == "exit":
            self._status(process, event)

    def _status(self, process: Process | None, event: Event) -> None:
        """An end's time and code, which follow the tracer's word of it."""
        if process is None or event.tid != event.tgid:
            return
        process.row["ended"] = how(event.status)
        if event.t_ns > process.row["start_ns"]:
            process.row["end_ns"] = event.t_ns

    def _end(self, process: Process, t_ns: int) -> None:
        process.over = True
        process.row["end_ns"] = max(process.row.get("end_ns", 0), t_ns)

    def _bury(self) -> None:
        """Processes whose end was lost: proc does not have them any more."""
        gone = [
            process
            for process in self.processes
            if not process.over and not processes.alive(process.row["pid"])
        ]
        # What they did last, their ends above all, may be on its way to us.
        place = self._tracer.mark() if gone else 0, time.monotonic_ns()
        self._gone = {p.row["load_id"]: self._gone.get(p.row["load_id"], place) for p in gone}
        if gone:
            self._look(_LOOK_S)
        for process in gone:
            mark, t_ns = self._gone[process.row["load_id"]]
            if not process.over and self._tracer.past(mark):
                self._end(process, t_ns)

    # The sums.

    def _sum(self, process: Process, name: str) -> int:
        return process.sum(name, self._threads)

    def _bytes(self, process: Process) -> int:
        return sum(self._sum(process, name) for name in READ)

    def _total(self, process: Process) -> None:
        row = process.row
        row["wall_ns"] = row["end_ns"] - row["start_ns"]
        row["bytes"] = self._bytes(process)
        row["dmabuf"] = process.dmabuf
        row["shmem"] = self._sum(process, "shmem_alloc_bytes")
        row["page_cache_added"] = self._sum(process, "cache_added_bytes")
        row["page_cache_removed"] = self._sum(process, "cache_removed_bytes")
        row["pinned_peak"] = self._tracer.pinned_peak()
        pages = self._cached(row["load_id"])
        row["page_cache_peak"] = sum(each.peak for each in pages)
        row["page_cache_end"] = sum(max(0, each.added - each.removed) for each in pages)
        row.setdefault("ended", "")

    def _cached(self, load_id: int) -> list[layout.FilePages]:
        """The page cache of a process's files.

        Not files in memory.  The kernel's side counts by file: the only process has them all,
        of several each one those that it loads (1 MiB or more), which others may load too.
        """
        found = {file: pages for file, pages in self._pages.items() if not pages.shmem}
        if len(self.processes) == 1 or self._ways is None:
            return list(found.values())
        mine = self._ways.touched(load_id)
        return [pages for file, pages in found.items() if file in mine]

    def _files(self) -> None:
        """The page cache of the files that the processes brought in, and what they read."""
        self._pages = self._tracer.pages.every()
        if len(self.processes) == 1:
            # The kernel's side counts by file alone: of several processes nobody can say who.
            reads = self._tracer.file_reads()
            # Of a target that leaves no CPU for a look at proc, its system calls say it alone.
            named = {**(self._ways.paths if self._ways else {}), **self._named}
            self._write("file_reads", files.described(reads, named, None, FIRST))

    def _write(self, table: str, rows: list[Row]) -> None:
        if rows:
            self._writer.append(table, rows)
