"""The command behind `make runtimes`: one file system image with real runtimes in it.

    python -m tests.guest.runtimes.image IMAGE

Two trees, each with its own libraries, so that it does not matter which Debian
the guest is: ``llama`` is sid's llama.cpp, ``python`` Debian 13's Python with the wheels of
wheels.lock.  Both have strace.  Debian's packages are checked by apt's
signatures and are as new as the archive; wheels are those of the lock, by their hashes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dmatrace.lab import image, kernels, places
from tests.guest.runtimes.table import SITE, TREES

LOCK = Path(__file__).with_name("wheels.lock")
SIZE = "768M"
PYTHON = "3.13"
_OLD_INDEX = next(kernel.apt_options for kernel in kernels.KERNELS if kernel.suite == "sid")
_UNUSED = ("doc", "locale", "man", "info", "lintian", "bug")


def tree(name: str, where: Path) -> None:
    """Debian's packages of one tree, not configured: programs find their libraries all the same."""
    suite, packages = TREES[name]
    argv = ["mmdebstrap", "--mode=root", "--variant=extract", "--format=directory"]
    argv += [f"--aptopt={option}" for option in (_OLD_INDEX if suite == "sid" else ())]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in _UNUSED]
    argv += [f"--include={','.join(packages)}", suite, str(where)]
    image.call("mmdebstrap", argv, env={"TMPDIR": str(where.parent)})
    for link in ("bin", "sbin", "lib", "lib64"):  # base-files makes them when it is configured
        if not (where / link).exists() and (where / "usr" / link).exists():
            (where / link).symlink_to(f"usr/{link}")
    for mount in ("proc", "dev", "data", "tmp"):
        (where / mount).mkdir(exist_ok=True)


def wheels(site: Path) -> None:
    """The wheels of the lock, each by its hash."""
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    argv += ["--root-user-action=ignore", "--no-deps", "--no-compile", "--require-hashes"]
    argv += ["--ignore-requires-python", "--only-binary=:all:", "--implementation=cp"]
    argv += [f"--python-version={PYTHON}"]
    for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
        argv.append(f"--platform={platform}")
    image.call("pip", [*argv, "--target", str(site), "--requirement", str(LOCK)])


def main() -> None:
    """Build it, unless something fails: then there is no image."""
    out = Path(sys.argv[1]).absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    image.need_builder()
    with places.Temporary(out.parent, "runtimes-") as work:
        root = work / "root"
        root.mkdir()
        for name in TREES:
            print(f"runtimes: {name}", file=sys.stderr)
            tree(name, root / name)
        print("runtimes: wheels", file=sys.stderr)
        wheels(root / "python" / SITE.lstrip("/"))
        made = work / "image"
        argv = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", "runtimes"]
        image.call("mke2fs", [*argv, "-E", "root_owner=0:0", "-d", str(root), str(made), SIZE])
        made.rename(out)


if __name__ == "__main__":
    main()
