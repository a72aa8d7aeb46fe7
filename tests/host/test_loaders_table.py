"""The table of strategies: names, choice, vendors' additions, and what the machine must have."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dmatrace_loaders import kernel, needs, table
from dmatrace_loaders.anon import AnonRead
from dmatrace_loaders.errors import LoadError
from dmatrace_loaders.load import Load
from dmatrace_loaders.table import Strategy, select, strategies

MIB = 1 << 20

# CPU copies per byte that the publications' data flows predict, per strategy: page cache to
# buffer is one, through a user buffer it is two, direct I/O into the target none.
_COPIES = {
    "dmabuf-bio": 1,
    "dmabuf-dio": 0,  # refused with EFAULT: nothing is copied
    "udmabuf-bio": 1,
    "udmabuf-dio": 0,
    "udmabuf-overlap-bio": 1,
    "udmabuf-overlap-dio": 0,
    "memfd-bio": 1,
    "memfd-dio": 0,
    "memfd-rw-bio": 2,
    "memfd-rw-dio": 1,
    "anon-bio": 1,
    "anon-dio": 0,
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """The table is made once a process; here, once a test."""
    strategies.cache_clear()
    yield
    strategies.cache_clear()


def test_names_are_unique_and_of_the_contracts_form() -> None:
    names = [strategy.name for strategy in table._OWN]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"(dmabuf|udmabuf|memfd|anon|filemap)(-[a-z]+)?-(bio|dio)", name)
        assert strategies()[name].direct is name.endswith("-dio")


def test_predicted_copies() -> None:
    assert {name: _COPIES[name] for name in strategies() if name in _COPIES} == _COPIES
    for name, strategy in strategies().items():
        assert strategy.copies == _COPIES[name], f"{name} has no predicted copies in this test"


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
    names = [strategy.name for strategy in table._OWN]
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
    assert list(strategies()) == [*(strategy.name for strategy in table._OWN), "acme"]
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
        monkeypatch.setattr(needs, "_PARAMETERS", root)
        monkeypatch.setattr(needs, "_MEMINFO", root / "meminfo")

    def limit(self, mib: int) -> None:
        (self.root / "size_limit_mb").write_text(f"{mib}\n")

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


def _kernel_accepts(limit_mb: int, size: int) -> bool:
    """udmabuf_create() in drivers/dma-buf/udmabuf.c, in C's own types.

    pglimit is a pgoff_t, computed as (size_limit_mb * 1024 * 1024) >> PAGE_SHIFT
    from an int.
    """
    product = ctypes.c_int(ctypes.c_int(limit_mb).value * 1024 * 1024).value
    pglimit = ctypes.c_ulong(product >> 12).value
    return ctypes.c_ulong(size >> 12).value <= pglimit


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(limit=st.one_of(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, 10000)),
       pages=st.integers(1, 1 << 26))  # fmt: skip
@example(limit=64, pages=64 * 256)
@example(limit=64, pages=64 * 256 + 1)
@example(limit=2047, pages=2047 * 256)
@example(limit=2047, pages=2047 * 256 + 1)
@example(limit=2048, pages=1 << 26)
@example(limit=4096, pages=1)
def test_the_overflow_of_udmabufs_limit(fake: _Kernel, limit: int, pages: int) -> None:
    fake.limit(limit)
    size = pages << 12
    refused = _refusal(needs.udmabuf, size)
    assert (refused is None) is _kernel_accepts(limit, size)
    if refused:
        # What it advises must do.
        advised = int(re.findall(r"echo (\d+) >", refused.do)[0])
        fake.limit(advised)
        assert _refusal(needs.udmabuf, size) is None
        assert _kernel_accepts(advised, size)


@pytest.mark.parametrize(
    ("limit", "takes"), [(64, 64), (2047, 2047), (2048, None), (4095, None), (4096, 0), (4097, 1)]
)
def test_what_a_limit_means(fake: _Kernel, limit: int, takes: int | None) -> None:
    fake.limit(limit)
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
    cannot = {s.name: str(e) for s in strategies().values() if (e := _refusal(s.check, MIB))}
    assert {name for name, why in cannot.items() if "udmabuf" in why} == {
        name for name in strategies() if name.startswith("udmabuf-")
    }
    assert {name for name, why in cannot.items() if "dma-heap" in why} == {
        name for name in strategies() if name.startswith("dmabuf-")
    }


def test_every_strategy_has_a_load_of_its_own() -> None:
    for strategy in strategies().values():
        assert issubclass(strategy.load, Load)
        assert not strategy.load.__abstractmethods__
        assert needs.memory in strategy.needs


def test_the_page_names_every_strategy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "record.md").read_text()
    assert [name for name in strategies() if f"`{name}`" not in page] == []
