"""What a guest's image is named after, and that a half-built one is never used."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmatrace.errors import CannotHere, DmatraceError, UsageError
from dmatrace.lab import guest, image, kernels, places
from dmatrace.lab.initrd import Archive, load_order

KERNEL = kernels.DEFAULT


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(image, "need", lambda *programs: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return places.cache()


def _quiet(text: str) -> None:
    pass


def test_unknown_kernel_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no guest with kernel 2\.4.*6\.12"):
        kernels.find("2.4")
    assert kernels.find(None) is kernels.DEFAULT


def test_the_kernels_that_scripts_may_name() -> None:
    assert {"6.1", "6.12", "7.2"} <= {kernel.name for kernel in kernels.KERNELS}
    assert kernels.DEFAULT.name == "6.12"


@pytest.mark.parametrize("kernel", kernels.KERNELS, ids=lambda kernel: kernel.name)
def test_a_guest_is_made_of_its_own_distribution(
    kernel: kernels.Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(image, "call", lambda what, argv, env: called.append(argv))
    image.bootstrap(kernel, tmp_path / "tree", _quiet)
    (argv,) = called
    # The suite and nothing after it but the tree: no mirror is named.
    assert argv[-2:] == [kernel.suite, str(tmp_path / "tree")]
    validity = '--aptopt=Acquire::Check-Valid-Until "false"'
    assert (validity in argv) == (kernel.suite == "sid")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_what_is_mounted_in_an_abandoned_build_is_not_emptied(tmp_path: Path) -> None:
    """A killed bootstrap of before had this machine's own /dev/shm in it."""
    other, cache = tmp_path / "other", tmp_path / "my cache"
    tree = cache / "build-1" / "tree"
    for made in (other, tree):
        made.mkdir(parents=True)
    (other / "precious").touch()
    (cache / "build-1" / "owner.lock").touch()
    script = (
        "import pathlib, sys; from dmatrace.lab import places;"
        " places.sweep(pathlib.Path(sys.argv[1]), 'build-')"
    )
    sweep = [sys.executable, "-c", script, str(cache)]
    mounting = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"']
    subprocess.run([*mounting, str(other), str(tree), *sweep], check=True)
    assert (other / "precious").exists()
    assert tree.exists()
    subprocess.run(sweep, check=True)
    assert not tree.exists()
    assert (other / "precious").exists()


def test_mmdebstrap_mounts_where_nobody_else_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(image, "call", lambda what, argv, env: called.append(argv))
    image.debian(["sid"], tmp_path)
    assert called[0][:5] == ["unshare", "--mount", "--propagation", "private", "mmdebstrap"]


def test_key_changes_with_whatever_the_image_is_built_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {image.key(KERNEL, b"lock")}
    assert image.key(KERNEL, b"lock") in keys
    keys.add(image.key(KERNEL, b"other lock"))
    keys.add(image.key(dataclasses.replace(KERNEL, packages=("more",)), b"lock"))
    keys.add(image.key(dataclasses.replace(KERNEL, apt_options=("x",)), b"lock"))
    monkeypatch.setattr(image, "guest_file", lambda name: b"changed")
    keys.add(image.key(KERNEL, b"lock"))
    assert len(keys) == 5
    assert all(name.startswith(f"{KERNEL.name}-") for name in keys)


def test_lock_is_cut_to_the_guests_python() -> None:
    text = (
        "# note\na==1 ; python_full_version < '3.12'\na==2 ; python_full_version >= '3.12'\nb==3\n"
    )
    assert image.locked_for("3.11", text).split() == ["a==1", "b==3"]
    assert image.locked_for("3.13", text).split() == ["a==2", "b==3"]


def _assemble(kernel: kernels.Kernel, tree: Path, result: Path, progress: image.Progress) -> None:
    (result / "root.img").touch()


def test_build_is_done_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(image, "bootstrap", lambda *_: calls.append(1))
    monkeypatch.setattr(image, "assemble", _assemble)
    built = image.build(KERNEL, _quiet)
    assert image.build(KERNEL, _quiet) == built
    assert image.find(KERNEL) == built
    assert len(calls) == 1
    assert not list(cache.glob(f"{image.BUILD_PREFIX}*"))
    assert image.clean(_quiet) == 1
    assert image.find(KERNEL) is None


def test_failed_build_leaves_no_image(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kernel: kernels.Kernel, tree: Path, result: Path, progress: image.Progress) -> None:
        (result / "root.img").touch()
        raise DmatraceError("no space left")

    monkeypatch.setattr(image, "bootstrap", lambda *_: None)
    monkeypatch.setattr(image, "assemble", fail)
    with pytest.raises(DmatraceError, match="no space"):
        image.build(KERNEL, _quiet)
    assert image.find(KERNEL) is None
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_killed_build_leaves_no_image_and_is_swept_by_the_next(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(kernel: kernels.Kernel, tree: Path, result: Path, progress: image.Progress) -> None:
        (result / "root.img").touch()
        time.sleep(60)

    monkeypatch.setattr(image, "bootstrap", lambda *_: None)
    monkeypatch.setattr(image, "assemble", hang)
    builder = multiprocessing.get_context("fork").Process(target=image.build, args=(KERNEL, _quiet))
    builder.start()
    while not list(cache.glob(f"{image.BUILD_PREFIX}*/image/root.img")):
        time.sleep(0.01)
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert image.find(KERNEL) is None
    monkeypatch.setattr(image, "assemble", _assemble)
    image.build(KERNEL, _quiet)
    assert not list(cache.glob(f"{image.BUILD_PREFIX}*"))


def test_building_without_root_or_tools_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(CannotHere, match="apt-get install e2fsprogs mmdebstrap"):
        image.build(KERNEL, _quiet)
    monkeypatch.setattr(image, "need", lambda *programs: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotHere, match="needs root"):
        image.build(KERNEL, _quiet)


def test_temporary_directory_in_use_is_not_swept(tmp_path: Path) -> None:
    with places.Temporary(tmp_path, "guest-") as used:
        assert places.sweep(tmp_path, "guest-") == 0
        with places.Temporary(tmp_path, "guest-") as second:
            assert used.exists()
            assert second != used
        assert not second.exists()
    assert not used.exists()


def test_leftover_directory_is_swept(tmp_path: Path) -> None:
    leftover = tmp_path / "guest-dead"
    leftover.mkdir()
    (leftover / "owner.lock").touch()
    (tmp_path / "other").mkdir()
    assert places.sweep(tmp_path, "guest-") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_modules_come_after_what_they_need() -> None:
    modules = "fs/ext4.ko.xz: fs/jbd2.ko.xz lib/crc16.ko.xz\nfs/jbd2.ko.xz: lib/crc16.ko.xz\n"
    modules += "lib/crc16.ko.xz:\ndrivers/virtio-blk.ko.xz:\n"
    order = load_order(modules, ["virtio_pci", "virtio_blk", "ext4"])
    assert order == [
        "drivers/virtio-blk.ko.xz",
        "lib/crc16.ko.xz",
        "fs/jbd2.ko.xz",
        "fs/ext4.ko.xz",
    ]


def test_archive_is_what_cpio_reads() -> None:
    archive = Archive()
    archive.directory("bin")
    archive.file("bin/x", b"12345", 0o755)
    data = archive.finish()
    assert len(data) % 4 == 0
    names, offset = [], 0
    while offset < len(data):
        assert data[offset : offset + 6] == b"070701"
        fields = [int(data[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
        size, length = fields[6], fields[11]
        names.append(data[offset + 110 : offset + 110 + length - 1].decode())
        offset += (110 + length + 3) // 4 * 4 + (size + 3) // 4 * 4
    assert names == ["bin", "bin/x", "TRAILER!!!"]


def test_command_starts_here_only_if_the_guest_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "checkout" / "tests"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert guest.directory_inside(tmp_path / "checkout") == str(inside)
    monkeypatch.chdir(tmp_path)
    assert guest.directory_inside(tmp_path / "checkout") == str(tmp_path / "checkout")
