"""The table of strategies: names, choice, vendors' additions, and what the machine must have."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dmatrace_loaders import kernel, limits, native, needs
from dmatrace_loaders.anon import AnonRead
from dmatrace_loaders.errors import LoadError, ModuleMissing, Unseen
from dmatrace_loaders.filemap import FileMap
from dmatrace_loaders.load import Load, Settings
from dmatrace_loaders.rows import OWN
from dmatrace_loaders.table import Strategy, select, strategies

MIB = 1 << 20

# CPU copies per byte that the publications' data flows predict, per strategy: page cache to
# buffer is one, through a user buffer it is two, direct I/O into the target none.
# Copies per byte, buffered and direct (None: there is no such one).
_COPIES: dict[str, tuple[int | None, int | None]] = {
    "dmabuf": (1, 0),  # direct: refused with EFAULT, nothing is copied
    "dmabuf-insertpage": (1, 0),
    "dmabuf-rwfile": (1, 0),
    "dmabuf-cfr": (1, 0),
    "dmabuf-sendfile": (1, 1),
    "dmabuf-splice": (1, 1),
    "dmabuf-allocread": (1, 0),
    "dmabuf-gather": (1, 0),
    "udmabuf": (1, 0),
    "udmabuf-mmap": (1, None),
    "udmabuf-overlap": (1, 0),
    "udmabuf-sendfile": (1, 1),
    "udmabuf-splice": (1, 1),
    "udmabuf-memfd-cfr": (1, 0),
    "udmabuf-cfr": (1, 0),
    "udmabuf-uring": (None, 0),
    "udmabuf-hugetlb": (None, 0),
    "memfd": (1, 0),
    "memfd-rw": (2, 1),
    "memfd-sendfile": (1, 1),
    "memfd-splice": (1, 1),
    "memfd-cfr": (1, 0),
    "dmabuf-dontcache": (1, None),
    "filemap": (0, None),
    "anon": (1, 0),
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """The table is made once a process; here, once a test."""
    strategies.cache_clear()
    yield
    strategies.cache_clear()


def test_names_are_unique_and_of_the_contracts_form() -> None:
    names = [strategy.name for strategy in OWN]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"(dmabuf|udmabuf|memfd|anon|filemap)(-[a-z]+){0,2}-(bio|dio)", name)
        assert strategies()[name].direct is name.endswith("-dio")


def test_predicted_copies() -> None:
    expected = {
        f"{family}-{path}": copies
        for family, both in _COPIES.items()
        for path, copies in zip(("bio", "dio"), both, strict=True)
        if copies is not None
    }
    assert {name: strategy.copies for name, strategy in strategies().items()} == expected


def test_the_data_flow_says_as_many_copies_as_are_predicted() -> None:
    for strategy in strategies().values():
        assert strategy.flow.count("-COPY->") == strategy.copies, strategy.name
        assert strategy.flow.startswith("[DISK]")
        assert ("page cache" in strategy.flow) is not strategy.direct
        assert strategy.refused is ("refused" in strategy.flow)


def test_all() -> None:
    assert [strategy.name for strategy in select("all")] == list(strategies())
    assert select(" all ") == select("all")


def test_lists_keep_their_order_and_lose_duplicates() -> None:
    chosen = select(" memfd-dio,anon-bio ,\tmemfd-dio")
    assert [strategy.name for strategy in chosen] == ["memfd-dio", "anon-bio"]


@pytest.mark.parametrize(
    ("names", "wrong", "nearest"),
    [
        ("udmabuf-doi", "udmabuf-doi", "udmabuf-dio"),
        ("memfd-bio,dmabuf_bio", "dmabuf_bio", "dmabuf-bio"),
        ("memfd-rw", "memfd-rw", "memfd-rw-dio"),
        ("ANON-BIO", "ANON-BIO", None),
        ("zzz", "zzz", None),
        ("", "", None),
        ("memfd-bio,", "", None),
        ("all,memfd-bio", "all", None),
    ],
)
def test_an_unknown_name(names: str, wrong: str, nearest: str | None) -> None:
    with pytest.raises(LoadError) as caught:
        select(names)
    error = caught.value
    assert error.code == 2
    assert repr(wrong) in error.message
    assert error.do.endswith(", ".join(strategies()))
    if nearest:
        assert error.do.startswith(f"did you mean {nearest}? ")
    assert "\n" not in error.message + error.do


@given(st.text(max_size=30))
@example("-bio")
@example("%s")
def test_no_text_breaks_the_choice(names: str) -> None:
    refused = None
    try:
        chosen = select(names)
    except LoadError as error:
        refused = error
    assert refused.code == 2 if refused else chosen


_VENDOR = """
from dmatrace_loaders.anon import AnonRead
from dmatrace_loaders.table import Strategy

one = Strategy("acme-bio", "[DISK] -DMA-> [page cache] -COPY-> [acme]", 1, AnonRead)
several = [Strategy(f"acme-{n}-dio", "[DISK] -DMA-> [acme]", 0, AnonRead) for n in (1, 2)]
clash = Strategy("memfd-bio", "[DISK] -COPY-> [elsewhere]", 3, AnonRead)
nothing = None
strings = ["acme-bio"]
misnamed = Strategy("acme, the best", "", 0, AnonRead)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Installs a package with these entry points, as pip would leave it on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(points: dict[str, str], code: str = _VENDOR) -> None:
        (tmp_path / "acme_loaders.py").write_text(code)
        info = tmp_path / "acme_loaders-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-loaders\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("[dmatrace.strategies]\n" + "\n".join(lines) + "\n")

    yield install
    import sys

    sys.modules.pop("acme_loaders", None)


def test_a_vendors_strategies(install: object) -> None:
    install({"one": "acme_loaders:one", "more": "acme_loaders:several"})  # type: ignore[operator]
    names = [strategy.name for strategy in OWN]
    assert list(strategies())[: len(names)] == names
    assert set(strategies()) - set(names) == {"acme-bio", "acme-1-dio", "acme-2-dio"}
    (chosen,) = select("acme-1-dio")
    assert chosen.load is AnonRead
    assert chosen.direct
    chosen.check(1)


def test_a_name_that_exists_stays_ours(install: object) -> None:
    install({"clash": "acme_loaders:clash", "one": "acme_loaders:one"})  # type: ignore[operator]
    assert strategies()["memfd-bio"].copies == 1
    assert "acme-bio" in strategies()


@pytest.mark.parametrize(
    ("value", "code", "why"),
    [
        ("acme_loaders:one", "import nothing_of_that_name", "ModuleNotFoundError"),
        ("acme_loaders:one", "this is no Python", "SyntaxError"),
        ("acme_loaders:one", "raise SystemExit(1)", "SystemExit"),
        ("acme_loaders:one", "raise ValueError('first line\\nsecond line')", "first line"),
        ("acme_loaders:absent", _VENDOR, "AttributeError"),
        ("gone_module:one", _VENDOR, "ModuleNotFoundError"),
        ("acme_loaders:nothing", _VENDOR, "TypeError"),
        ("acme_loaders:strings", _VENDOR, "is not a Strategy"),
        ("acme_loaders:misnamed", _VENDOR, "is not TARGET[-PATH]-bio or -dio"),
    ],
)
def test_a_broken_entry_point_is_a_strategy_that_cannot_run(
    install: object, value: str, code: str, why: str
) -> None:
    install({"acme": value}, code)  # type: ignore[operator]
    assert list(strategies()) == [*(strategy.name for strategy in OWN), "acme"]
    (broken,) = select("acme")
    with pytest.raises(LoadError) as caught:
        broken.check(1)
    error = caught.value
    assert error.code == 3
    assert error.message.startswith(f"{value} does not load: ")
    assert why in error.message
    assert "\n" not in error.message
    assert "uninstall" in error.do


class _Kernel:
    """/sys and /proc as the tests want them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.device = root / "udmabuf"
        self.device.touch()
        monkeypatch.setattr(kernel, "UDMABUF", str(self.device))
        monkeypatch.setattr(kernel, "HEAP", str(root / "heap"))
        monkeypatch.setattr(limits, "UDMABUF_SIZE", root / "size_limit_mb")
        monkeypatch.setattr(limits, "HUGE_PAGES", root)
        monkeypatch.setattr(needs, "_MEMINFO", root / "meminfo")
        monkeypatch.setattr(kernel, "udmabuf_takes", self._takes)
        self.wide = False  # whether the limit is computed in 64 bits

    def limit(self, mib: int) -> None:
        (self.root / "size_limit_mb").write_text(f"{mib}\n")

    def _takes(self, size: int) -> bool:
        limit = int((self.root / "size_limit_mb").read_text())
        return _kernel_accepts(limit, size, wide=self.wide)

    def available(self, mib: int) -> None:
        (self.root / "meminfo").write_text(
            f"MemTotal:       99999999 kB\nMemFree:  1 kB\nMemAvailable:  {mib * 1024} kB\n"
        )


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    return _Kernel(tmp_path, monkeypatch)


def _refusal(need: needs.Need, size: int) -> LoadError | None:
    try:
        need(size)
    except LoadError as error:
        refused = error
    else:
        return None
    assert refused.code == 3
    assert refused.do
    return refused


def _kernel_accepts(limit_mb: int, size: int, *, wide: bool) -> bool:
    """udmabuf_create() in drivers/dma-buf/udmabuf.c, in C's own types.

    pglimit is a pgoff_t, computed as (size_limit_mb * 1024 * 1024) >> PAGE_SHIFT
    from an int, or from what a u64 makes of it.
    """
    factor = ctypes.c_int(limit_mb).value * 1024 * 1024
    product = ctypes.c_uint64(factor).value if wide else ctypes.c_int(factor).value
    pglimit = ctypes.c_ulong(product >> 12).value
    return ctypes.c_ulong(size >> 12).value <= pglimit


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(limit=st.one_of(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, 10000)),
       pages=st.integers(1, 1 << 26), wide=st.booleans())  # fmt: skip
@example(limit=64, pages=64 * 256, wide=False)
@example(limit=64, pages=64 * 256 + 1, wide=False)
@example(limit=2047, pages=2047 * 256, wide=True)
@example(limit=2047, pages=2047 * 256 + 1, wide=False)
@example(limit=2048, pages=1 << 26, wide=False)
@example(limit=2048, pages=1 << 26, wide=True)
@example(limit=4096, pages=1, wide=False)
@example(limit=4096, pages=1, wide=True)
def test_the_overflow_of_udmabufs_limit(fake: _Kernel, limit: int, pages: int, wide: bool) -> None:
    fake.limit(limit)
    fake.wide = wide
    size = pages << 12
    refused = _refusal(needs.udmabuf, size)
    assert (refused is None) is _kernel_accepts(limit, size, wide=wide)
    if refused:
        # What it advises must do.
        advised = int(re.findall(r"echo (\d+) >", refused.do)[0])
        fake.limit(advised)
        assert _refusal(needs.udmabuf, size) is None
        assert all(_kernel_accepts(advised, size, wide=wide) for wide in (False, True))


@pytest.mark.parametrize(
    ("limit", "takes", "wide"),
    [
        (64, 64, False), (2047, 2047, False), (2048, None, False), (4095, None, False),
        (4096, 0, False), (4097, 1, False), (64, 64, True), (2048, 2048, True),
        (4096, 4096, True), (4097, 4097, True), (-1, None, True), (-1, None, False),
    ],
)  # fmt: skip
def test_what_a_limit_means(fake: _Kernel, limit: int, takes: int | None, wide: bool) -> None:
    fake.limit(limit)
    fake.wide = wide
    if takes is None:
        assert _refusal(needs.udmabuf, 1 << 45) is None
        return
    if takes:
        assert _refusal(needs.udmabuf, takes * MIB) is None
    error = _refusal(needs.udmabuf, takes * MIB + 4096)
    assert error
    assert f"at most {takes} MiB a buffer (size_limit_mb={limit})" in error.message


def test_a_udmabuf_without_parameters_has_no_limit_to_test(fake: _Kernel) -> None:
    assert _refusal(needs.udmabuf, 1 << 45) is None


def test_missing_devices(fake: _Kernel) -> None:
    fake.device.unlink()
    error = _refusal(needs.udmabuf, 4096)
    assert error
    assert f"no udmabuf: {fake.device} is missing" in error.message
    assert "modprobe udmabuf" in error.do
    error = _refusal(needs.dma_heap, 4096)
    assert error
    assert "no system dma-heap" in error.message


def test_a_device_for_root_only(fake: _Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs.os, "access", lambda *_: False)
    error = _refusal(needs.udmabuf, 4096)
    assert error
    assert error.do == "run as root"


def test_memory(fake: _Kernel) -> None:
    fake.available(1000)
    assert _refusal(needs.memory, (1000 - 64) * MIB) is None
    error = _refusal(needs.memory, (1000 - 64) * MIB + 4096)
    assert error
    assert "936 MiB, 1000 MiB are available" in error.message
    (fake.root / "meminfo").write_text("MemTotal: 1 kB\n")  # before Linux 3.14
    assert _refusal(needs.memory, 1 << 40) is None


def test_needs_are_asked_for_whole_pages(fake: _Kernel) -> None:
    asked: list[int] = []
    strategy = Strategy("acme-bio", "", 1, AnonRead, needs=(asked.append, asked.append))
    strategy.check(1)
    strategy.check(4097)
    assert asked == [4096, 4096, 8192, 8192]


def test_which_strategies_need_which_device(fake: _Kernel) -> None:
    fake.available(1 << 20)
    fake.device.unlink()
    # Its first need is io_uring, which this machine may lack.
    cannot = {s.name: str(e) for s in strategies().values() if (e := _refusal(s.check, MIB))}
    assert {name for name, why in cannot.items() if "udmabuf" in why} == {
        name for name in strategies() if name.startswith("udmabuf-") and "uring" not in name
    }
    # What the module allocates itself needs no heap.
    own = ("dmabuf-insertpage-", "dmabuf-allocread-", "dmabuf-gather-")
    assert {name for name, why in cannot.items() if "dma-heap" in why} == {
        name for name in strategies() if name.startswith("dmabuf-") and not name.startswith(own)
    }


def test_which_strategies_need_the_module(fake: _Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is all else: it is the last thing that they look for."""
    fake.available(1 << 20)
    (fake.root / "heap").touch()
    for limit in ("free", "resv", "nr"):
        (fake.root / f"{limit}_hugepages").write_text("1024\n" if limit != "resv" else "0\n")
    monkeypatch.setattr(native, "_SYSFS", fake.root / "no-such-module")
    errors = {s.name: _refusal(s.check, MIB) for s in OWN}
    missing = {name for name, error in errors.items() if isinstance(error, ModuleMissing)}
    kinds = "insertpage|rwfile|sendfile|splice|allocread|gather|cfr"
    assert missing == {
        name
        for name in errors
        if re.fullmatch(rf"dmabuf-({kinds})-.io|(memfd|udmabuf|udmabuf-memfd)-cfr-.io", name)
    }
    for name in missing:
        error = errors[name]
        assert error
        assert "--load-module" in error.do


def test_a_module_that_may_not_be_opened(fake: _Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(native, "_SYSFS", fake.root)
    monkeypatch.setattr(native, "Device", denied)
    assert isinstance(_refusal(native.module, MIB), Unseen)


def test_which_options_strategies_heed() -> None:
    """What --jobs and the others do is told before a recording; here, by hand, once more."""
    single = {"memfd-rw", "filemap", "udmabuf-uring", "dmabuf-allocread"}
    for strategy in OWN:
        family = strategy.name.rpartition("-")[0]
        heeded = {"block", "jobs"}
        heeded -= {"jobs"} if family in single else set()
        heeded -= {"block"} if family == "filemap" else set()
        heeded |= {"depth"} if family == "udmabuf-uring" else set()
        heeded |= {"gather"} if family == "dmabuf-gather" else set()
        assert set(strategy.options) == heeded, strategy.name


def test_every_strategy_makes_a_load(disk: Path) -> None:
    path = disk / "file"
    path.write_bytes(b"x" * 5000)
    for strategy in strategies().values():
        assert needs.memory in strategy.needs
        source = replace(strategy, flags=0).open(str(path), 1 << 20)
        load = strategy.load(source, Settings(1, 1, lambda work: work))
        assert isinstance(load, Load)
        # What is asked of the machine is what the load will ask for.
        if not isinstance(load, FileMap):
            assert load.size == strategy.room(5000)
        load.close()
        source.close()


@given(free=st.integers(0, 2000), reserved=st.integers(0, 100), pages=st.integers(1, 1 << 20))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_huge_pages(fake: _Kernel, free: int, reserved: int, pages: int) -> None:
    """What --raise-limits sets is enough, and what is reserved for others is not free."""
    reserved = min(reserved, free)
    for name, value in (("free", free), ("resv", reserved), ("nr", free + 7)):
        (fake.root / f"{name}_hugepages").write_text(f"{value}\n")
    size = pages << 12
    wanted = limits.HUGE.wanted(size)
    refused = _refusal(needs.huge_pages, size)
    assert (refused is None) is (wanted is None)
    if wanted is not None:
        more = wanted - (free + 7)
        assert (free + more - reserved) * kernel.HUGE_PAGE >= size
        assert (free + more - 1 - reserved) * kernel.HUGE_PAGE < size


def test_huge_pages_round_a_udmabuf_up(fake: _Kernel) -> None:
    """To what the limit has to take as well."""
    fake.available(1000)
    for name in ("free", "resv", "nr"):
        (fake.root / f"{name}_hugepages").write_text("100\n" if name != "resv" else "0\n")
    size = 64 * MIB + 4321
    fake.limit(65)
    huge = replace(strategies()["udmabuf-hugetlb-dio"])
    assert _refusal(strategies()["udmabuf-dio"].check, size) is None
    error = _refusal(huge.check, size)
    assert error
    assert "at most 65 MiB" in error.message
    assert limits.UDMABUF.wanted(huge.room(size)) == 67
    fake.limit(66)
    assert _refusal(huge.check, size) is None


def test_no_huge_pages(fake: _Kernel) -> None:
    error = _refusal(needs.huge_pages, 4096)
    assert error
    assert "no huge pages" in error.message


def test_the_page_names_every_strategy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
    assert [name for name in strategies() if f"`{name}`" not in page] == []


def test_the_publications_tables_are_whole_and_in_order() -> None:
    """H3's 23 rows in their order, and a strategy for each row of the other tables."""
    sources = [source for strategy in OWN for source in strategy.sources]
    rows = [source.split(" ")[1].rstrip(",") for source in sources if re.match(r"H3 \d", source)]
    assert rows == [str(n) for n in range(1, 23)]
    assert "H3 1, 23" in sources
    for known in (
        "V2 normal", "V2 udmabuf buffer I/O", "V2 udmabuf direct I/O", "V2 sendfile buffer I/O",
        "V2 sendfile direct I/O", "V2 patch 1 direct I/O", "V2 patch 1-4 buffer I/O, 5",
        "V2 patch 1-4 direct I/O, 5", "LL BIO", "LL DIO", "H2 patch 1-2", "H2 dmabuf buffer read",
        "H2 udmabuf buffer read", "H2 udmabuf direct read", "H2 udmabuf buffer sendfile",
        "H2 udmabuf direct sendfile", "CLK section 3", "CLK in-kernel parallel read",
    ):  # fmt: skip
        assert known in sources
