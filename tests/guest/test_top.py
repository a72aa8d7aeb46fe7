"""``dmatrace top`` in a real terminal: tmux in the guest runs it, is typed into, and is read."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.guest.lab import ATTACHED, SIZE_LIMIT, Lab, report

# Minutes of emulation each; `make test` has the rest.

SIZE = "48M"
RACE = "dmabuf-bio,udmabuf-dio"
#: The view's command line; tmux's and the shell's hold its words too, and begin otherwise.
VIEW = "^[^ ]*python[^ ]* .*dmatrace top"


class Terminal:
    """A tmux session of 80x24 in the guest."""

    def __init__(self, lab: Lab, command: str) -> None:
        self._lab = lab
        # The exit status stays on the screen behind the view.
        lab.must(
            f"tmux -L top new-session -d -x 80 -y 24 'LANG=C.UTF-8 {command}; echo left with $?;"
            " exec sleep 1000'"
        )

    def screen(self) -> str:
        """What is on it."""
        return self._lab.must("tmux -L top capture-pane -p")

    def press(self, *keys: str) -> None:
        """Type tmux key names."""
        self._lab.must(f"tmux -L top send-keys {' '.join(keys)}")

    def until(self, *words: str, seconds: float = 240) -> str:
        """The screen once it has all the words."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.screen()
            if all(word in found for word in words):
                return found
            assert time.monotonic() < deadline, f"waited for {words}:\n{found}"
            time.sleep(1)

    def close(self) -> None:
        """End it and whatever runs in it."""
        self._lab.shell("tmux -L top kill-server")


@pytest.fixture
def untouched(lab: Lab) -> Iterator[None]:
    """What hangs on the kernel, its parameters and our files are the same afterwards."""
    state = f"ls -A /data /tmp | grep -v tmux; cat {SIZE_LIMIT}; {ATTACHED}"
    lab.must(f"echo 16 >{SIZE_LIMIT}")
    before = lab.must(state)
    yield
    lab.shell("for n in $(seq 100); do pgrep -f 'dmatrace [r]ecord' || break; sleep 0.2; done")
    assert lab.must(state) == before
    lab.must(f"echo 64 >{SIZE_LIMIT}")


@pytest.mark.long
@pytest.mark.usefixtures("untouched")
def test_a_race_is_watched_typed_into_and_left(lab: Lab) -> None:
    out = lab.fresh("race")
    terminal = Terminal(
        lab, f"dmatrace top --strategy {RACE} --size {SIZE} --rounds 2 --raise-limits -o {out}"
    )
    try:
        terminal.until("STARTING", "attaching the BPF programs")
        terminal.until("LIVE", "dmabuf-bio")
        terminal.press("2")
        terminal.until("[Time]", "phases add up to")
        terminal.press("Space")
        terminal.until("PAUSED", "Updates stopped: Space goes on")
        terminal.press("Space")
        terminal.press("1")
        screen = terminal.until("ENDED", "udmabuf-dio #2", "its last data stays")
        rows = {line[3:].split("  ")[0]: line for line in screen.splitlines()[4:8]}
        assert "48M" in rows["dmabuf-bio"]
        assert "buffered" in rows["dmabuf-bio"]
        assert "direct" in rows["udmabuf-dio"]
        assert "100%" in rows["udmabuf-dio #2"]
        terminal.press("3")
        terminal.until("in memory 2.00 times")
        terminal.press("1", "Enter")
        terminal.until("diagnosis", "waterfall")
        terminal.press("Escape")
        terminal.press("'?'")
        terminal.until("this help")
        terminal.press("Escape")
        terminal.press("q")
        terminal.until("left with 0")
    finally:
        terminal.close()
    # What was on the screen is what the recording of the same run says.
    loads = {(load["strategy"], load["round"]): load for load in report(out)["loads"]}
    for (strategy, number), load in loads.items():
        row = rows[f"{strategy} #{number}" if number > 1 else strategy]
        assert f"{load['copies']['per_byte']:.2f}" in row
        assert load["direct"]["verdict"] in row


@pytest.mark.long
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("how", ["q", "TERM", pytest.param("KILL", marks=pytest.mark.long)])
def test_whoever_leaves_early_leaves_nothing_behind(lab: Lab, how: str) -> None:
    command = f"dmatrace top --strategy {RACE} --size {SIZE} --rounds 50 --raise-limits"
    terminal = Terminal(lab, command)
    try:
        terminal.until("LIVE", "running")
        if how == "q":
            terminal.press("q")
            terminal.until("left with 0")
        else:
            lab.must(f"pkill -{how} -f '{VIEW}'")
            terminal.until("left with")
    finally:
        terminal.close()
    # After SIGKILL its temporary directory stays; the recorder ends all the same.
    if how == "KILL":
        lab.must("rm -rf /tmp/dmatrace-top-*")


def test_a_recording_is_watched(lab: Lab) -> None:
    """`record --live`: what is recorded stays, and the path is said when the view is left."""
    out = lab.fresh("live")
    terminal = Terminal(lab, f"dmatrace record --strategy anon-dio --size 16M --live -o {out}")
    try:
        screen = terminal.until("ENDED", "anon-dio", "the recorder has finished")
        assert "direct" in screen
        terminal.press("q")
        terminal.until("left with 0", "live.dmt")
    finally:
        terminal.close()
    (load,) = report(out)["loads"]
    assert (load["bytes"], load["verified"]) == (16 << 20, True)


@pytest.mark.long
def test_a_command_is_watched_and_ended(lab: Lab) -> None:
    """Its exit code is the view's; leaving early ends it, and keeps what was recorded."""
    # The command's words are in the title before it runs.
    cases = (
        ('sh -c "exit 7"', ("ENDED", "exit 7"), 7),
        ("sleep 1000", ("LIVE", "sleep"), 130),
    )
    for command, shown, code in cases:
        out = lab.fresh(f"command-{code}")
        terminal = Terminal(lab, f"dmatrace record --live -o {out} -- {command}")
        try:
            terminal.until(*shown)
            terminal.press("q")
            terminal.until(f"left with {code}")
        finally:
            terminal.close()
        assert report(out)["target"]["exit_code"] == code


def test_without_a_terminal(lab: Lab) -> None:
    done = lab.shell(f"dmatrace top --strategy {RACE} --size {SIZE} </dev/null")
    assert done.code == 2
    assert done.lines == [
        "dmatrace: top needs a terminal; use `dmatrace record` and `dmatrace report` in scripts"
    ]


def test_what_the_recorder_cannot_is_said_in_its_words(lab: Lab) -> None:
    terminal = Terminal(lab, "dmatrace top --strategy anon-bio --file /data/none")
    try:
        terminal.until("cannot read /data/none: No such file or directory", "left with 1")
    finally:
        terminal.close()
