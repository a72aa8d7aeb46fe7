"""Bad input and machines that lack something: one line, the right code, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guest.lab import ATTACHED, SIZE_LIMIT, Lab

OUT = "/data/bad.dmt"


def _state(lab: Lab) -> str:
    """What a refused command may not change."""
    return lab.must(
        f"ls -A /data /var/tmp; cat {SIZE_LIMIT} /proc/sys/kernel/bpf_stats_enabled;"
        f" ps -e -o args= | grep '[d]matrace_loaders'; {ATTACHED}"
    )


@pytest.fixture(scope="module")
def untouched(lab: Lab, files: None) -> str:
    return _state(lab)


@pytest.fixture
def unchanged(lab: Lab, untouched: str) -> Iterator[None]:
    yield
    assert _state(lab) == untouched


@pytest.fixture(scope="module")
def files(lab: Lab) -> Iterator[None]:
    lab.must(
        "mkdir -p /data/in /tmp/in && cd /data/in && : >empty && mkdir -p folder && mkfifo fifo"
        " && head -c 1M /dev/urandom >small && cp small secret && chmod 0 secret"
        " && chown 1000:1000 secret && cp small /tmp/in/small && truncate -s 64G huge"
        f" && truncate -s $(( ($(cat {SIZE_LIMIT}) + 1) << 20 )) over"
    )
    yield
    lab.must("rm -rf /data/in /tmp/in")


def _refused(lab: Lab, command: str, code: int, *said: str) -> None:
    done = lab.shell(command)
    assert done.code == code, done.err
    assert done.out == ""
    assert len(done.lines) == 1, done.err
    assert done.lines[0].startswith("dmatrace: ")
    for part in said:
        assert part in done.lines[0]


def _record(strategy: str, rest: str) -> str:
    return f"dmatrace record --strategy {strategy} -o {OUT} {rest}"


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("strategy", "rest", "code", "said"),
    [
        ("dmabuf-bio", "--file /data/in/none", 1, ("/data/in/none: No such file", "--file")),
        ("dmabuf-bio", "--file /data/in/empty", 1, ("is empty",)),
        ("dmabuf-bio", "--file /data/in/folder", 1, ("is a directory",)),
        ("dmabuf-bio", "--file /data/in/fifo", 1, ("is not a regular file",)),
        ("dmabuf-bio", "--file /dev/null", 1, ("is not a regular file",)),
        ("dmabuf-bio", "--file /data/in/huge", 3, ("65536 MiB", "are available")),
        ("all", "--file /data/in/huge", 3, ("are available",)),
        ("dmabuf-bio", "--size 64G", 1, ("no room for 64 GiB in /data", "--dir")),
        ("anon-dio", "--file /tmp/in/small", 3, ("without direct I/O", "-bio")),
        ("udmabuf-dio", "--file /data/in/over", 3, ("size_limit_mb=", "--raise-limits")),
        ("udmabuf-dioo", "--size 1M", 2, ("did you mean udmabuf-dio?", "anon-bio")),
        ("dmabuf-bio", "--size 1M --dir /none", 1, ("no directory /none",)),
        ("dmabuf-bio", "--size 1M --without nosuch", 2, ("nosuch", "filemap_read")),
        ("dmabuf-bio", "--size 1M -o /none/x.dmt", 1, ("no directory /none", "mkdir")),
    ],
)
def test_refused(lab: Lab, strategy: str, rest: str, code: int, said: tuple[str, ...]) -> None:
    _refused(lab, _record(strategy, rest), code, *said)


@pytest.mark.usefixtures("unchanged")
def test_a_file_that_may_not_be_read(lab: Lab) -> None:
    drop = "setpriv --bounding-set -dac_override,-dac_read_search"
    command = f"{drop} {_record('dmabuf-bio', '--file /data/in/secret')}"
    _refused(lab, command, 1, "/data/in/secret: Permission denied")


@pytest.mark.usefixtures("unchanged")
def test_a_place_that_cannot_be_written(lab: Lab) -> None:
    command = _record("anon-bio", "--size 1M").replace(OUT, "/mnt/x.dmt")
    script = f"mount -t tmpfs -o ro none /mnt && exec {command}"
    _refused(lab, f"unshare -m bash -c '{script}'", 1, "/mnt", "-o")


@pytest.mark.usefixtures("unchanged")
def test_without_root(lab: Lab) -> None:
    command = f"setpriv --reuid 1000 --clear-groups {_record('dmabuf-bio', '--size 1M')}"
    _refused(lab, command.replace(OUT, "/tmp/bad.dmt"), 3, "root", "sudo")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("hidden", "said"),
    [
        ("/sys/kernel/btf", ("no type information", "CONFIG_DEBUG_INFO_BTF")),
        ("/usr/lib/python3/dist-packages", ("bcc is not installed", "python3-bpfcc")),
        ("/sys/kernel/tracing", ("tracefs is not mounted", "mount -t tracefs")),
    ],
)
def test_a_machine_that_lacks(lab: Lab, hidden: str, said: tuple[str, ...]) -> None:
    """The directory is hidden behind an empty one, in a mount namespace of the command's own."""
    also = " && umount -l /sys/kernel/debug" if "tracing" in hidden else ""
    script = f"mount -t tmpfs none {hidden}{also} && exec {_record('anon-bio', '--size 1M')}"
    _refused(lab, f"unshare -m bash -c '{script}'", 3, *said)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("device", "strategy", "said"),
    [
        ("/dev/udmabuf", "udmabuf-dio", ("no udmabuf: /dev/udmabuf is missing", "modprobe")),
        ("/dev/dma_heap/system", "dmabuf-bio", ("no system dma-heap", "CONFIG_DMABUF_HEAPS")),
    ],
)
def test_a_missing_device(lab: Lab, device: str, strategy: str, said: tuple[str, ...]) -> None:
    lab.must(f"mv {device} {device}.away")
    try:
        _refused(lab, _record(strategy, "--size 1M"), 3, *said)
    finally:
        lab.must(f"mv {device}.away {device}")


def _without_headers(command: str) -> str:
    return f"unshare -m bash -c 'mount -t tmpfs none /lib/modules && {command}'"


@pytest.mark.long
@pytest.mark.usefixtures("unchanged")
def test_a_program_that_was_compiled_before_needs_no_headers(lab: Lab) -> None:
    record = _record("anon-bio", "--size 1M")
    lab.must(f"{record} && rm -r {OUT}")
    done = lab.shell(_without_headers(record))
    assert (done.code, done.out) == (0, f"{OUT}\n"), done.err
    assert "(compiled before)" in done.err
    lab.must(f"rm -r {OUT}")


@pytest.mark.usefixtures("unchanged")
def test_missing_kernel_headers(lab: Lab) -> None:
    """Found out only by compiling: what was said and made until then is tidied up too."""
    done = lab.shell(
        _without_headers(f"DMATRACE_CACHE=/tmp/none {_record('anon-bio', '--size 1M')}")
    )
    assert done.code == 3
    assert "linux-headers" in done.lines[-1]
    assert not [line for line in done.lines if "Traceback" in line]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("kind", "force"),
    [("file", ""), ("file", "--force"), ("folder", ""), ("folder", "--force"), ("recording", "")],
)
def test_what_is_there_is_not_replaced(lab: Lab, kind: str, force: str) -> None:
    make = {
        "file": f"echo mine >{OUT}",
        "folder": f"mkdir {OUT}; echo mine >{OUT}/notes",
        "recording": f"mkdir {OUT}; echo '{{}}' >{OUT}/meta.json",
    }
    lab.must(make[kind])
    try:
        before = lab.must(f"find {OUT} -type f -exec sha256sum {{}} +")
        _refused(lab, _record("anon-bio", f"--size 1M {force}"), 1, OUT, "-o")
        assert lab.must(f"find {OUT} -type f -exec sha256sum {{}} +") == before
    finally:
        lab.must(f"rm -rf {OUT}")
