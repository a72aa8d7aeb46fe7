"""The loader module, loaded for as long as a recording needs it.

The one that is installed (by DKMS) is taken, else one is built of the
checkout's ``native/`` with the running kernel's headers, and kept in
``build/modules`` of the checkout.  Whoever can write there can change this
program as well, so loading it from there trusts nobody new.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.session import preflight
from dmatrace.session.changes import Module, Say
from dmatrace_loaders import native
from dmatrace_loaders.errors import LoadError, ModuleMissing

NAME = "dmatrace_loader"
_CHECKOUT = Path(__file__).resolve().parents[2]
_ERROR = re.compile(r"error[: ]|\*\*\*", re.IGNORECASE)


@contextlib.contextmanager
def loaded(names: Collection[str], size: int, say: Say) -> Iterator[None]:
    """While the body runs, the module is loaded if all that one of ``names`` lacks is that.

    ``size`` is the file's in bytes.  A module that is loaded already is left as it is.
    Raises CannotHere if it cannot be had, built or loaded.
    """
    if not any(isinstance(preflight.why_not(name, size, None), ModuleMissing) for name in names):
        yield
        return
    ours = None if installed() else built(say)
    command = ["insmod", str(ours)] if ours else ["modprobe", "--first-time", NAME]
    module = Module(NAME, command, say)
    try:
        try:
            native.module()
        except LoadError as error:
            do = f"remove {ours}" if ours else f"update the installed one: modinfo {NAME}"
            raise CannotHere(error.message, do=do) from None
        yield
    finally:
        module.unload()


def installed() -> bool:
    """Whether modprobe would find the module for the running kernel."""
    modinfo = _tool("modinfo")
    return modinfo is not None and subprocess.run(
        [modinfo, NAME], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ).returncode == 0  # fmt: skip


def built(say: Say, checkout: Path = _CHECKOUT) -> Path:
    """The module of this checkout for the running kernel, built if it was not before.

    What is built is named after the kernel and the sources, and appears whole
    or not at all.  Raises CannotHere with the cause, a next step and the log's
    place.
    """
    sources = checkout / "native"
    files = sorted(path for path in sources.rglob("*") if path.is_file())
    if not (sources / "Kbuild").is_file():
        raise CannotHere(
            f"the loader module is not installed, and its sources are not in {sources}",
            do="install it with DKMS, or run .venv/bin/dmatrace from a checkout",
        )
    release = platform.release()
    digest = hashlib.sha256(f"{release} {platform.version()}".encode())
    for path in files:
        digest.update(f"\0{path.relative_to(sources)}\0".encode() + path.read_bytes())
    cache = checkout / "build" / "modules"
    kept = cache / f"{release}-{digest.hexdigest()[:16]}.ko"
    if not kept.exists():
        headers = _headers(release)
        with _writing(cache):
            _make_directory(cache)
        # Not below the checkout, which several guests may share and build in at once.
        with _writing(Path("/tmp")):
            place = Path(tempfile.gettempdir())
        with _writing(place), tempfile.TemporaryDirectory(prefix="dmatrace-module-") as temporary:
            say(f"building the loader module for Linux {release} (once; kept in {cache})")
            _make(sources, headers, Path(temporary), kept.with_suffix(".log"))
            with _writing(cache):
                _keep(Path(temporary) / f"{NAME}.ko", kept)
    return kept


def _headers(release: str) -> Path:
    """The build directory of a kernel; CannotHere if it or a tool is missing."""
    headers = Path(f"/lib/modules/{release}/build")
    if not (headers / "Makefile").is_file():
        raise CannotHere(
            f"the loader module cannot be built: {headers} has no kernel headers",
            do=f"apt install linux-headers-{release}",
        )
    for tool in ("make", "gcc"):
        if _tool(tool) is None:
            raise CannotHere(
                f"the loader module cannot be built: there is no {tool}",
                do=f"apt install {tool}",
            )
    return headers


def _make(sources: Path, headers: Path, out: Path, log: Path) -> None:
    command = ["make", f"-j{os.cpu_count()}", "-C", str(sources), f"OUT={out}", f"KDIR={headers}"]
    # Of a make that this runs under, neither flags nor jobs are wanted.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    with log.open("wb") as said:
        # In a session of its own, so that all of it can be ended.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**environment, "LC_ALL": "C"},
            start_new_session=True,
        )
        try:
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if code or not (out / f"{NAME}.ko").is_file():
        lines = log.read_text(errors="replace").splitlines()
        why = next((line for line in lines if _ERROR.search(line)), f"make exits with {code}")
        raise CannotHere(f"the loader module does not build: {why.strip()}", do=f"see {log}")


def _keep(path: Path, kept: Path) -> None:
    """A copy of ``path`` under another name, whole or not at all."""
    descriptor, copy = tempfile.mkstemp(dir=kept.parent, prefix=f".{kept.name}-")
    try:
        with open(descriptor, "wb") as out, path.open("rb") as built:
            shutil.copyfileobj(built, out)
        os.chmod(copy, 0o644)
        os.replace(copy, kept)
    except BaseException:
        os.unlink(copy)
        raise


def _make_directory(path: Path) -> None:
    """``path`` and the directory above it, owned as the checkout is, and not by root alone."""
    owner = path.parents[1].stat()
    for directory in (path.parent, path):
        if not directory.is_dir():
            directory.mkdir()
            os.chown(directory, owner.st_uid, owner.st_gid)


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DmatraceError(
            f"cannot write {path}: {error.strerror or error}", do="make it a writable directory"
        ) from None
