"""Builds what a guest boots: a root image, a kernel and a small initrd.

mmdebstrap makes a tree, pip adds the locked packages for the guest's Python,
``mke2fs -d`` turns the tree into an ext4 image: no loop device, no mount on the
host.  An image lives in the user's cache under a name that hashes everything it
was built from.  It is built in a temporary directory beside it and renamed when
complete, so a half-built image has no name that anybody looks for.

Errors: CannotHere when a tool is missing or the user is not root, DmatraceError
with the tool's last lines when one fails.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.lab import places
from dmatrace.lab.initrd import Archive, load_order
from dmatrace.lab.kernels import Kernel

Progress = Callable[[str], None]

#: Counts changes of this module that change the image.
FORMAT = 1
ROOT_SIZE = "6G"
SITE_PACKAGES = "opt/dmatrace/site-packages"
BUILD_PREFIX = "build-"
EMULATOR_PREFIX = "qemu-"
#: As in guest/dmatrace-guest-exec.
PYCACHE = "/var/cache/dmatrace-pycache"

#: Where the files in dmatrace/lab/guest go.
_GUEST_FILES = {
    "dmatrace-guest-init": ("sbin", 0o755),
    "dmatrace-guest-exec": ("sbin", 0o755),
    "sshd_config": ("etc/dmatrace", 0o644),
    "dmatrace": ("usr/local/bin", 0o755),
}

#: Documentation, translations and the tests of Python packages: a third of the image.
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)

#: Program -> Debian package, for what the lab calls.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


@dataclass(frozen=True)
class Image:
    """A built guest; all paths are in one cache directory."""

    path: Path

    @property
    def root(self) -> Path:
        return self.path / "root.img"

    @property
    def kernel(self) -> Path:
        return self.path / "vmlinuz"

    @property
    def release(self) -> str:
        """What ``uname -r`` prints in the guest."""
        return (self.path / "release").read_text().strip()

    @property
    def initrd(self) -> Path:
        return self.path / "initrd"


def need(*programs: str) -> None:
    """CannotHere with the apt command to type, unless every program is there."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = sorted({TOOLS[name] for name in programs if not shutil.which(name, path=search)})
    if missing:
        raise CannotHere(
            f"the lab needs programs of {', '.join(missing)}",
            do=f"apt-get install {' '.join(missing)}",
        )


def need_builder() -> None:
    """CannotHere unless mmdebstrap can run."""
    need("mmdebstrap", "mke2fs", "unshare")
    if os.geteuid() != 0:
        raise CannotHere("building a guest needs root", do="sudo dmatrace lab build")


def guest_file(name: str) -> bytes:
    return resources.files("dmatrace.lab").joinpath("guest", name).read_bytes()


def key(kernel: Kernel, lock_text: bytes) -> str:
    """Names the image of ``kernel`` after everything it is built from."""
    digest = hashlib.sha256()
    parts = [str(FORMAT), repr(kernel), repr(_DPKG_OPTIONS), ROOT_SIZE]
    for part in [*parts, "initrd-init", *_GUEST_FILES]:
        digest.update(part.encode() + b"\0")
    for name in ("initrd-init", *_GUEST_FILES):
        digest.update(guest_file(name) + b"\0")
    digest.update(lock_text)
    return f"{kernel.name}-{digest.hexdigest()[:16]}"


def _lock_file() -> Path:
    return places.checkout() / "requirements.lock"


def find(kernel: Kernel) -> Image | None:
    """The built image of ``kernel``, if there is one for today's sources."""
    path = places.cache() / key(kernel, _lock_file().read_bytes())
    return Image(path) if path.is_dir() else None


def build(kernel: Kernel, progress: Progress) -> Image:
    """The image of ``kernel``, built unless it is there; other builders are waited for."""
    image = find(kernel)
    if image:
        return image
    need_builder()
    cache = places.cache()
    with places.lock(cache / ".build.lock"):
        image = find(kernel)
        if image:
            return image
        started = time.monotonic()
        final = cache / key(kernel, _lock_file().read_bytes())
        with places.Temporary(cache, BUILD_PREFIX) as work:
            result = work / "image"
            result.mkdir()
            tree = work / "tree"
            bootstrap(kernel, tree, progress)
            assemble(kernel, tree, result, progress)
            # rename is atomic, but a crash of the machine may reorder it with the data.
            os.sync()
            result.rename(final)
        progress(f"guest {kernel.name} is built ({time.monotonic() - started:.0f} s): {final}")
        return Image(final)


def call(what: str, argv: list[str], *, env: dict[str, str] | None = None) -> None:
    """Runs one step of a build; its output is shown only when it fails."""
    run = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        errors="replace",
    )
    if run.returncode:
        tail = "\n".join(run.stdout.splitlines()[-15:])
        raise DmatraceError(f"{what} failed ({argv[0]}: {run.returncode})\n{tail}")


def debian(argv: list[str], scratch: Path) -> None:
    """Runs mmdebstrap, as root, with ``scratch`` for its temporary files.

    In its own mount namespace: it mounts this machine's /dev/shm in the tree, which would stay
    there when it is killed, for whoever removes the tree to empty.
    """
    unshared = ["unshare", "--mount", "--propagation", "private"]
    call(
        "mmdebstrap", [*unshared, "mmdebstrap", "--mode=root", *argv], env={"TMPDIR": str(scratch)}
    )


def bootstrap(kernel: Kernel, tree: Path, progress: Progress) -> None:
    """Debian's packages, into ``tree``."""
    progress(f"guest {kernel.name}: Debian {kernel.suite} by mmdebstrap (about 90 s)")
    argv = ["--variant=apt", "--format=directory"]
    argv += [f"--aptopt={option}" for option in kernel.apt_options]
    argv += [f"--dpkgopt={option}" for option in _DPKG_OPTIONS]
    argv += [f"--include={','.join(kernel.packages)}", kernel.suite, str(tree)]
    # mmdebstrap's own temporary files go where a killed build is cleaned up.
    debian(argv, tree.parent)


def assemble(kernel: Kernel, tree: Path, result: Path, progress: Progress) -> None:
    """Our files and the Python packages into ``tree``; image, kernel and initrd into ``result``."""
    progress(f"guest {kernel.name}: Python packages of requirements.lock")
    install_python_packages(kernel, tree)
    for name, (directory, mode) in _GUEST_FILES.items():
        target = tree / directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(guest_file(name))
        target.chmod(mode)
    passwd = tree / "etc/passwd"
    # Commands over ssh start in root's shell; dash starts faster than bash.
    passwd.write_text(passwd.read_text().replace(":/root:/bin/bash", ":/root:/bin/sh"))
    (tree / "data").mkdir(exist_ok=True)
    (release,) = [path.name for path in (tree / "usr/lib/modules").iterdir()]
    progress(f"guest {kernel.name}: initrd and root image of Linux {release}")
    shutil.copyfile(tree / "boot" / f"vmlinuz-{release}", result / "vmlinuz")
    (result / "initrd").write_bytes(make_initrd(tree, release))
    for leftover in (tree / "boot").glob("initrd.img*"):
        leftover.unlink()
    mke2fs = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", "dmatrace-root"]
    argv = [*mke2fs, "-E", "root_owner=0:0", "-d", str(tree), str(result / "root.img"), ROOT_SIZE]
    call("mke2fs", argv, env={"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"})
    (result / "release").write_text(f"{release}\n")


# pip evaluates the lock's environment markers with the Python it runs in, even
# with --python-version; so the lock is cut down to the guest's Python before.
_FILTER = """
import sys
from pip._vendor.packaging.requirements import Requirement
version = sys.argv[1]
environment = {"python_version": version, "python_full_version": version + ".0"}
for line in sys.stdin:
    text = line.split("#")[0].strip()
    if not text:
        continue
    requirement = Requirement(text)
    if requirement.marker is None or requirement.marker.evaluate(environment):
        requirement.marker = None
        print(requirement)
"""


def locked_for(python: str, lock_text: str) -> str:
    """The lines of the lock that hold for Python ``python``, without their markers."""
    run = subprocess.run(
        [sys.executable, "-c", _FILTER, python],
        input=lock_text,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise DmatraceError(
            f"cannot read requirements.lock with pip\n{run.stderr}", do="install python3-pip"
        )
    return run.stdout


def install_python_packages(kernel: Kernel, tree: Path) -> None:
    """The locked packages, for the guest's Python, below /opt of the tree."""
    site = tree / SITE_PACKAGES
    site.mkdir(parents=True)
    wanted = tree.parent / "requirements.txt"
    wanted.write_text(locked_for(kernel.python, _lock_file().read_text()))
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    argv += ["--root-user-action=ignore", "--disable-pip-version-check"]
    # "pip install" compares Requires-Python with the Python it runs in; the lock has done that.
    argv += ["--ignore-requires-python"]
    argv += ["--only-binary=:all:", "--implementation=cp", f"--python-version={kernel.python}"]
    for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
        argv.append(f"--platform={platform}")
    call("pip", [*argv, "--target", str(site), "--requirement", str(wanted)])
    for unused in [*site.glob("*/tests"), *site.glob("*/*/tests"), site / "pyarrow/include"]:
        shutil.rmtree(unused, ignore_errors=True)
    # Without this every guest would compile pandas under emulation at its first
    # import.  The separate directory (PYTHONPYCACHEPREFIX in the guest) keeps the
    # guest's byte code out of the checkout, and then has to hold Debian's as well.
    argv = ["chroot", str(tree), "env", f"PYTHONPYCACHEPREFIX={PYCACHE}"]
    argv += [f"/usr/bin/python{kernel.python}", "-m", "compileall", "-q", "-j", "0"]
    argv += [f"/{SITE_PACKAGES}", f"/usr/lib/python{kernel.python}", "/usr/lib/python3"]
    # Debian and wheels carry files that are no valid Python on purpose: not an error.
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    local = tree / f"usr/local/lib/python{kernel.python}/dist-packages"
    local.mkdir(parents=True, exist_ok=True)
    (local / "dmatrace-lab.pth").write_text(f"/{SITE_PACKAGES}\n")


#: All modules the guest's start needs, loaded by the initrd, where they lie
#: uncompressed; those built into a kernel are not in modules.dep.
_INITRD_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "crc32c-intel",
    "ext4",
    "qemu_fw_cfg",
    "virtio_net",
    "9pnet_virtio",
    "9p",
)


def make_initrd(tree: Path, release: str) -> bytes:
    """busybox, modules and our first script, as a cpio archive."""
    modules = tree / "usr/lib/modules" / release
    order = load_order((modules / "modules.dep").read_text(), _INITRD_MODULES)
    archive = Archive()
    for directory in ("bin", "proc", "sys", "dev", "root", "modules"):
        archive.directory(directory)
    archive.file("bin/busybox", (tree / "bin/busybox").read_bytes(), 0o755)
    archive.file("init", guest_file("initrd-init"), 0o755)
    names = []
    for path in order:
        data = (modules / path).read_bytes()
        if path.endswith(".xz"):
            data = lzma.decompress(data)
        names.append(Path(path).name.removesuffix(".xz"))
        archive.file(f"modules/{names[-1]}", data, 0o644)
    archive.file("modules/order", "".join(f"{name}\n" for name in names).encode(), 0o644)
    return archive.finish()


def clean(progress: Progress) -> int:
    """Removes every built image and every leftover of a killed run; how many."""
    cache = places.cache()
    removed = 0
    with places.lock(cache / ".build.lock"):
        removed += places.sweep(cache, BUILD_PREFIX)
        removed += places.sweep(cache / "run", "guest-")
        for path in sorted(cache.iterdir()):
            if (path / "root.img").exists() or path.name.startswith(EMULATOR_PREFIX):
                progress(f"removing {path}")
                shutil.rmtree(path)
                removed += 1
        for path in cache.glob("accel-*"):
            path.unlink()
    return removed
