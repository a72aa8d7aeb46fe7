"""The loaded program, where no kernel is needed to look at it."""

from __future__ import annotations

from dmatrace.bpf.program import Program


def test_nothing_is_attached_after_close() -> None:
    """What was paused is not attached anew: its descriptors may be others by then."""
    program = Program.__new__(Program)
    attached: list[int] = []

    def attach() -> list[int]:
        attached.append(1)
        return []

    program._links, program._fds, program._programs, program.tables = [], [], {}, {}
    program._attachers, program._missed_before = [attach], 0
    with program.paused():
        pass
    assert attached == [1]
    with program.paused():
        program.close()
    assert attached == [1]
