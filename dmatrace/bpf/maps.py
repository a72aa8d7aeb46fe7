"""BPF maps and the ring buffer, as the recorder uses them.

``Map`` looks like bcc's tables (``table[key]``, ``items()``, ``Key``, ``Leaf``),
but needs no bcc.  Keys and values are numbers, or anything with
the bytes of a whole one.  Its calls of bpf(2) are not preempted (unpreempted.py).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

from dmatrace import interrupts
from dmatrace.bpf import libbpf
from dmatrace.bpf.compiler import MapDefinition
from dmatrace.bpf.unpreempted import Unpreempted

_PER_CPU = {5, 6, 10}  # percpu_hash, percpu_array, lru_percpu_hash
_ARRAYS = {2, 6}
_AT_ONCE = 1 << 18  # bytes of entries that are asked for together


def _type(size: int) -> Any:
    """What stands for a key or value of ``size`` bytes: numbers for those of numbers."""
    return {4: ctypes.c_uint32, 8: ctypes.c_uint64}.get(size, ctypes.c_ubyte * size)


class Map:
    """One map of this process; ``Key`` and ``Leaf`` are ctypes of its sizes.

    A lookup returns a ``Leaf``, or of a per-CPU map a list of one per possible CPU.
    """

    def __init__(self, definition: MapDefinition) -> None:
        self.definition = definition
        self._alone = Unpreempted()
        self.Key = _type(definition.key_size)
        self.Leaf = _type(definition.value_size)
        self._per_cpu = definition.kind in _PER_CPU
        self.fd = libbpf.create_map(
            definition.name,
            definition.kind,
            definition.key_size,
            definition.value_size,
            definition.entries,
            definition.flags,
        )
        self._value_bytes = definition.value_size
        if self._per_cpu:
            stride = -(-definition.value_size // 8) * 8
            self._stride = stride
            self._value_bytes = stride * libbpf.possible_cpus()

    def _key(self, key: Any) -> Any:
        return self.Key(key) if isinstance(key, int) else self.Key.from_buffer_copy(key)

    def _value(self, value: Any) -> Any:
        return self.Leaf(value) if isinstance(value, int) else self.Leaf.from_buffer_copy(value)

    def _leaf(self, room: Any, at: int = 0) -> Any:
        if not self._per_cpu:
            return self.Leaf.from_buffer_copy(room, at)
        places = range(at, at + self._value_bytes, self._stride)
        return [self.Leaf.from_buffer_copy(room, place) for place in places]

    def __getitem__(self, key: Any) -> Any:
        key = self._key(key)
        room = (ctypes.c_ubyte * self._value_bytes)()
        lookup = libbpf.library().bpf_map_lookup_elem
        with self._alone:
            found = lookup(self.fd, ctypes.byref(key), ctypes.byref(room))
        if found < 0:
            if libbpf.error_number(found) == errno.ENOENT:
                raise KeyError(bytes(key))
            libbpf.checked(found, f"look up in {self.definition.name}")
        return self._leaf(room)

    def __setitem__(self, key: Any, value: Any) -> None:
        key, value = self._key(key), self._value(value)
        update = libbpf.library().bpf_map_update_elem
        with self._alone:
            done = update(self.fd, ctypes.byref(key), ctypes.byref(value), ctypes.c_uint64(0))
        libbpf.checked(done, f"write to {self.definition.name}")

    def __delitem__(self, key: Any) -> None:
        key = self._key(key)
        delete = libbpf.library().bpf_map_delete_elem
        with self._alone:
            done = delete(self.fd, ctypes.byref(key))
        if done < 0:
            if libbpf.error_number(done) == errno.ENOENT:
                raise KeyError(bytes(key))
            libbpf.checked(done, f"delete from {self.definition.name}")

    def pop(self, key: Any) -> Any:
        """An entry of a hash as it was when it was deleted; KeyError if it is not there.

        At once where the kernel can (BPF_MAP_LOOKUP_AND_DELETE_ELEM of hashes came
        between v5.13 and v5.15).
        """
        key, room = self._key(key), self.Leaf()
        take = libbpf.library().bpf_map_lookup_and_delete_elem
        with self._alone:
            done = take(self.fd, ctypes.byref(key), ctypes.byref(room))
        if done < 0:
            if libbpf.error_number(done) == errno.ENOENT:
                raise KeyError(bytes(key))
            room = self[key]
            del self[key]
        return room

    def keys(self) -> Iterator[Any]:
        """Every key; one that is deleted meanwhile may bring others twice."""
        last: Any = None
        while True:
            after = self.Key()
            ended = libbpf.library().bpf_map_get_next_key(
                self.fd, None if last is None else ctypes.byref(last), ctypes.byref(after)
            )
            if ended < 0:
                return
            last = after
            yield after

    def items(self) -> Iterator[tuple[Any, Any]]:
        """(key, leaf) of every entry, many of them read at once (BPF_MAP_LOOKUP_BATCH)."""
        definition = self.definition
        each = definition.key_size + self._value_bytes
        size = min(definition.entries, max(1, _AT_ONCE // each))
        lookup = libbpf.library().bpf_map_lookup_batch
        # A hash's place is a bucket's number, an array's a key.
        at, after = None, (ctypes.c_ubyte * max(8, definition.key_size))()
        while True:
            keys = (ctypes.c_ubyte * (size * definition.key_size))()
            values = (ctypes.c_ubyte * (size * self._value_bytes))()
            count = ctypes.c_uint32(size)
            with self._alone:
                done = lookup(self.fd, at, after, keys, values, ctypes.byref(count), None)
            number = libbpf.error_number(done) if done < 0 else 0
            if number == errno.ENOSPC and size < definition.entries:
                size = min(definition.entries, 2 * size)  # one bucket has more
                continue
            if number not in (0, errno.ENOENT):
                libbpf.checked(done, f"read {definition.name}")
            for n in range(count.value):
                key = self.Key.from_buffer_copy(keys, n * definition.key_size)
                yield key, self._leaf(values, n * self._value_bytes)
            if number:
                return
            at, after = after, type(after)()

    def values(self) -> list[Any]:
        """An array's, in its order."""
        assert self.definition.kind in _ARRAYS
        return [leaf for _, leaf in self.items()]

    def clear(self) -> None:
        """Delete every entry."""
        assert self.definition.kind not in _ARRAYS
        for key in list(self.keys()):
            try:
                del self[key]
            except KeyError:
                continue

    def close(self) -> None:
        """Give up the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class RingBuffer:
    """The reading end of a ring buffer: records are copied out, and then taken one by one.

    Only what was written before is taken: libbpf itself goes on for as long as there is
    more, so a target that writes faster than Python reads would never let it return.
    """

    def __init__(self, fd: int) -> None:
        lib = libbpf.library()
        self._callback = _SAMPLE(self._sample)
        self._records: list[bytes] = []
        self._raised: BaseException | None = None
        self._until = 0  # the position of the last look's end
        lib.ring_buffer__new.restype = ctypes.c_void_p
        self._ring = ctypes.c_void_p(lib.ring_buffer__new(fd, self._callback, None, None))
        if not self._ring:
            raise OSError(ctypes.get_errno(), "cannot open the ring buffer")
        # Its first page begins with the reader's position, its second one with the writers'
        # (ringbuf_map_mmap_kern() and what is around it in kernel/bpf/ringbuf.c).
        page = mmap.PAGESIZE
        self._read, self._written = (
            mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=at) for at in (0, page)
        )

    def _sample(self, _context: Any, data: int, size: int) -> int:
        # Python would print what is raised here, and go on.
        try:
            if not self._records:
                self._until = _position(self._written)
            self._records.append(ctypes.string_at(data, size))
            # The reader's position is this record's until we return.
            after = _position(self._read) + (size + _HEADER + 7 & ~7)
        except BaseException as error:
            self._raised = error
            return -errno.EIO
        return 0 if after < self._until else -errno.EAGAIN

    def consume(self) -> list[bytes]:
        """The records that are there."""
        with interrupts.held():
            libbpf.library().ring_buffer__consume(self._ring)
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised
        taken, self._records = self._records, []
        return taken

    def close(self) -> None:
        """Unmap it."""
        if self._ring:
            libbpf.library().ring_buffer__free(self._ring)
            self._ring = ctypes.c_void_p()
            self._read.close()
            self._written.close()


def _position(page: mmap.mmap) -> int:
    (position,) = struct.unpack_from("@Q", page)
    return int(position)


_HEADER = 8  # BPF_RINGBUF_HDR_SZ; a record with its header is a multiple of 8 bytes
_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
