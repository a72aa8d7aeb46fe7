"""The loader process: does one step at a time as its controller says.

``python3 -m dmatrace_loaders.runner --control-fd N``; one JSON document per
line both ways over that socket.  Steps: prepare, go, verify, close, bye; see
``Runner``.  The process dies with its controller.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from dmatrace_loaders import kernel, native, table, verify
from dmatrace_loaders.clock import Record, Window, Worker
from dmatrace_loaders.errors import LoadError, Refused
from dmatrace_loaders.load import Load, Settings
from dmatrace_loaders.many import ManyBuffers
from dmatrace_loaders.reading import Source

Answer = dict[str, Any]


class Runner:
    """State between steps: at most one load."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._load: Load | None = None
        self._refused: Answer | None = None
        self._prepared: Answer = {}
        self._records: list[Record] = []

    def prepare(self, what: Answer) -> Answer:
        """Open the file and test what the strategy needs."""
        self._drop()
        strategy = table.select(what["strategy"])[0]
        buffers = what.get("buffers", 1)
        strategy.check(_size_of(what["file"]), buffers)
        self._source = strategy.open(what["file"], what["block"])
        status = os.fstat(self._source.fd)
        self._prepared = what
        self._records = []
        self._refused = None
        settings = Settings(
            what.get("jobs", 1),
            what.get("depth", 1),
            self._spawn,
            what.get("gather", native.DEFAULT_GATHER),
        )
        if buffers == 1:
            self._load = strategy.load(self._source, settings)
        else:
            self._load = ManyBuffers(strategy.load, self._source, settings, buffers)
        size = self._source.size
        return {"prepared": {"bytes": size, "dev": status.st_dev, "ino": status.st_ino}}

    def _spawn(self, work: Callable[[], None]) -> Callable[[], None]:
        worker = Worker(self._prepared["load_id"], self._records, work)
        worker.start()
        return worker.finish

    def go(self, _what: Answer) -> Answer:
        """Window 0: create and load."""
        load = self._load
        assert load is not None
        with Window(self._prepared["load_id"], 0, self._records) as window:
            middle = window.start
            try:
                if not load.at_once:
                    load.create()
                    middle = window.now()
                load.load()
            except Refused as refused:
                self._refused = {
                    "errno": refused.errno,
                    "name": errno.errorcode.get(refused.errno, str(refused.errno)),
                    "why": refused.why,
                }
        return {
            "loaded": {
                "create_ns": middle - window.start,
                "io_ns": window.end - middle,
                "threads": self._records,
                "refused": self._refused,
                "module": load.module(),
            }
        }

    def verify(self, _what: Answer) -> Answer:
        """Outside any window: compare with the file."""
        if self._refused or self._load is None or self._source is None:
            return {"verified": None, "why": "nothing was loaded"}
        how = self._prepared.get("verify", "sampled")
        loads = self._load.buffers()
        samples = -(-verify.SAMPLES // len(loads))
        for load in loads:
            part = load.source
            with load.content() as view:
                wrong = verify.difference(part.path, part.size, view, how, part.start, samples)
            if wrong:
                return {"verified": False, "why": wrong}
        return {"verified": True, "why": ""}

    def close(self, _what: Answer) -> Answer:
        """Window 1: free everything."""
        records: list[Record] = []
        assert self._load is not None
        with Window(self._prepared["load_id"], 1, records) as window:
            self._load.close()
        self._load = None
        self._drop()
        return {"closed": {"close_ns": window.end - window.start, "threads": records}}

    def step(self, name: str, what: Answer) -> Answer:
        """One step's answer; whatever fails frees the load and says so."""
        steps = {"prepare": self.prepare, "go": self.go, "verify": self.verify, "close": self.close}
        try:
            return steps[name](what)
        except LoadError as error:
            self._drop()
            said = {"why": error.message, "do": error.do, "code": error.code}
            return {"cannot" if name == "prepare" else "failed": said}
        except MemoryError:
            self._drop()
            return {"failed": {"why": "out of memory", "do": "load a smaller file"}}
        except OSError as error:
            self._drop()
            why = f"{os.strerror(error.errno or 0)} ({errno.errorcode.get(error.errno or 0, '?')})"
            return {"failed": {"why": why, "do": "dmesg may say more"}}

    def _drop(self) -> None:
        if self._load is not None:
            self._load.close()
            self._load = None
        if self._source is not None:
            self._source.close()
            self._source = None


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror}", do="check the path") from None


def main() -> int:
    """Serve one controller until "bye" or until it is gone."""
    parser = argparse.ArgumentParser(prog="dmatrace_loaders.runner")
    parser.add_argument("--control-fd", type=int, required=True)
    control = socket.socket(fileno=parser.parse_args().control_fd)
    # Ctrl-C reaches the whole terminal group; the controller decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.die_with_parent()
    # Before anyone traces it: what this reads belongs to no load.
    kernel.map_own_code()
    # A controller that is gone needs no answer.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(control)
    return 0


def _serve(control: socket.socket) -> None:
    runner = Runner()
    with control, control.makefile("rwb") as stream:

        def say(answer: Answer) -> None:
            stream.write(json.dumps(answer).encode() + b"\n")
            stream.flush()

        say({"hello": {"pid": os.getpid()}})
        for line in stream:
            ((name, what),) = json.loads(line).items()
            if name == "bye":
                break
            say(runner.step(name, what))


if __name__ == "__main__":
    sys.exit(main())
