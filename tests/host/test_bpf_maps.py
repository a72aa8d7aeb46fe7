"""Maps as the recorder uses them, on this machine's kernel."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import struct
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from dmatrace import interrupts
from dmatrace.bpf import libbpf
from dmatrace.bpf.compiler import MapDefinition
from dmatrace.bpf.maps import Map, RingBuffer
from dmatrace.errors import CannotHere

HASH, ARRAY, PERCPU_ARRAY, LRU_HASH, RINGBUF = 1, 2, 6, 9, 27


class Three(ctypes.Structure):
    _fields_ = (("values", ctypes.c_uint64 * 3),)


def made(kind: int, key: int, value: int, entries: int) -> Map:
    try:
        return Map(MapDefinition("test", kind, key, value, entries, 0))
    except (OSError, CannotHere) as error:
        pytest.skip(f"kernel lacks: {error}")


def test_what_is_popped_is_gone() -> None:
    table = made(HASH, 4, 24, 16)
    table[7] = Three((1, 2, 3))
    assert list(Three.from_buffer_copy(table.pop(7)).values) == [1, 2, 3]
    assert list(table.keys()) == []
    with pytest.raises(KeyError):
        table.pop(7)


def test_a_hash_of_structures() -> None:
    table = made(HASH, 8, 24, 16)
    three = Three((1, 2, 3))
    table[5] = three
    table[6] = table.Leaf.from_buffer_copy(Three((4, 5, 6)))
    assert list(Three.from_buffer_copy(table[5]).values) == [1, 2, 3]
    assert sorted(key.value for key, _ in table.items()) == [5, 6]
    del table[5]
    with pytest.raises(KeyError):
        table[5]
    with pytest.raises(KeyError):
        del table[5]
    table.clear()
    assert list(table.items()) == []
    table.close()
    table.close()
    with pytest.raises(OSError, match="look up in test"):
        table[5]


def test_an_array_of_numbers() -> None:
    table = made(ARRAY, 4, 8, 2)
    table[1] = 9
    table[0] = ctypes.c_uint64(1 << 40)
    assert (table[0].value, table[1].value) == (1 << 40, 9)
    table.close()


def test_an_entry_of_a_per_cpu_map_has_a_value_for_each_cpu() -> None:
    table = made(PERCPU_ARRAY, 4, 4, 2)
    with open("/sys/devices/system/cpu/possible") as file:
        first, _, last = file.read().strip().partition("-")
    assert [value.value for value in table[0]] == [0] * (int(last or first) + 1)
    table.close()


@pytest.mark.parametrize("entries", [1, 3, 1000])
@pytest.mark.parametrize("kind", [HASH, LRU_HASH, ARRAY, PERCPU_ARRAY])
def test_all_entries_in_as_many_calls_as_it_takes(
    kind: int, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one by one; where two entries are asked for a bucket may have more."""
    table = made(kind, 4, 24, entries)
    if kind in (HASH, LRU_HASH):
        assert list(table.items()) == []
    if kind != PERCPU_ARRAY:
        for n in range(entries):
            table[n] = Three((n, n + 1, n + 2))
    one_by_one = {key.value: _bytes(table[key]) for key in list(table.keys())}
    if kind != LRU_HASH:  # which may have dropped some
        assert len(one_by_one) == entries
    for at_once in (1 << 18, 2 * 28, 1):
        monkeypatch.setattr("dmatrace.bpf.maps._AT_ONCE", at_once)
        found = [(key.value, _bytes(leaf)) for key, leaf in table.items()]
        assert len(found) == len(one_by_one)
        assert dict(found) == one_by_one
    table.close()


def _bytes(leaf: Any) -> list[bytes]:
    return [bytes(each) for each in leaf] if isinstance(leaf, list) else [bytes(leaf)]


def test_the_kernel_says_what_was_asked_for() -> None:
    table = made(HASH, 4, 12, 32)
    assert libbpf.map_definition(table.fd) == (HASH, 4, 12, 32, 0)
    table.close()


def test_too_much_is_an_error_with_the_name() -> None:
    made(HASH, 4, 4, 1).close()
    with pytest.raises(OSError, match="create the map test"):
        Map(MapDefinition("test", HASH, 4, 1 << 30, 1, 0))


def test_an_empty_ring_buffer() -> None:
    table = made(RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE"))
    ring = RingBuffer(table.fd)
    assert ring.consume() == []
    ring.close()
    ring.close()
    table.close()


class _RunOptions(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data", ctypes.c_void_p * 2),
        ("data_size", ctypes.c_uint32 * 2),
        ("ctx", ctypes.c_void_p * 2),
        ("rest", ctypes.c_uint32 * 8),
    )


@pytest.fixture
def written() -> Iterator[tuple[RingBuffer, Callable[[], None]]]:
    """A ring buffer, and what writes one record of 8 bytes to it."""
    table = made(RINGBUF, 0, 0, 4 * mmap.PAGESIZE)
    fields = struct.Struct("<BBhi")
    program = b"".join(
        fields.pack(*each)
        for each in (
            (0x7A, 0x0A, -8, 7),  # *(u64 *)(r10 - 8) = 7
            (0xBF, 0xA2, 0, 0),  # r2 = r10
            (0x07, 0x02, 0, -8),  # r2 += -8
            (0x18, 0x11, 0, table.fd),  # r1 = the map
            (0x00, 0x00, 0, 0),
            (0xB7, 0x03, 0, 8),  # r3 = 8
            (0xB7, 0x04, 0, 0),  # r4 = 0
            (0x85, 0x00, 0, 130),  # call bpf_ringbuf_output
            (0xB7, 0x00, 0, 0),
            (0x95, 0x00, 0, 0),
        )
    )
    try:
        fd = libbpf.load("write", libbpf.PROG_TYPE_RAW_TRACEPOINT, program)
    except (OSError, CannotHere) as error:
        pytest.skip(f"kernel lacks: {error}")

    def write() -> None:
        options = _RunOptions(sz=ctypes.sizeof(_RunOptions))
        libbpf.checked(libbpf.library().bpf_prog_test_run_opts(fd, ctypes.byref(options)), "run")

    ring = RingBuffer(table.fd)
    yield ring, write
    ring.close()
    os.close(fd)
    table.close()


def test_what_is_written_meanwhile_is_for_the_next_look(
    written: tuple[RingBuffer, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is as fast as the reader does not keep it, over the buffer's end too."""
    ring, write = written

    for _ in range(3):
        write()
    real = ctypes.string_at

    def string_at(address: int, size: int) -> bytes:
        write()
        return real(address, size)

    monkeypatch.setattr(ctypes, "string_at", string_at)
    for _ in range(1000):
        assert ring.consume() == [struct.pack("@Q", 7)] * 3
    monkeypatch.undo()
    assert ring.consume() == [struct.pack("@Q", 7)] * 3
    assert ring.consume() == []


def test_an_interrupt_while_records_are_taken_loses_none(
    written: tuple[RingBuffer, Callable[[], None]],
) -> None:
    """It comes at any moment, is raised each time, and no record goes with it."""
    ring, write = written
    rng = random.Random(20261123)
    came = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came += 1
        interrupts.interrupt(number, frame)

    def look_until(number: int) -> None:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 150e-6))
        ring.consume()
        while came < number:
            pass

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(1, 3001):
            for _ in range(100):
                write()
            with pytest.raises(KeyboardInterrupt):
                look_until(number)
            # Those of the interrupted look come with the next one; a look that had been over
            # took them all.
            assert len(ring.consume()) in (0, 100)
    finally:
        signal.signal(signal.SIGALRM, old)


def test_what_fails_while_records_are_taken_is_raised(
    written: tuple[RingBuffer, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, write = written
    write()

    def string_at(_address: int, _size: int) -> bytes:
        raise MemoryError

    monkeypatch.setattr(ctypes, "string_at", string_at)
    with pytest.raises(MemoryError):
        ring.consume()
    monkeypatch.undo()
    write()
    assert len(ring.consume()) == 1
