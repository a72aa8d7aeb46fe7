"""A live view's source: a recorder that is followed, stopped, and fails in its own words.

The recorder here is a script that writes loads as the real one does; the guest's tests
run the real one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from views import replay

from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.tui.live import Live
from dmatrace.tui.model import Snapshot

_HERE = Path(__file__).parent

_RECORDER = f"""
import signal, sys, time
sys.path.insert(0, {str(_HERE)!r})
import synthetic
from dmatrace.recording import Writer
out, marker = sys.argv[sys.argv.index("-o") + 1], sys.argv[1]
print("compiling and attaching", file=sys.stderr, flush=True)
loads = 0
with Writer.create(out, {{**synthetic.META, "skipped": [], "target": {{}}}}) as writer:
    try:
        while loads < int(sys.argv[2]):
            loads += 1
            synthetic.write_load(writer, loads, "dmabuf-bio", loads)
            time.sleep(0.01)
        if sys.argv[3] == "wait":
            open(marker + ".waits", "w").close()
            signal.pause()
    except KeyboardInterrupt:
        pass
open(marker, "w").write("put back")
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What the recorder writes when it has put everything back."""
    return tmp_path / "marker"


@pytest.fixture
def start(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Live]]:
    """Start a recorder of ``loads`` loads that ends, or waits to be stopped."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    started: list[Live] = []

    def run(
        loads: int,
        then: str = "wait",
        keep: str | None = None,
        script: str = "",
        group: bool = False,
    ) -> Live:
        recorder = (sys.executable, "-c", script or _RECORDER, str(marker), str(loads), then)
        live = Live((), title="a test", keep=keep, group=group, recorder=recorder)
        started.append(live)
        return live

    yield run
    for live in started:
        live.close()
    assert list((tmp_path / "temporary").iterdir()) == []


def _until(live: Live, true: Callable[[Snapshot], bool]) -> Snapshot:
    for _ in range(6000):
        snapshot = live.read()
        if true(snapshot):
            return snapshot
        time.sleep(0.01)
    raise AssertionError(snapshot)


def test_loads_appear_while_they_are_recorded(start: Callable[..., Live], marker: Path) -> None:
    live = start(3)
    first = live.read()
    assert first.state in ("starting", "live")
    snapshot = _until(live, lambda seen: len(seen.loads) == 3)
    assert snapshot.state == "live"
    assert snapshot.transport is None
    assert not marker.exists()
    live.close()
    assert marker.read_text() == "put back"


def test_a_recorder_that_ends_leaves_its_last_data(start: Callable[..., Live]) -> None:
    live = start(5, "end")
    snapshot = _until(live, lambda seen: seen.state == "ended")
    assert [load.state for load in snapshot.loads] == ["done"] * 5
    assert snapshot.note == "the recorder has finished"
    assert live.read().loads == snapshot.loads


def test_a_pause_shows_the_same_and_reads_on(start: Callable[..., Live]) -> None:
    live = start(40)
    _until(live, lambda seen: bool(seen.loads))
    live.pause(True)
    shown = live.read()
    assert shown.paused
    time.sleep(0.5)
    assert live.read() is shown
    live.pause(False)
    snapshot = _until(live, lambda seen: len(seen.loads) == 40)
    assert not snapshot.paused


def test_the_recording_is_kept_where_it_is_named(
    start: Callable[..., Live], tmp_path: Path
) -> None:
    live = start(2, keep=str(tmp_path / "kept.dmt"))
    seen = _until(live, lambda seen: [load.state for load in seen.loads] == ["done"] * 2)
    live.close()
    kept = replay(tmp_path / "kept.dmt").read()
    assert [load.phases for load in kept.loads] == [load.phases for load in seen.loads]
    assert kept.state == "ended"


_SLOW = _RECORDER.replace(
    "    except KeyboardInterrupt:\n        pass\n",
    "    except KeyboardInterrupt:\n        time.sleep(float(sys.argv[3][5:] or 0))\n",
).replace('== "wait"', '!= ""')


def test_a_recorder_that_writes_for_long_is_waited_for(
    start: Callable[..., Live],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("dmatrace.tui.live._STOP_S", 0.1)
    monkeypatch.setattr("dmatrace.tui.live._SAY_S", 0.1)
    kept = tmp_path / "kept.dmt"
    live = start(2, "wait 1.5", keep=str(kept), script=_SLOW)
    _until(live, lambda seen: len(seen.loads) == 2)
    live.close()
    assert replay(kept).read().state == "ended"
    assert json.loads((kept / "meta.json").read_text())["complete"] is True
    said = capsys.readouterr().err
    assert said == f"dmatrace: {kept} is being written; Ctrl-C leaves it as it is\n"


def test_a_recorder_that_is_slow_to_end_is_said(
    start: Callable[..., Live], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dmatrace.tui.live._SAY_S", 0.1)
    live = start(2, "wait 0.5", script=_SLOW)
    _until(live, lambda seen: len(seen.loads) == 2)
    live.close()
    said = capsys.readouterr().err
    assert said == "dmatrace: the recorder is detaching its probes\n"


def test_ctrl_c_does_not_wait_for_it(start: Callable[..., Live], tmp_path: Path) -> None:
    kept = tmp_path / "kept.dmt"
    live = start(2, "wait 600", keep=str(kept), script=_SLOW)
    _until(live, lambda seen: len(seen.loads) == 2)
    # As a terminal sends it; the recorder has a session of its own.
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    live.close()
    assert len(replay(kept).read().loads) == 2


def test_a_recording_that_is_replaced_is_not_shown(
    start: Callable[..., Live], tmp_path: Path
) -> None:
    """What --force replaces is there until the recorder has attached."""
    old, gate = tmp_path / "kept.dmt", tmp_path / "gate"
    _until(start(3, "end", keep=str(old)), lambda seen: seen.state == "ended")
    waiting = f"""
import os, shutil, time
while not os.path.exists({str(gate)!r}):
    time.sleep(0.01)
shutil.rmtree({str(old)!r})
"""
    live = start(1, "end", keep=str(old), script=waiting + _RECORDER)
    assert live.read().state == "starting"
    gate.touch()
    snapshot = _until(live, lambda seen: seen.state == "ended")
    assert len(snapshot.loads) == 1


_FOLLOWING = f"""
import os, sys, time
sys.path.insert(0, {str(_HERE)!r})
import followed, synthetic
from dmatrace.recording import Writer
out, marker = sys.argv[sys.argv.index("-o") + 1], sys.argv[1]
tables = followed.tables()
with Writer.create(out, {{**synthetic.META, "skipped": [], "hooks": [], "target": {{}}}}) as writer:
    for table in ("loads", "calls"):
        writer.append(table, tables[table][:2 if table == "loads" else None])
    for table in ("runs", "ways", "page_cache"):
        writer.append(table, tables[table][:2])
    while not os.path.exists(marker):
        time.sleep(0.01)
    for table in ("runs", "ways", "page_cache", "loads", "snapshots"):
        writer.append(table, tables[table][0 if table == "snapshots" else 2:])
"""


def test_files_of_followed_processes_grow(
    start: Callable[..., Live], tmp_path: Path, marker: Path
) -> None:
    """Half of the rows, then all of them; and what is shown at last is what a replay shows."""
    live = start(0, keep=str(tmp_path / "kept.dmt"), script=_FOLLOWING)
    # A look may come between the rows of two tables.
    snapshot = _until(
        live,
        lambda seen: [file.progress for load in seen.loads for file in load.files] == [0.75, 0.5],
    )
    assert snapshot.state == "live"
    marker.write_text("go on")
    seen = _until(live, lambda seen: seen.state == "ended")
    assert [file.progress for load in seen.loads for file in load.files] == [1.0, 2.0]
    kept = replay(tmp_path / "kept.dmt").read()
    assert [load.files for load in kept.loads] == [load.files for load in seen.loads]


_COMMANDED = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, lambda *_: None)
code = subprocess.call([sys.executable, "-c", '''
import signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(5))
open(sys.argv[1], "w").close()
signal.pause()
''', sys.argv[1] + ".runs"])
open(sys.argv[1], "w").write("put back")
print("dmatrace: the command ended", file=sys.stderr)
sys.exit(code)
"""


def test_a_command_ends_with_the_view(start: Callable[..., Live], marker: Path) -> None:
    """What a recorder runs, and leaves Ctrl-C to, gets it from the view."""
    live = start(0, script=_COMMANDED, group=True)
    for _ in range(6000):
        if marker.with_name(marker.name + ".runs").exists():
            break
        time.sleep(0.01)
    live.close()
    assert (live.code, live.said) == (5, ("dmatrace: the command ended",))
    assert marker.read_text() == "put back"


@pytest.mark.parametrize(("code", "kind"), [(1, DmatraceError), (3, CannotHere)])
def test_a_recorder_that_cannot_start_is_heard(
    start: Callable[..., Live], code: int, kind: type[DmatraceError]
) -> None:
    script = f"""
import sys
print("dmatrace: tracing needs root; run it with sudo", file=sys.stderr)
sys.exit({code})
"""
    live = start(0, script=script)
    with pytest.raises(kind, match="tracing needs root; run it with sudo") as caught:
        _until(live, lambda _: False)
    assert caught.value.code == code


def test_a_recorder_that_fails_midway_says_why(start: Callable[..., Live]) -> None:
    script = (
        _RECORDER
        + """
print("dmatrace: cannot write: No space left on device; use -o", file=sys.stderr)
sys.exit(1)
"""
    )
    snapshot = _until(start(1, "end", script=script), lambda seen: seen.state == "ended")
    assert snapshot.note.startswith("the recorder ended: cannot write: No space left")
    assert len(snapshot.loads) == 1


def test_the_recorder_ends_when_the_view_is_killed(tmp_path: Path, marker: Path) -> None:
    view = f"""
import sys, time
from dmatrace.tui.live import Live
live = Live((), title="", keep={str(tmp_path / "kept.dmt")!r},
            recorder=(sys.executable, "-c", {_RECORDER!r}, {str(marker)!r}, "1", "wait"))
print(live.pid, flush=True)
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    import subprocess

    with subprocess.Popen(
        [sys.executable, "-c", view], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        recorder = int(process.stdout.readline())
        for _ in range(6000):
            if marker.with_name(marker.name + ".waits").exists():
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    for _ in range(6000):
        if marker.exists() and marker.read_text():  # written, not just made
            break
        time.sleep(0.01)
    assert marker.read_text() == "put back"
    for _ in range(1000):
        if not Path(f"/proc/{recorder}").exists():
            break
        time.sleep(0.01)
