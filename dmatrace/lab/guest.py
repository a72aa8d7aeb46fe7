"""A running guest and the commands in it.

QEMU is a child that the kernel kills with us (PR_SET_PDEATHSIG), the root disk
is written to a snapshot that has no name, and everything else lives in one
locked temporary directory: a killed run leaves nothing that runs or is mounted.
Commands go through one ssh connection to a sshd that only this host reaches,
with keys made for this guest, so a further command costs no new handshake.
"""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any, Self

from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.lab import accel, code, disks, emulator, image, places, qemu
from dmatrace.lab.kernels import Kernel

#: Seconds from QEMU's start to the first command; a loaded machine without KVM takes 30.
BOOT_SECONDS = 240.0
#: Seconds until its kernel has said a first word, which takes 3 to 10.  An emulated
#: one now and then stops before that for good (7.2 did, once in some ten starts):
#: starting it again is all that helps.
FIRST_WORD_SECONDS = 75.0
STARTS = 3
#: ssh's own failures and a command that returns 255 look alike until the guest is asked.
_SSH_FAILED = 255
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")

Stream = int | IO[Any] | None
Progress = Callable[[str], None]


class Guest:
    """One virtual machine; use as a context manager or call ``stop``.

    ``memory`` and ``disk_size`` are in bytes, ``kernel_arguments`` words for the
    kernel's command line.  A ``frozen`` one runs the code as it was when it booted,
    which lies read-only in its checkout and starts faster.  Errors: CannotHere
    when programs are missing, DmatraceError when the guest does not come up or dies.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        memory: int = 6 << 30,
        disk_size: int = 4 << 30,
        cpus: int = 2,
        kernel_arguments: str = "",
        frozen: bool = False,
        progress: Progress = lambda _: None,
    ) -> None:
        self.kernel = kernel
        self.memory = memory
        self.disk_size = disk_size
        self.cpus = cpus
        self.kernel_arguments = kernel_arguments
        self.frozen = frozen
        self.checkout = places.checkout()
        self._progress = progress
        self._jobs = itertools.count(1)
        self._program: list[str] = []
        self._qemu: subprocess.Popen[bytes] | None = None
        self._master: subprocess.Popen[bytes] | None = None
        self._temporary: places.Temporary | None = None

    # -- life ---------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Builds the image if need be, boots it and waits until it takes commands."""
        image.need("qemu-system-x86_64", "ssh", "ssh-keygen", "setpriv", "mke2fs")
        built = image.build(self.kernel, self._progress)
        accelerator = accel.choose(built)
        self._program = emulator.command(accelerator, self._progress)
        started = time.monotonic()
        name = "KVM" if accelerator == accel.KVM else "emulation, no usable KVM"
        self._progress(f"guest {self.kernel.name}: booting ({name})")
        self._temporary = places.Temporary(places.cache() / "run", "guest-")
        try:
            self._make_keys()
            drives = {"data": disks.data_disk(self.directory / "data.img", self.disk_size)}
            if self.frozen:
                drives["code"] = code.disk(self.checkout, self.directory / "code.tar")
            self._start_until_it_speaks(built, accelerator, drives)
            self._connect(time.monotonic() + BOOT_SECONDS)
        except BaseException:
            self.stop()
            raise
        self._progress(f"guest {self.kernel.name}: up in {time.monotonic() - started:.1f} s")

    def _start_until_it_speaks(
        self, built: image.Image, accelerator: Sequence[str], drives: Mapping[str, str]
    ) -> None:
        for last in (False,) * (STARTS - 1) + (True,):
            self._launch(built, accelerator, drives)
            if last or self._speaks(time.monotonic() + FIRST_WORD_SECONDS):
                return
            said = f"its kernel said nothing in {FIRST_WORD_SECONDS:.0f} s; starting it again"
            self._progress(f"guest {self.kernel.name}: {said}")
            if self._qemu is not None:
                self._qemu.kill()
                self._qemu.wait()

    def _speaks(self, deadline: float) -> bool:
        """Whether anything is on its console by then; or QEMU ended, which is no silence."""
        console = self.directory / "console.log"
        while not console.exists() or not console.stat().st_size:
            if self._qemu is None or self._qemu.poll() is not None:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def stop(self) -> None:
        """Ends the guest at once: nothing in it outlives it.  Again is harmless."""
        for process in (self._master, self._qemu):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self._master = self._qemu = None
        if self._temporary is not None:
            self._temporary.remove()
            self._temporary = None

    @property
    def directory(self) -> Path:
        """The temporary directory of this guest, on the host."""
        if self._temporary is None:
            raise DmatraceError("the guest is not running")
        return self._temporary.path

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        if self._qemu is None:
            raise DmatraceError("the guest is not running")
        return self._qemu.pid

    def _make_keys(self) -> None:
        for name in ("user_key", "host_key"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dmatrace-lab", "-f"]
            subprocess.run([*argv, str(self.directory / name)], check=True, capture_output=True)
        public = (self.directory / "host_key.pub").read_text()
        (self.directory / "known_hosts").write_text(f"dmatrace-lab {public}")
        (self.directory / "checkout").write_text(str(self.checkout))

    def _launch(
        self, built: image.Image, accelerator: Sequence[str], drives: Mapping[str, str]
    ) -> None:
        """Starts QEMU on a free port; another program may take the port first, so try again."""
        here = self.directory
        log = here / "qemu.log"
        for _ in range(5):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.port = int(probe.getsockname()[1])
            with log.open("wb") as output:
                self._qemu = subprocess.Popen(
                    [
                        *_DIE_WITH_PARENT,
                        *self._program,
                        *accelerator,
                        *("-smp", str(self.cpus), "-m", f"{self.memory >> 20}M"),
                        *qemu.devices(here, self.checkout, built.root, drives, self.port),
                        *qemu.kernel(built.kernel, built.initrd, self.kernel_arguments),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # TMPDIR: where QEMU keeps the nameless snapshot of the root disk.
                    env={**os.environ, "TMPDIR": str(self.directory)},
                    start_new_session=True,
                )
            try:
                self._qemu.wait(timeout=0.4)
            except subprocess.TimeoutExpired:
                return
            if b"host forwarding" not in log.read_bytes():
                break
        raise DmatraceError(f"QEMU did not start\n{log.read_text(errors='replace').strip()}")

    def _failed(self, what: str) -> DmatraceError:
        lines: list[str] = []
        for name in ("qemu.log", "ssh.log", "console.log"):
            path = self.directory / name
            if path.exists():
                lines += path.read_text(errors="replace").splitlines()[-60:]
        return DmatraceError("\n  ".join([f"{what}; its console said last:", *lines]))

    # -- ssh ----------------------------------------------------------------

    def ssh(self, *options: str) -> list[str]:
        """An ssh command line to the guest; absolute paths, so it works from anywhere."""
        here = self.directory
        settings = {
            "IdentityFile": here / "user_key",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": here / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": "dmatrace-lab",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "ControlPath": here / "ssh",
            "ServerAliveInterval": 0,
            "EscapeChar": "none",
        }
        argv = ["ssh", "-F", "none", "-p", str(self.port), "-l", "root"]
        for name, value in settings.items():
            argv += ["-o", f'{name}="{value}"']
        return [*argv, *options, "127.0.0.1"]

    def _connect(self, deadline: float) -> None:
        """Waits for sshd, then holds the connection all later commands share."""
        # Connecting earlier costs time: QEMU takes the connection and repeats its
        # first packet to the guest at growing intervals.
        console = self.directory / "console.log"
        while not console.exists() or b"dmatrace: up after" not in console.read_bytes():
            self._check_boot(deadline)
            time.sleep(0.05)
        errors = self.directory / "ssh.log"
        while True:
            with errors.open("wb") as output:
                self._master = subprocess.Popen(
                    [*_DIE_WITH_PARENT, *self.ssh("-M", "-N", "-o", "ConnectTimeout=60")],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=output,
                    start_new_session=True,
                )
            while self._master.poll() is None:
                if (self.directory / "ssh").exists():
                    return
                self._check_boot(deadline)
                time.sleep(0.02)
            self._check_boot(deadline)
            time.sleep(0.2)

    def _check_boot(self, deadline: float) -> None:
        if self._qemu is None or self._qemu.poll() is not None:
            raise self._failed("the guest ended while booting")
        if time.monotonic() > deadline:
            raise self._failed(f"the guest did not come up in {BOOT_SECONDS:.0f} s")

    # -- commands -----------------------------------------------------------

    def call(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        tty: bool = False,
    ) -> int:
        """Runs ``argv`` in the guest with our streams (or those given); its exit code.

        While it runs, SIGINT, SIGTERM and SIGHUP to us go to the command's
        process group in the guest; the second one kills it.
        """
        job, command = self._command(argv, cwd, env)
        options = ("-tt",) if tty else ("-T",)
        # Not in our session: the terminal's Ctrl-C must reach us alone.  With a
        # terminal ssh must own it, and Ctrl-C is a character.
        process = subprocess.Popen(
            [*self.ssh(*options), command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=not tty,
        )
        with self._forward_signals(job, forward=not tty):
            try:
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        return self._exit_code(job, code)

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",
        timeout: float | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs ``argv`` in the guest and collects its output.

        With ``check`` a failure is a DmatraceError; after ``timeout`` seconds the
        command is killed in the guest and subprocess.TimeoutExpired raised.
        """
        job, command = self._command(argv, cwd, env)
        try:
            done = subprocess.run(
                [*self.ssh("-T"), command],
                input=input,
                capture_output=True,
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            self.signal(job, signal.SIGKILL)
            raise
        done.returncode = self._exit_code(job, done.returncode)
        if check and done.returncode:
            shown = shlex.join(argv)
            tail = done.stderr.decode(errors="replace")[-4000:]
            raise DmatraceError(f"in the guest, {shown} returned {done.returncode}\n{tail}")
        return done

    def signal(self, job: str, number: int) -> None:
        """Sends a signal to the process group of a job, as a terminal would."""
        # The command may only be starting: its shell writes its group first of all.
        file = f"/run/dmatrace/jobs/{job}/group"
        text = f"for i in 1 2 3 4 5 6 7 8 9; do [ -s {file} ] && break; sleep 0.3; done; "
        text += f'read -r group <{file} && kill -{int(number)} "-$group"'
        self._quietly(text)

    def _command(
        self, argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None
    ) -> tuple[str, str]:
        if self._qemu is None or self._qemu.poll() is not None:
            raise self._failed("the guest is gone")
        job = f"{os.getpid()}-{next(self._jobs)}"
        where = str(self.checkout) if cwd is None else cwd
        # A guest's disk forgets what it compiled; the checkout does not.
        kept = {"DMATRACE_CACHE": str(self.checkout / "build" / "bytecode")}
        variables = [f"{name}={value}" for name, value in {**kept, **(env or {})}.items()]
        words = ["/sbin/dmatrace-guest-exec", job, where, *variables, "--", *argv]
        return job, shlex.join(words)

    def _quietly(self, text: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self.ssh("-T"), text],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            start_new_session=True,
        )

    def _exit_code(self, job: str, code: int) -> int:
        if code != _SSH_FAILED and code >= 0:
            return code
        said = self._quietly(f"cat /run/dmatrace/jobs/{job}/code").stdout.strip()
        if said.isdigit():
            return int(said)
        raise self._failed("the connection to the guest ended before the command did")

    @contextmanager
    def _forward_signals(self, job: str, *, forward: bool) -> Iterator[None]:
        if not forward:
            yield
            return
        seen: list[int] = []

        def handler(number: int, _: FrameType | None) -> None:
            seen.append(number)
            self.signal(job, number if len(seen) == 1 else signal.SIGKILL)

        before = {
            number: signal.signal(number, handler)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)


def directory_inside(checkout: Path) -> str:
    """Where a command starts in the guest: here, if the guest has it; else the checkout."""
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        raise CannotHere("the current directory is gone", do="cd into the checkout") from error
    return str(here if here.is_relative_to(checkout) else checkout)
