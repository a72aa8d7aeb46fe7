"""Small real benches: every row that can run runs and is verified, and everything is put back."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from dmatrace.analysis import law
from dmatrace.literature import TABLES
from dmatrace_loaders.table import strategies
from tests.guest.lab import SIZE_LIMIT, Done, Lab, report

MIB = 1 << 20
PREDICTED = {name: strategy.copies for name, strategy in strategies().items()}


def _bench(lab: Lab, name: str, *arguments: str, code: int = 0) -> tuple[dict[str, Any], Done]:
    """``dmatrace bench`` in the guest: its document, and what it said."""
    out = lab.shared / f"{name}.json"
    out.unlink(missing_ok=True)  # of a test that is run once more: none is replaced
    done = lab.run("dmatrace", "bench", *arguments, "-o", str(out))
    assert done.code == code, done.err
    assert done.out == ""
    return json.loads(out.read_text()), done


def _cells(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for row in document["rows"]:
        for cell in row["cells"]:
            yield row, cell


#: Beginning of a row's reason -> the test that the kernel really lacks it.
LACKS = {
    "no system dma-heap": "test ! -e /dev/dma_heap/system",
    "no udmabuf": "test ! -e /dev/udmabuf",
    "the loader module cannot do MEMFD": "! grep -qw memfd_pin_folios /proc/kallsyms",
}


def _lacks(lab: Lab, why: str) -> bool:
    """Whether a row may be missing for this reason."""
    return any(why.startswith(what) and lab.shell(test).code == 0 for what, test in LACKS.items())


def _needs(lab: Lab, *devices: str) -> None:
    for device in devices:
        if lab.shell(f"test -e {device}").code:
            pytest.skip(f"kernel lacks: {device}")


def _all_verified(lab: Lab, document: dict[str, Any], rounds: int) -> None:
    """Every row was loaded in each round, and its content was the file's.

    But for rows that name what the kernel lacks; Debian's 6.12 lacks nothing.
    """
    places = [(size, eaten) for size in document["sizes"] for eaten in document["pressures"]]
    for row in document["rows"]:
        assert [(cell["size"], cell["eaten"]) for cell in row["cells"]] == places, row["row"]
    for row, cell in _cells(document):
        if cell["why"]:
            assert _lacks(lab, cell["why"]), (row["strategy"], cell["why"])
            continue
        assert [sample["round"] for sample in cell["samples"]] == list(range(1, rounds + 1)), row
        for sample in cell["samples"]:
            assert sample["failed"] == "", row
            assert sample["verified"] is True, row
            assert sample["io_ns"] > 0, row
            assert sample["close_ns"] > 0, row


@pytest.fixture(autouse=True)
def untouched(lab: Lab) -> Iterator[None]:
    """What a bench changes is as it was: limit, module, files, and no process of it is left."""
    state = (
        f"cat {SIZE_LIMIT}; ls -A /data /var/tmp; lsmod | grep -c dmatrace;"
        " pgrep -af '[d]matrace_loaders|[d]matrace.session.eater'; true"
    )
    before = lab.must(state)
    yield
    assert lab.must(state) == before


@pytest.fixture(scope="module")
def h3(lab: Lab) -> tuple[dict[str, Any], Done]:
    return _bench(lab, "h3", "--table", "H3", "--size", "16M", "--rounds", "2")


def test_all_rows_of_h3(h3: tuple[dict[str, Any], Done], lab: Lab) -> None:
    document, _ = h3
    assert len(document["rows"]) == 23
    _all_verified(lab, document, 2)
    assert (document["buffers"], document["block"]) == (32, MIB // 2)


def test_h3_as_text_on_the_host(h3: tuple[dict[str, Any], Done], lab: Lab) -> None:
    """Its own columns: five figures of ours and five published ones in each row."""
    from dmatrace.analysis.bench import evaluate
    from dmatrace.report.bench import json as as_json
    from dmatrace.report.bench import text

    _needs(lab, "/dev/dma_heap/system", "/dev/udmabuf")
    path = lab.shared / "h3.json"
    said = text.render(evaluate(as_json.read(path.read_text(), str(path))))
    table = said[said.index("Creat-ms") : said.index("Spread")]
    for row in TABLES["H3"].rows:
        line = re.search(rf"^ *{row.number} {re.escape(row.label)} +(.*)$", table, re.MULTILINE)
        assert line
        figures = line[1].split()
        assert len(figures) == 10
        assert "-" not in figures
        assert figures[1::2] == [str(figure) for figure in row.figures]
    assert "46 of 46 loads were compared" in said


def test_ratios_follow_from_the_samples(h3: tuple[dict[str, Any], Done], lab: Lab) -> None:
    """By hand, for every row: with two rounds a median is their mean."""
    _needs(lab, "/dev/dma_heap/system", "/dev/udmabuf")
    document, _ = h3
    first = [sample["io_ns"] for sample in document["rows"][0]["cells"][0]["samples"]]
    for _, cell in _cells(document):
        mine = [sample["io_ns"] for sample in cell["samples"]]
        assert cell["ratio"]["median"] == pytest.approx(sum(first) / sum(mine))
        each = sorted(a / b for a, b in zip(first, mine, strict=True))
        assert [cell["ratio"]["min"], cell["ratio"]["max"]] == pytest.approx(each)
        assert cell["ours"]["io_ns"]["median"] == pytest.approx(sum(mine) / 2, abs=1)
        assert cell["ours"]["rate_mb_s"]["median"] == pytest.approx(
            16 * MIB * 1000 / (sum(mine) / 2)
        )


def test_it_says_what_it_does(h3: tuple[dict[str, Any], Done], lab: Lab) -> None:
    _needs(lab, "/dev/dma_heap/system", "/dev/udmabuf")
    _, done = h3
    assert "Traceback" not in done.err
    assert "vm.drop_caches=1" in done.err
    assert "dmatrace_loader: loaded by " in done.err
    assert "dmatrace_loader: unloaded" in done.err
    # 32 buffers of 512 KiB are below udmabuf's limit, so it is left alone.
    assert "size_limit_mb" not in done.err
    loads = [line for line in done.lines if line.startswith("[")]
    assert len(loads) == 46
    assert loads[0].startswith("[1/46] round 1/2, row 1 dmabuf-bio: ")
    assert loads[23].startswith("[24/46] round 2/2, row 1 dmabuf-bio: ")
    assert re.search(r", about \d+ (s|min) left$", loads[10])
    assert "left" not in loads[-1]


def test_the_machine_is_described(h3: tuple[dict[str, Any], Done], lab: Lab) -> None:
    document, _ = h3
    machine = document["machine"]
    assert machine["kernel"].split()[0] == lab.must("uname -r").strip()
    assert machine["CPU"].startswith(lab.must("nproc").strip() + " x ")
    assert machine["file system"].startswith("ext4 ")
    source = lab.must("findmnt -no SOURCE /data").strip().removeprefix("/dev/")
    assert machine["disk"].startswith(f"{source}, ")
    scheduler = lab.must(f"cat /sys/block/{source}/queue/scheduler")
    assert machine["disk"].split("scheduler ")[1].split(",")[0] in re.findall(
        r"\[(.*)\]", scheduler
    )
    assert machine["init_on_alloc"].startswith(("on ", "off "))
    assert document["emulated"] == machine["machine"].startswith("emulated")
    assert document["emulated"] == ("TCG" in lab.must("cat /proc/cpuinfo"))


def test_v2_at_two_sizes_with_its_breakdown(lab: Lab) -> None:
    document, _ = _bench(
        lab, "v2", "--table", "V2", "--sizes", "512K,8M", "--rounds", "2", "--gather", "2M"
    )
    _all_verified(lab, document, 2)
    assert len(document["rows"]) == 8
    # Its rows 6 and 8 need nothing but the module.
    assert [model["size"] for model in document["models"]] == [MIB // 2, 8 * MIB]
    for model in document["models"]:
        assert min(model["alloc_ns"], model["read_ns"]) > 0
        assert model["plain_ns"] == pytest.approx(
            model["alloc_ns"] + model["vmap_ns"] + model["read_ns"], abs=3
        )
        # The parts are within the whole: they are its own clock's.
        assert model["plain_ns"] <= model["plain_measured_ns"] * 1.001
        assert max(model["alloc_ns"], model["read_ns"]) <= model["gathered_ns"]
        assert model["gathered_measured_ns"] > 0
    published = document["rows"][7]["cells"][1]["published"]
    assert [each["figure"] for each in published] == [6_581_999]


@pytest.mark.long
def test_h2_of_an_odd_file(lab: Lab) -> None:
    """A size that divides into nothing: the last buffer is shorter, and its tail is compared."""
    lab.must("head -c 16777999 /dev/urandom >/data/odd && sync")
    try:
        document, _ = _bench(
            lab, "h2", "--table", "H2", "--file", "/data/odd", "--rounds", "1", "--verify", "full"
        )
    finally:
        lab.must("rm /data/odd")
    assert document["sizes"] == [16_777_999]
    assert document["file"] == "/data/odd"
    _all_verified(lab, document, 1)


@pytest.mark.long
def test_ll_in_clean_memory_and_under_pressure(lab: Lab) -> None:
    """At 96 MiB, above udmabuf's limit, with a strategy list that needs it raised."""
    document, done = _bench(
        lab, "ll", "--table", "LL", "--size", "96M", "--rounds", "1", "--memory-pressure", "1G"
    )
    _all_verified(lab, document, 1)
    assert document["pressures"] == [0, 1 << 30]
    clean, pressed = (
        [cell["published"][0]["figure"] for row, cell in _cells(document) if cell["eaten"] == eaten]
        for eaten in (0, 1 << 30)
    )
    assert (clean, pressed) == ([2118, 1438], [4905, 1554])
    assert "taking 1 GiB of memory" in done.err
    assert "gave back 1 GiB of memory" in done.err


@pytest.mark.long
def test_every_strategy_of_an_odd_file(lab: Lab) -> None:
    """Those that cannot run stay, with the reason; udmabuf's limit is raised meanwhile.

    16 MiB, a page and 1138 bytes: the tail, which is compared, is no multiple of anything.
    """
    _needs(lab, "/dev/dma_heap/system", "/dev/udmabuf")
    lab.must(f"head -c {16 * MIB + 4096 + 1138} /dev/urandom >/data/odd && sync")
    usual = lab.must(f"cat {SIZE_LIMIT}; echo 8 >{SIZE_LIMIT}").strip()
    options = "--file /data/odd --rounds 1 --verify full --gather 4M"
    try:
        document, done = _bench(lab, "own", *options.split())
        left = lab.must(f"cat {SIZE_LIMIT}").strip()
    finally:
        lab.must(f"rm /data/odd; echo {usual} >{SIZE_LIMIT}")
    assert left == "8"
    assert [row["strategy"] for row in document["rows"]] == list(strategies())
    assert document["table"] is None
    reasons = {row["strategy"]: cell["why"] for row, cell in _cells(document) if cell["why"]}
    assert reasons.pop("dmabuf-dio").startswith("refused: EFAULT")
    for row, cell in _cells(document):
        if not cell["why"]:
            (sample,) = cell["samples"]
            assert sample["verified"], row
    # What kernels before 6.14 lack, and huge pages where memory is too fragmented.
    assert set(reasons) <= {"dmabuf-dontcache-bio", "udmabuf-hugetlb-dio"}
    assert f"{SIZE_LIMIT}: 8 -> " in done.err
    assert f"{SIZE_LIMIT}: restored to 8" in done.err


def test_rows_that_cannot_run_stay_with_their_reason(lab: Lab) -> None:
    """Without a dma-heap; row 1 is among them, so there are no ratios of ours."""
    _needs(lab, "/dev/dma_heap/system", "/dev/udmabuf")
    lab.must("mv /dev/dma_heap/system /dev/dma_heap/away")
    try:
        document, _ = _bench(
            lab, "gone", "--table", "H2", "--size", "4M", "--rounds", "1",
            "--strategies", "dmabuf-*,udmabuf-dio",
        )  # fmt: skip
    finally:
        lab.must("mv /dev/dma_heap/away /dev/dma_heap/system")
    by_row = {row["row"]: cell for row, cell in _cells(document)}
    assert set(by_row) == {1, 2, 5, 6}
    for row in (5, 6):
        assert "no system dma-heap" in by_row[row]["why"]
        assert by_row[row]["do"]
        assert by_row[row]["published"][0]["figure"] in (51, 52)
    assert by_row[1]["samples"][0]["verified"]
    assert by_row[2]["ratio"]["n"] == 1


def test_no_row_can_run(lab: Lab) -> None:
    _needs(lab, "/dev/dma_heap/system", "/dev/udmabuf")
    lab.must("mv /dev/dma_heap/system /dev/dma_heap/away")
    try:
        done = lab.shell("dmatrace bench --strategies 'dmabuf-bio,dmabuf-dio' --size 1M")
    finally:
        lab.must("mv /dev/dma_heap/away /dev/dma_heap/system")
    assert done.code == 3
    assert done.out == ""
    assert done.lines[-1].startswith("dmatrace: no row can run here: no system dma-heap")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("setpriv --reuid 1000 --clear-groups dmatrace bench --table H3", 3, "sudo"),
        ("dmatrace bench --table LL --memory-pressure 900G --size 1M", 3, "too little"),
        ("dmatrace bench --size 64G", 1, "no room"),
        ("dmatrace bench --file /data/none", 1, "No such file"),
        ("dmatrace bench --plot /tmp/a.png --size 1M", 3, "pip install matplotlib"),
    ],
)
def test_refused_in_a_line(lab: Lab, command: str, code: int, said: str) -> None:
    done = lab.shell(command)
    assert (done.code, done.out) == (code, "")
    assert len(done.lines) == 1, done.err
    assert said in done.err


def test_under_the_tracer(lab: Lab) -> None:
    """One recording of all loads, pressed ones apart, which keeps its laws."""
    _needs(lab, "/dev/dma_heap/system")
    out = lab.fresh("traced")
    document, _ = _bench(
        lab, "traced", "--table", "LL", "--size", "32M", "--rounds", "2",
        "--memory-pressure", "512M", "--trace", "-o", str(out),
    )  # fmt: skip
    _all_verified(lab, document, 2)
    assert document["recording"] == str(out)
    found = report(out)
    assert found["complete"]
    rows = [row["strategy"] for row in document["rows"]]
    assert [(load["strategy"], load["round"], load["cache_before"]) for load in found["loads"]] == [
        (name, number, cache)
        for cache in ("cold", "cold, 512M eaten")
        for number in (1, 2)
        for name in rows
    ]
    for load in found["loads"]:
        assert load["verified"]
    assert law.closure(found) == []
    assert law.copies(found, PREDICTED) == []
    # The same clock: what the bench and the recording say of a load is the same.
    samples = [sample for _, cell in _cells(document) for sample in cell["samples"]]
    assert sorted(sample["io_ns"] for sample in samples) == sorted(
        load["io_ns"] for load in found["loads"]
    )


# --- ends before its time

_START = """
    set -m
    : >/tmp/bench.err  # what another bench said there is nothing to wait for
    available() { awk '/MemAvailable/ { print $2 }' /proc/meminfo; }
    before=$(available)
    echo "MemAvailable: $before kB"
    dmatrace bench --strategies anon-bio,udmabuf-dio,dmabuf-rwfile-dio --rounds 500 --size 65M \
        --memory-pressure 1536M --dir /data >/tmp/bench.out 2>/tmp/bench.err &
"""


def _stopped(lab: Lab, ready: str, rounds: int, number: signal.Signals, group: str = "") -> str:
    """stdout of a script that stops a bench once it has said ``ready``."""
    start = _START.replace("--rounds 500", f"--rounds {rounds}")
    script = f"""{start}
        for n in $(seq 1200); do
            grep -q '{ready}' /tmp/bench.err && break
            kill -0 $! || exit 99
            sleep 0.2
        done
        grep MemAvailable /proc/meminfo
        cat {SIZE_LIMIT}
        lsmod | grep -c dmatrace
        ls /data | grep -c dmatrace
        kill -{int(number)} {group}$!
        wait $!
        echo "code $?"
        # Whoever puts things back after SIGKILL may need a moment.
        for n in $(seq 300); do
            pgrep -f '[d]matrace_loaders|[d]matrace.session' >/dev/null \\
                || ls /data/dmatrace-*.bin >/dev/null 2>&1 \\
                || lsmod | grep -q dmatrace || break
            sleep 0.1
        done
        # What a process held is freed when its command line is gone already.
        for n in $(seq 300); do
            [ $(available) -gt $((before - 262144)) ] && break
            sleep 0.1
        done
        grep MemAvailable /proc/meminfo
        cat /tmp/bench.out
    """
    done = lab.shell(script)
    assert done.code == 0, done.out + done.err + lab.must("cat /tmp/bench.err")
    return done.out


def _available(said: str) -> list[int]:
    return [int(kib) * 1024 for kib in re.findall(r"MemAvailable: +(\d+) kB", said)]


def test_the_eater_eats_and_is_gone_after_sigkill(lab: Lab) -> None:
    """As /proc/meminfo has it, and with it go the limit, the module and the file."""
    _needs(lab, "/dev/dma_heap/system", "/dev/udmabuf")
    # The eighth load is the second of the pressed half.
    said = _stopped(lab, r"^\[8/12\]", 2, signal.SIGKILL)
    assert "code 137" in said
    before, during, after = _available(said)
    assert before - during > 1400 * MIB
    assert after > before - 256 * MIB
    limit, modules, files = said.split("\n")[2:5]
    assert int(limit) > 64
    assert (modules, files) == ("1", "1")


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, "-"), pytest.param(signal.SIGTERM, "", marks=pytest.mark.long)],
)
def test_a_signal_prints_what_was_measured(lab: Lab, number: signal.Signals, group: str) -> None:
    _needs(lab, "/dev/dma_heap/system", "/dev/udmabuf")
    said = _stopped(lab, r"^\[5/", 500, number, group)
    assert "code 0" in said
    assert "INTERRUPTED" in said
    table = said[said.index("65M; ms") :]
    assert re.search(r"^ *\d+ anon-bio +[0-9.]+ +[0-9.]+ +", table, re.MULTILINE)
    errors = lab.must("cat /tmp/bench.err")
    assert "interrupted: the table holds what was measured by then" in errors
    assert "Traceback" not in errors
    before, _, after = _available(said)
    assert after > before - 256 * MIB


def test_a_file_on_tmpfs_has_no_direct_rows(lab: Lab) -> None:
    lab.must("head -c 4M /dev/urandom >/tmp/model")
    try:
        document, _ = _bench(
            lab, "tmpfs", "--table", "H3", "--file", "/tmp/model", "--rounds", "1",
            "--strategies", "memfd-bio,memfd-dio",
        )  # fmt: skip
    finally:
        lab.must("rm /tmp/model")
    by_row = {row["row"]: cell for row, cell in _cells(document)}
    assert "without direct I/O" in by_row[4]["why"]
    assert by_row[3]["samples"][0]["verified"]
    assert document["machine"]["file system"].startswith("tmpfs ")
    assert "no block device" in document["machine"]["disk"]


def test_output_of_a_bench_in_the_guest(lab: Lab) -> None:
    """Text on stdout without a terminal: no colour, and only the table."""
    done = lab.run("dmatrace", "bench", "--table", "LL", "--size", "1M", "--rounds", "1", "-q")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Table LL: Lei Liu (vivo)")
    assert "\033" not in done.out
